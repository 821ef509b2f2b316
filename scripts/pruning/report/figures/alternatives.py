"""Prune, quantise, or take the smaller model: quality against bytes, prefill and decoding time of models as GGUF files.

Table: `rows` (of report/tables/alternatives.py at equal speed). Settings: `task`, `tuning`, `title` and `kind` of the
column that is drawn.

Every model has a line, every GGUF type a marker.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pruning.report.figures import style

PANELS = {
    "size": ("Size", "GGUF file (MB)", lambda rows: rows["bytes"] / 1e6),
    "prefill": ("Prefill", "time (% of dense in F16)", lambda rows: 100 / rows["prefill_speedup"]),
    "decode": ("Decoding", "time per token (% of dense in F16)", lambda rows: 100 / rows["decode_speedup"]),
}
MARKERS = "os^vDPXpdh<>"


def draw(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Figure:
    column = settings["task"] + (f"@{settings['tuning']}" if settings["tuning"] else "")
    rows = tables["rows"][tables["rows"]["column"] == column]
    rows = rows.assign(series=[series(row) for row in rows.to_dict("records")], type=rows["type"].fillna("f16"))
    looks = {name: replace(look, marker=None) for name, look in style.styles(dict.fromkeys(rows["series"])).items()}
    types = dict.fromkeys(rows.sort_values("bytes", ascending=False)["type"])  # the largest first
    marks = dict(zip(types, cycle(MARKERS), strict=False))
    made, panels = style.figure(rows, settings, 3.1)
    unit = 100 if settings["kind"] == "accuracy" else 1
    for block, part in panels:
        own = block.rows(rows).drop_duplicates(["series", "type"])
        axes = part.subplots(1, len(PANELS), sharey=True)
        for axis, (title, label, of) in zip(axes, PANELS.values(), strict=True):
            _panel(axis, own.assign(x=of(own)), looks, marks, unit)
            axis.set(title=title, xlabel=label)
            style.log(axis, "xy" if settings["kind"] == "perplexity" else "x")
        axes[0].set_ylabel(style.quality(settings))
    marked = [style.Style(kind, style.INK, mark, "none") for kind, mark in marks.items()]
    style.legend(made, [look.handle for look in (*looks.values(), *marked)])
    return made


def series(row: Mapping[str, Any]) -> str:
    """One model, whatever its type."""
    if row["method"] == "dense":
        return "dense" if row["of"] == row["model"] else row["of"]
    recovered = f", recovered ({row['tuning']})" if isinstance(row["tuning"], str) else ""
    return f"{style.label(row['method'])}, {100 * row['sparsity']:.0f}%{recovered}"


def _panel(
    axis: Axes, rows: pd.DataFrame, looks: Mapping[str, style.Style], marks: Mapping[str, str], unit: float
) -> None:
    """Draw every model's types, joined in the order of their cost, each with its interval."""
    for name, own in rows.sort_values("x", kind="stable").groupby("series", sort=False):
        look = looks[name]
        ends = (unit * own[key] for key in ("value", "ci_low", "ci_high"))
        style.interval(axis, own["x"], *ends, linestyle="none", color=look.color, alpha=0.3)
        axis.plot(own["x"], unit * own["value"], **look.line)
        for x, value, kind in zip(own["x"], unit * own["value"], own["type"], strict=True):
            axis.plot(x, value, **replace(look, marker=marks[kind]).points)
