"""Figure 1: singular value spectra of the activations that each method keeps.

Tables, of one layer and sparsity: `spectrum` (width_rule own|equal; energy: the cumulative share of the squared
singular values) and `summary`. At equal width all methods keep the same number of neurons, so that rank does not merely
count them; `dense` is as many neurons chosen at random.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pruning.core import names
from pruning.report.figures import style

RANDOM = "dense, random neurons"
LEAST_VALUE, LEAST_ENERGY = 1e-5, 1e-4  # of the first and of the total: below these there is little but rounding


def draw(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Figure:
    spectrum = tables["spectrum"][tables["spectrum"]["width_rule"] == "equal"]
    made, panels = style.figure(spectrum, settings, style.row_height(len(settings["methods"]) + 1))
    drawn = {}
    for block, part in panels:
        lines = block.rows(spectrum)
        axes = part.subplots(1, 3, gridspec_kw={"width_ratios": [1, 1, 0.9]})
        methods = style.methods_of(lines, settings)
        _spectra(axes[0], axes[1], methods, settings)
        _ranks(axes[2], style.methods_of(block.rows(tables["summary"]), settings), settings)
        drawn |= methods
        one = lines.iloc[0]
        style.headline(part, f"{block.title}: layer {one['layer']}, {names.percent(one['sparsity']):g}% sparsity")
    handles = style.method_handles(drawn, settings)
    for handle in handles:
        if handle.get_label() == "dense":
            handle.set_label(RANDOM)
    look = {"color": style.GREY, "linestyle": "none"}
    handles += [
        Line2D([], [], marker="o", label="equal width", **look),
        Line2D([], [], marker="s", markerfacecolor="none", markersize=7, label="own width", **look),
    ]
    style.legend(made, handles)
    return made


def _spectra(values: Axes, rest: Axes, methods: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> None:
    looks = style.looks_of(settings)
    for i, (method, rows) in enumerate(methods.items()):
        rows = rows.sort_values("index")
        index, size = rows["index"].to_numpy(), rows["singular_value"].to_numpy()
        if size[0] <= 0:  # neurons that are never active have no spectrum
            continue
        size, left = size / size[0], 1 - rows["energy"].to_numpy()
        # Markers at other places on each curve, so that curves on top of each other still show both.
        shift = (i % 4) / 4
        shown = size >= LEAST_VALUE
        marks = np.searchsorted(index[shown], index[shown][-1] ** ((np.arange(6) + shift) / 6))
        values.plot(index[shown], size[shown], markevery=np.unique(marks), **looks[method].line)
        shown = left >= LEAST_ENERGY
        if shown.any():
            marks = np.searchsorted(index[shown], index[shown][-1] * (np.arange(5) + shift) / 5)
            rest.plot(index[shown], 100 * left[shown], markevery=np.unique(marks), **looks[method].line)
    style.log(values, "xy")
    values.set(xlabel="index", ylabel="singular value / first", title="(a) Spectrum, equal width")
    style.log(rest, "y")
    rest.set(xlabel="leading directions", ylabel="energy outside them (%)", title="(b) Energy left out")


def _ranks(axis: Axes, methods: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> None:
    looks = style.looks_of(settings)
    texts = ["dense, random" if method == "dense" else style.label(method) for method in methods]
    for y, (method, rows) in zip(style.categories(axis, texts), methods.items(), strict=True):
        rank = rows.set_index("width_rule")["effective_rank"]
        axis.plot(rank.to_numpy(), [y] * len(rank), color=looks[method].color, linewidth=0.8, marker="")
        look = {"color": looks[method].color, "linestyle": "none"}
        for rule, mark in (("equal", {"marker": "o"}), ("own", {"marker": "s", "mfc": "none", "markersize": 7})):
            axis.plot(rank[rule], y, **mark, **look)
    axis.set_xlim(0, 1.08 * pd.concat(methods.values())["effective_rank"].max())
    axis.set(xlabel="effective rank (directions)", title="(c) Effective rank")
