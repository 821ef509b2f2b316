"""Figure 3: how much the masks of two methods agree, over sparsities and over layers.

Tables: `overlap` (chance is the IoU of two independent masks of the same sizes) and `published` (presets separated by
`;`; the mean over layers where `layer` is empty). Settings: `pair`, the two methods of the heat map.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pruning.core import names
from pruning.report.figures import style

PAIR = ["first", "second"]
CHANCE = (0, (2, 2))


def draw(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Figure:
    overlap, published = tables["overlap"], tables["published"]
    overlap = overlap.assign(sparsity=names.percent(overlap["sparsity"]))
    pairs = list(overlap[PAIR].drop_duplicates().itertuples(index=False, name=None))
    looks = dict(zip(pairs, style.styles([name(pair) for pair in pairs]).values(), strict=True))
    made, panels = style.figure(overlap, settings, 2.6)
    chosen, shown = tuple(settings["pair"]), {}
    for block, part in panels:
        left, right = part.subplots(1, 2, gridspec_kw={"width_ratios": [1.15, 1]})
        rows = block.rows(overlap)
        _curves(left, rows, looks)
        shown |= _published(left, published[published["model"] == block.model], pairs)
        _layers(right, rows[(rows["first"] == chosen[0]) & (rows["second"] == chosen[1])], name(chosen))
    handles = [Line2D([], [], label=name(pair), **look.line) for pair, look in looks.items()]
    handles.append(Line2D([], [], color=style.GREY, linestyle=CHANCE, linewidth=0.9, label="chance, in its colour"))
    style.legend(made, [*handles, *shown.values()])
    return made


def name(pair: tuple[str, str]) -> str:
    return " / ".join(map(style.label, pair))


def _curves(axis: Axes, rows: pd.DataFrame, looks: Mapping[tuple, style.Style]) -> None:
    for pair, look in looks.items():
        of_pair = rows[(rows["first"] == pair[0]) & (rows["second"] == pair[1])]
        mean = of_pair.groupby("sparsity")[["iou", "chance"]].mean()
        axis.plot(mean.index, mean["iou"], **look.line)
        axis.plot(mean.index, mean["chance"], color=look.color, linestyle=CHANCE, linewidth=0.9)
    axis.set(xlabel="sparsity (%)", ylabel="IoU, mean of layers", ylim=(0, 1.02), title="(a) Agreement of masks")


def _published(axis: Axes, published: pd.DataFrame, pairs: list[tuple]) -> dict[tuple, Line2D]:
    """Draw published means over layers that may stand for a pair drawn, whichever method comes first.
    One published pair can stand for several, so it takes no pair's colour. Returns what the legend needs."""
    handles = {}
    means = published[published["layer"].isna()]
    for (pair, rows), marker in zip(means.groupby(PAIR, sort=False), "osD^v", strict=False):
        a, b = (set(rows[f"{which}_presets"].iloc[0].split(";")) for which in PAIR)
        if any((x in a and y in b) or (y in a and x in b) for x, y in pairs):
            look = {"color": style.INK, "marker": marker, "mfc": "none", "markersize": 7.5, "linestyle": "none"}
            axis.plot(names.percent(rows["sparsity"]), rows["value"], **look)
            handles[pair] = Line2D([], [], label=f"published: {name(pair)}", **look)
    return handles


def _layers(axis: Axes, rows: pd.DataFrame, pair: str) -> None:
    values = rows.assign(value=rows["iou"] - rows["chance"])
    grid = values.pivot(index="layer", columns="sparsity", values="value").sort_index(ascending=False)
    style.heatmap(axis, grid, "IoU minus chance")
    axis.set_xticks(*style.spaced(list(grid.columns), 12))
    places, texts = style.spaced(list(grid.index[::-1]), 12)
    axis.set_yticks(len(grid) - places, texts)
    axis.set(xlabel="sparsity (%)", ylabel="layer", title=f"(b) {pair}, layer by layer")
