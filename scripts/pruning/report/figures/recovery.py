"""Loss curves of LoRA recovery, one panel per tuning, one row of panels per model, calibration and sparsity.

Table: `log` (loss in nats per token). The running median of 1/20 of the steps is drawn over the faint raw losses.
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


def draw(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Figure:
    log, rows_of = tables["log"], {}
    for block in style.blocks(log, settings):
        rows = block.rows(log)
        for sparsity, group in rows.groupby(names.percent(rows["sparsity"])):
            rows_of[f"{block.title}: recovery at {sparsity:g}% sparsity"] = group
    made, parts = style.stacked(list(rows_of), 2.3)
    drawn = {}
    for rows, part in zip(rows_of.values(), parts, strict=True):
        tunings = list(rows["tuning"].unique())
        axes = part.subplots(1, len(tunings), sharey=True, squeeze=False)[0]
        for axis, tuning in zip(axes, tunings, strict=True):
            methods = style.methods_of(rows[rows["tuning"] == tuning], settings)
            _losses(axis, methods, settings)
            axis.set_title(f"Tuned on {tuning}")
            drawn |= methods
        axes[0].set_ylabel("loss (nats a token)")
    faint = Line2D([], [], color=style.GREY, linewidth=0.4, alpha=0.6, label="single steps; bold: running median")
    style.legend(made, [*style.method_handles(drawn, settings), faint])
    return made


def _losses(axis: Axes, methods: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> None:
    looks = style.looks_of(settings)
    for i, (method, rows) in enumerate(methods.items()):
        rows = rows.sort_values("step")
        axis.plot(rows["step"], rows["loss"], color=looks[method].color, linewidth=0.4, alpha=0.35)
        smooth = rows["loss"].rolling(max(1, len(rows) // 20), center=True, min_periods=1).median()
        gap = max(1, len(rows) // 6)
        start = i * gap // len(methods)
        axis.plot(rows["step"], smooth, markevery=(start, gap), **looks[method].line)
    if any((rows["loss"] > 0).all() and np.ptp(np.log(rows["loss"])) > 3 for rows in methods.values()):
        axis.set_yscale("log")
    axis.set_xlabel("step")
