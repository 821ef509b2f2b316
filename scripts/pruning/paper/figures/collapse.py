"""Accuracy against sparsity, and the sparsity at which each method's accuracy is halfway from dense to chance.

Tables: `accuracy` (fractions; sparsity 0 is the dense model) and `collapse` (collapse, its interval and width are
sparsities). The fitted curve is that of paper/collapse.py. Where a point, or the end of its interval, is beyond the
sparsities measured (censored, NaN), an arrow says so. Settings: `titles`, task -> text, and, optional, `background`,
methods in grey.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pruning.core import names
from pruning.paper.collapse import accuracy as fitted
from pruning.report.figures import style


def draw(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Figure:
    accuracy, points = style.with_dense(tables["accuracy"]), tables["collapse"]
    dots = 0.17 * len(settings["methods"]) + 0.5
    made, panels = style.figure(points, settings, 2.5 + dots)
    drawn = {}
    for block, part in panels:
        rows, fits = block.rows(accuracy), block.rows(points)
        upper, lower = part.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.9, dots]})
        drawn |= _curves(upper, rows, fits, settings)
        _points(lower, fits, rows["sparsity"].max(), settings)
        lower.set_title("Collapse point: halfway from dense to chance", fontsize=8)
        upper.set(ylabel="accuracy (%)", title=settings["titles"][fits["task"].iloc[0]])
    handles = style.method_handles(drawn, settings)
    for handle in handles:
        handle.set_linestyle("none")  # methods are points; every curve is a fit
    for text, line in (("logistic fit", "-"), ("chance", ":")):
        handles.append(Line2D([], [], color=style.GREY, linestyle=line, linewidth=0.8, label=text))
    style.legend(made, handles)
    return made


def _curves(axis: Axes, rows: pd.DataFrame, fits: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    looks, methods = style.looks_of(settings), style.methods_of(rows, settings)
    at = np.linspace(0, rows["sparsity"].max(), 200)
    for method, of_method in methods.items():
        of_method = of_method.sort_values("sparsity")
        share = 100 * of_method[["value", "ci_low", "ci_high"]]
        style.interval(axis, of_method["sparsity"], *share.to_numpy().T, **looks[method].points)
        for fit in fits[(fits["method"] == method) & fits["width"].notna()].itertuples():
            curve = fitted(names.share(at), fit.collapse, fit.width, fit.dense, fit.chance)
            axis.plot(at, 100 * curve, color=looks[method].color, linewidth=0.7)
    axis.axhline(100 * fits["chance"].iloc[0], color=style.GREY, linestyle=":", linewidth=0.8)
    axis.set_ylim(bottom=0)
    return methods


def _points(axis: Axes, fits: pd.DataFrame, beyond: float, settings: Mapping[str, Any]) -> None:
    """Collapse points with intervals; `beyond` is the largest sparsity measured, in per cent."""
    looks, methods = style.looks_of(settings), style.methods_of(fits, settings)
    for y, (method, fit) in zip(style.categories(axis, list(map(style.label, methods))), methods.items(), strict=True):
        look = looks[method].points
        row = fit.iloc[0]
        value, low, high = (100 * row[name] for name in ("collapse", "ci_low", "ci_high"))
        if not (row["censored"] or np.isfinite(value)):
            axis.text(0, y, "dense model not above chance", va="center")
            continue
        value = beyond if row["censored"] else value
        if not np.isfinite(high):
            high = beyond
            arrow = {"arrowstyle": "->", "color": look["color"], "shrinkA": 0, "shrinkB": 0}
            axis.annotate("", (beyond + 9, y), (beyond, y), arrowprops=arrow)
        style.interval(axis, [value], [y], [low if np.isfinite(low) else value], [high], vertical=False, **look)
    axis.set(xlabel="sparsity (%)", xlim=(-3, 103), xticks=range(0, 101, 20))
