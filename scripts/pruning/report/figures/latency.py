"""What pruning buys: accuracy against measured prefill time, and measured speed-up against what FLOPs allow.

Tables: `latency` (shape, variant, device, prefill_speedup, prefill_speedup_low, prefill_speedup_high, flop_ratio: FLOPs
of the dense model by those of the variant; `variant` is `dense`, `uniform/PERCENT` or `CALIB/METHOD/PERCENT`, and then
`shape` names the model) and `accuracy` (sparsity 0 is the dense model). Settings: `titles`, task -> text.
"""

from collections.abc import Mapping
from string import ascii_lowercase
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pruning.report.figures import style

SPEEDUP = ["prefill_speedup", "prefill_speedup_low", "prefill_speedup_high"]
JOIN = ["model", "calib", "method", "sparsity"]


def draw(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Figure:
    latency, accuracy = tables["latency"], style.with_dense(tables["accuracy"])
    joined = _variants(latency).merge(accuracy, on=JOIN)
    blocks = style.blocks(joined, settings)
    panels = len(blocks) + 1
    columns = min(panels, 3)
    made, parts = style.stacked([""], 2.7 * -(-panels // columns))
    grid = parts[0].subplots(-(-panels // columns), columns, squeeze=False).ravel()
    drawn, letters = {}, iter(ascii_lowercase)
    for axis, block in zip(grid, blocks, strict=False):
        dense = accuracy[(accuracy["model"] == block.model) & (accuracy["method"] == "dense")]
        drawn |= _trade(axis, block.rows(joined), dense, settings)
        axis.set_title(f"({next(letters)}) {block.model}, {block.calib}")
    grid[0].set_ylabel(f"accuracy on {settings['titles'][accuracy['task'].iloc[0]]} (%)")
    handles = style.method_handles(["dense", *drawn], settings)
    handles += _bound(grid[len(blocks)], latency[latency["variant"].str.startswith("uniform/")])
    grid[len(blocks)].set_title(f"({next(letters)}) Speed-up, uniform widths")
    for axis in grid[panels:]:
        axis.set_axis_off()
    style.legend(made, handles)
    return made


def _variants(latency: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of pruned models, with calib, method and sparsity (per cent) from their variant's name."""
    rows = latency[latency["variant"].str.count("/") == 2]
    parts = rows["variant"].str.split("/", expand=True)
    own = {"calib": parts[0], "method": parts[1], "sparsity": parts[2].astype(float)}
    return rows.assign(model=rows["shape"], **own)


def _trade(axis: Axes, rows: pd.DataFrame, dense: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    looks = style.looks_of(settings)
    methods = style.methods_of(rows, settings)
    for method, of_method in methods.items():
        of_method = of_method.sort_values("sparsity")
        relative = [100 / of_method[name] for name in SPEEDUP]
        share = [100 * of_method[name] for name in ("value", "ci_low", "ci_high")]
        look = {**looks[method].line, "linewidth": 0.9}
        axis.plot(relative[0], share[0], **look)
        bars = {"linestyle": "none", "color": look["color"], "alpha": 0.55}
        style.interval(axis, relative[0], *share, **bars)
        style.interval(axis, relative[0], share[0], relative[2], relative[1], vertical=False, **bars)
    share = 100 * dense[["value", "ci_low", "ci_high"]].iloc[:1]
    style.interval(axis, [100], *share.to_numpy().T, **looks["dense"].points)
    axis.axhline(share["value"].iloc[0], color=style.GREY, linewidth=0.6, linestyle=":")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("prefill time (% of dense)")
    return methods


def _bound(axis: Axes, uniform: pd.DataFrame) -> list[Line2D]:
    """Measured speed-up of each shape against the ratio of FLOPs, which bounds it where compute does."""
    several = uniform["device"].nunique() > 1
    names = uniform["shape"] + (" on " + uniform["device"] if several else "") + ", uniform"
    looks = style.styles(names.unique())
    most = 1.05 * uniform[["flop_ratio", "prefill_speedup_high"]].max().max()
    axis.plot([1, most], [1, most], color=style.INK, linewidth=0.9)
    handles = [Line2D([], [], color=style.INK, linewidth=0.9, label="as FLOPs fall")]
    for name, look in looks.items():
        rows = uniform[names == name].sort_values("flop_ratio")
        style.interval(axis, rows["flop_ratio"], *(rows[name] for name in SPEEDUP), **look.line)
        handles.append(look.handle)
    axis.set(xlabel="dense / pruned FLOPs", ylabel="prefill speed-up (×)", xlim=(1, most), ylim=(0.9, most))
    return handles
