"""Draw the pictures of models' pages and of the README from the CSV files here: python docs/figures/draw.py [folder].

Each line of such a file stands on a page of docs/results/ as well; `tests/unit/test_docs.py` compares them.
"""

import sys
from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pruning.report.figures.style import GREY, INK, figure_style

HERE = Path(__file__).parent
LABELS = {
    "first-page": "GSM8K problems solved (%), 95% interval, n = 600",
    "qwen2_5-coder-0_5b": "right answers (%), 95% interval, n = 400",
    "qwen2_5-coder-1_5b": "right answers (%), 95% interval, n = 400",
    "tiny-mixture": "problems solved (%), 95% interval, n = 400",
    "smollm2-135m": "perplexity of GSM8K's solutions, 95% interval",
    "qwen2_5-coder-0_5b-bytes": "right answers (%), 95% interval, n = 400",
    "qwen2_5-coder-1_5b-bytes": "right answers (%), 95% interval, n = 400",
    "smollm2-135m-bytes": "bits per byte of GSM8K, 95% interval",
}
"""File -> label of its axis. A file with a column `mb` is drawn against it."""
SERIES = [(INK, "-"), ("#0072B2", "--"), ("#D55E00", "-."), ("#009E73", ":"), ("#CC79A7", "-"), (GREY, "-")]
"""Colour and line of each model."""
MARKERS = "osv^"
"""Of each type."""
LOOKS = {
    "dense": {"color": INK, "marker": "D"},
    "reconstructed": {"color": "#0072B2", "marker": "o", "markersize": 7},
    "paper": {"color": GREY, "marker": "s", "markerfacecolor": "white"},
}


def draw(rows: pd.DataFrame, label: str) -> Figure:
    """Return one line per model, its value with its interval, the first one on top."""
    made = Figure(figsize=(4.6, 0.9 + 0.34 * len(rows)), layout="constrained")
    axis = made.subplots()
    for place, row in enumerate(rows.to_dict("records")):
        value = float(row["value"])
        ends = [[value - row["low"]], [row["high"] - value]]
        axis.errorbar([value], [-place], xerr=ends, capsize=2.5, linestyle="none", **LOOKS[row["kind"]])
        axis.annotate(row["value"], (value, -place), (0, 5), textcoords="offset points", ha="center")
    axis.set_yticks([-place for place in range(len(rows))], rows["model"])
    axis.set_ylim(-len(rows) + 0.4, 0.8)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(label)
    return made


def against_bytes(rows: pd.DataFrame, label: str) -> Figure:
    """Return a line per model, a marker per type of its file, each value with its interval."""
    made = Figure(figsize=(4.6, 3.7), layout="constrained")
    axis = made.subplots()
    marks = dict(zip(rows["type"].unique(), MARKERS, strict=False))
    handles = [Line2D([], [], color=INK, marker=mark, linestyle="none", label=kind) for kind, mark in marks.items()]
    for (model, own), (color, line) in zip(rows.groupby("model", sort=False), cycle(SERIES), strict=False):
        values = own["value"].astype(float)
        ends = [values - own["low"], own["high"] - values]
        axis.errorbar(own["mb"], values, yerr=ends, capsize=2.5, linestyle="none", color=color, alpha=0.4)
        axis.plot(own["mb"], values, color=color, linestyle=line)
        for mb, value, kind in zip(own["mb"], values, own["type"], strict=True):
            axis.plot(mb, value, color=color, marker=marks[kind], markersize=6)
        if len(own) > 1:
            handles.append(Line2D([], [], color=color, linestyle=line, label=model))
        else:  # named beside it, where the plot has room
            side = 1 if mb < rows["mb"].quantile(0.4) else -1
            axis.annotate(
                model,
                (mb, value),
                (6 * side, 0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
            )
    axis.set_xlabel("file, MB")
    axis.set_ylabel(label)
    axis.margins(x=0.06)
    made.legend(handles=handles, loc="outside lower center", ncols=3)
    return made


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    with figure_style():
        for name, label in LABELS.items():
            rows = pd.read_csv(HERE / f"{name}.csv", dtype={"value": str})
            (against_bytes if "mb" in rows else draw)(rows, label).savefig(
                folder / f"{name}.svg", metadata={"Date": None}
            )
