"""Figure 2: large activations against large gradients, which of them methods keep, and on which tokens they arise.

Tables, of one sparsity: `neurons` (one row per neuron; region trap|spike|rest), `regions` and `classes`, whose shares
are fractions. The layer shown is the one that `classes` is of.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from pruning.core import names
from pruning.report.figures import style

REGIONS = {"trap": ("#332288", "v"), "spike": ("#D98200", "^")}
MEASURES = {
    "act_sq": ("activation energy", "#0072B2", "s"),
    "energy_abs": ("kinetic utility (energy)", "#D55E00", "*"),
    "ce_abs": ("Taylor (CE)", "#E69F00", "v"),
}


def draw(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Figure:
    classes = tables["classes"]
    entries = max(len(settings["methods"]), classes["token_class"].nunique())
    made, panels = style.figure(classes, settings, style.row_height(entries) + 0.75)
    for block, part in panels:
        axes = part.subplots(1, 3, gridspec_kw={"width_ratios": [1.15, 1, 1]})
        layer = next(value for value in block.rows(classes)["layer"].astype(str) if value != "all")
        rows = {name: block.rows(table) for name, table in tables.items()}
        rows = {name: own[own["layer"].astype(str) == layer] for name, own in rows.items()}
        _scatter(axes[0], rows["neurons"], rows["regions"], layer)
        _kept(axes[1], rows["regions"], settings)
        _classes(axes[2], rows["classes"][rows["classes"]["group"] == "all"])
    return made


def _scatter(axis: Axes, neurons: pd.DataFrame, regions: pd.DataFrame, layer: Any) -> None:
    neurons = neurons[(neurons["activation"] > 0) & (neurons["gradient"] > 0)]  # the axes are logarithmic
    size = 2.0 if len(neurons) > 3000 else 5.0
    look = {"linewidths": 0, "rasterized": True}
    rest = neurons[neurons["region"] == "rest"]
    axis.scatter(rest["activation"], rest["gradient"], s=size, color="#BDBDBD", alpha=0.7, **look)
    style.log(axis, "xy")
    axis.set(xlabel="activation (rms)", ylabel="kinetic gradient (rms)")
    handles = []
    for region, (color, marker) in REGIONS.items():
        points = neurons[neurons["region"] == region]
        axis.scatter(points["activation"], points["gradient"], s=2.5 * size, color=color, marker=marker, **look)
        count = regions[regions["region"] == region]
        text = f"{region}: {count['neurons'].iloc[0]:,.0f} neurons, by chance {count['expected'].iloc[0]:,.0f}"
        handles.append(Line2D([], [], color=color, marker=marker, linestyle="none", label=text))
    limits = axis.get_xlim(), axis.get_ylim()
    for region, (color, _) in REGIONS.items():
        _shade(axis, neurons[neurons["region"] == region], region, color, limits)
    axis.set(xlim=limits[0], ylim=limits[1], title=f"(a) Neurons of layer {layer}")
    _legend_below(axis, handles)


def _shade(axis: Axes, points: pd.DataFrame, region: str, color: str, limits: tuple) -> None:
    """The corner that a region takes: large activations and small gradients (trap), or the other way round."""
    if points.empty:
        return
    (left, right), (bottom, top) = limits
    if region == "trap":
        left, top = points["activation"].min(), points["gradient"].max()
    else:
        right, bottom = points["activation"].max(), points["gradient"].min()
    box = Rectangle((left, bottom), right - left, top - bottom, facecolor=color, alpha=0.13, edgecolor=color, zorder=0)
    axis.add_patch(box)


def _kept(axis: Axes, rows: pd.DataFrame, settings: Mapping[str, Any]) -> None:
    methods = style.methods_of(rows, settings)
    positions = style.categories(axis, [style.label(method) for method in methods])
    for y, of_method in zip(positions, methods.values(), strict=True):
        overall = 100 * of_method["layer_kept_share"].iloc[0]
        axis.plot([overall] * 2, [y - 0.35, y + 0.35], color=style.INK, linewidth=1.6)
        for shift, (region, (color, marker)) in zip((-0.16, 0.16), REGIONS.items(), strict=True):
            [row] = of_method.loc[of_method["region"] == region, ["kept_share", "ci_low", "ci_high"]].to_numpy()
            value, low, high = 100 * row
            look = {"color": color, "marker": marker, "linestyle": "none"}
            style.interval(axis, [value], [y + shift], [low], [high], vertical=False, **look)
    title = f"(b) Kept at {names.percent(rows['sparsity']).iloc[0]:g}% sparsity"
    axis.set(xlabel="kept (%)", xlim=(-4, 104), xticks=range(0, 101, 25), title=title)
    handles = [Line2D([], [], color=c, marker=m, linestyle="none", label=r) for r, (c, m) in REGIONS.items()]
    tick = Line2D([], [], color=style.INK, marker="|", markersize=9, markeredgewidth=1.6, linestyle="none")
    tick.set_label("all of the layer")
    _legend_below(axis, [*handles, tick])


def _classes(axis: Axes, rows: pd.DataFrame) -> None:
    classes = list(rows["token_class"].unique())
    positions = style.categories(axis, classes)
    tokens = rows.drop_duplicates("token_class").set_index("token_class")["token_share"].loc[classes]
    axis.barh(positions, 100 * tokens, height=0.62, color=style.LIGHT, zorder=1, label="tokens themselves")
    for (measure, (text, color, marker)), shift in zip(MEASURES.items(), (-0.2, 0, 0.2), strict=True):
        share = rows[rows["measure"] == measure].set_index("token_class")["share"].reindex(classes)
        size = 7 if marker == "*" else 4.5
        axis.plot(100 * share, positions + shift, color=color, marker=marker, ms=size, linestyle="none", label=text)
    axis.set_xlim(left=0)
    axis.set(xlabel="share of the total (%)", title="(c) By class of token")
    _legend_below(axis, axis.get_legend_handles_labels()[0])


def _legend_below(axis: Axes, handles: list) -> None:
    axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.24), handlelength=1.2, borderaxespad=0)
