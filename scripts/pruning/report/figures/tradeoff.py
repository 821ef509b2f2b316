"""Quality against size, and against prefill and decoding time, of the same models, with the front that none beats.

Table: `tradeoff` (model, calib, method, sparsity, tuning, value, ci_low, ci_high, bytes, prefill_speedup and
decode_speedup with `_low` and `_high`, size_front, prefill_front, decode_front: `front`, `near` or `behind`). Settings:
`title` of the task, `kind` (`accuracy` or `perplexity`).
"""

from collections.abc import Mapping
from string import ascii_lowercase
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pruning.report.figures import style

FRONTS = [f"{cost}_front" for cost in ("size", "prefill", "decode")]
LABELS = {
    "size": "weights (% of dense)",
    "prefill": "prefill time (% of dense)",
    "decode": "time per token (% of dense)",
}
TITLES = {"size": "Size", "prefill": "Prefill", "decode": "Decoding"}
RIDGE = "ridge_"
RING = {"linestyle": "none", "marker": "o", "markersize": 9, "markerfacecolor": "none"}


def draw(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Figure:
    models = tables["tradeoff"]
    made, panels = style.figure(models, settings, 3.1)
    drawn = dict.fromkeys(base_method(method) for block, _ in panels for method in block.rows(models)["method"])
    looks = style.styles(dict.fromkeys(["dense", *map(base_method, settings["methods"]), *drawn]))
    for block, part in panels:
        rows = block.rows(models).sort_values("bytes", kind="stable")
        best = rows[(rows[FRONTS] == "front").any(axis=1) & (rows["method"] != "dense")]
        numbers = {index: str(number) for number, index in enumerate(best.index, 1)}
        axes = part.subplots(1, len(TITLES), sharey=True)
        for axis, cost, letter in zip(axes, TITLES, ascii_lowercase, strict=False):
            _panel(axis, rows, cost, numbers, looks, settings["kind"] == "accuracy")
            axis.set_title(f"({letter}) {TITLES[cost]}")
        axes[0].set_ylabel(style.quality(settings))
        if numbers:
            named = "; ".join(f"{number} {_name(best.loc[index])}" for index, number in numbers.items())
            part.supxlabel(fill(f"On a front: {named}", 115), x=0.01, ha="left", fontsize=8)
    handles = [Line2D([], [], label=style.label(method), **looks[method].points) for method in drawn]
    style.legend(made, [*handles, *_kind_handles(models)])
    return made


def base_method(method: str) -> str:
    """Whose colour and marker a method has: `wanda` of `ridge_wanda`."""
    return method.removeprefix(RIDGE)


def costs(rows: pd.DataFrame, cost: str) -> pd.DataFrame:
    """Per cent of the dense model's, with the interval's ends: `value`, `low`, `high`."""
    if cost == "size":
        [dense] = rows.loc[rows["method"] == "dense", "bytes"]
        return pd.DataFrame(dict.fromkeys(("value", "low", "high"), 100 * rows["bytes"] / dense))
    ends = {"value": "", "low": "_high", "high": "_low"}
    return pd.DataFrame({name: 100 / rows[f"{cost}_speedup{end}"] for name, end in ends.items()})


def _panel(
    axis: Axes,
    rows: pd.DataFrame,
    cost: str,
    numbers: Mapping[int, str],
    looks: Mapping[str, style.Style],
    accuracy: bool,
) -> None:
    """Draw all models at one of their costs, and the front. numbers: of the rows of models on a front."""
    unit, of = 100 if accuracy else 1, costs(rows, cost)
    for index, row in rows.iterrows():
        x, y = of.loc[index], unit * row[["value", "ci_low", "ci_high"]].astype(float)
        look, first = looks[base_method(row["method"])], row[f"{cost}_front"] == "front"
        alpha, order = (1, 4) if first else (0.4, 2)
        bars = {"linestyle": "none", "color": look.color, "alpha": 0.9 if first else 0.2, "zorder": order - 1}
        style.interval(axis, [x["value"]], *([end] for end in y), **bars)
        if cost != "size":
            style.interval(axis, [x["value"]], [y["value"]], [x["low"]], [x["high"]], vertical=False, **bars)
        edge = {"markeredgecolor": style.INK} if row["method"].startswith(RIDGE) else {}
        axis.plot([x["value"]], [y["value"]], alpha=alpha, zorder=order, **look.points, **edge)
        if isinstance(row["tuning"], str):
            axis.plot([x["value"]], [y["value"]], alpha=alpha, zorder=order, **RING, markeredgecolor=look.color)
    best = rows[f"{cost}_front"] == "front"
    line = pd.DataFrame({"x": of.loc[best, "value"], "y": unit * rows.loc[best, "value"]}).sort_values("x")
    axis.plot(line["x"], line["y"], drawstyle="steps-post", color=style.INK, linewidth=0.8, zorder=1)
    for index in line.index.intersection(list(numbers)):
        axis.annotate(numbers[index], line.loc[index], xytext=(-5, 3), textcoords="offset points", ha="right")
    dense = unit * rows.loc[rows["method"] == "dense", "value"].iloc[0]
    axis.axhline(dense, color=style.GREY, linewidth=0.6, linestyle=":", zorder=0)
    if accuracy:
        axis.set_ylim(bottom=0)
    else:
        style.log(axis, "y")
    least, most = of["value"].min(), of["value"].max()
    margin = 0.1 * (most - least)
    axis.set(xlabel=LABELS[cost], xlim=(least - margin, most + margin))  # a clock's worst round does not rule the axis


def _name(row: pd.Series) -> str:
    method = row["method"]
    how = [", ridge"] * method.startswith(RIDGE) + [", recovered"] * isinstance(row["tuning"], str)
    return f"{style.label(base_method(method))}{''.join(how)}, {100 * row['sparsity']:.0f}%"


def _kind_handles(models: pd.DataFrame) -> list[Line2D]:
    """Of what is drawn beside the models as they were pruned."""
    handles = [Line2D([], [], color=style.INK, linewidth=0.8, label="front")]
    if models["method"].str.startswith(RIDGE).any():
        edge = {"linestyle": "none", "marker": "o", "color": style.LIGHT, "markeredgecolor": style.INK}
        handles.append(Line2D([], [], label="dark edge: with ridge", **edge))
    if models["tuning"].notna().any():
        handles.append(Line2D([], [], label="ring: recovered (LoRA)", **RING, markeredgecolor=style.GREY))
    return handles
