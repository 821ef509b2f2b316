"""Where each method collapses: points of halfway loss, with intervals and tests (paper/collapse.py).

Settings: `title` of the task, `methods`, `reference`, `sparsities`, `confidence`, `resamples`. Files: `collapse`,
`accuracy`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pruning.analysis.comparison import deciding_p
from pruning.core import artifacts, significance
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block, Cell, percent, signed

LATER, EARLIER = "later than the reference", "earlier than the reference"
NEITHER = "order not significant (n.s.)"


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    points, accuracies = (artifacts.read_csv(files.one(name)) for name in ("collapse", "accuracy"))
    blocks = []
    for (model, calib), of in points.groupby(["model", "calib"], sort=False):
        measured = accuracies[(accuracies["model"] == model) & (accuracies["calib"] == calib)]
        blocks.append(block(model, calib, of, measured, settings))
    return printing.Page("collapse", "Where each method collapses", points, blocks)


def block(model: str, calib: str, points: pd.DataFrame, accuracies: pd.DataFrame, settings: Mapping[str, Any]) -> Block:
    """The rows of collapse.csv and accuracy.csv of one model and calibration."""
    sparsities = [f"{sparsity}%" for sparsity in sorted(settings["sparsities"])]
    reference, alpha, last = settings["reference"], 1 - settings["confidence"], sparsities[-1]
    accuracies = accuracies.set_index("method")["value"]
    lines = [("dense", ["–", "", "", *percent(points["dense"].iloc[0]) * len(sparsities)])]
    orders = {LATER: [], EARLIER: [], NEITHER: []}
    # A point beyond the last sparsity (NaN) is after any other.
    (other,) = points.loc[points["method"] == reference, "collapse"].fillna(np.inf)
    for point in points.to_dict("records"):
        label, tests = f"`{point['method']}`", ["", ""]
        if point["method"] == reference:
            label += " (reference)"
        elif not np.isnan(point["p_value"]):
            p = deciding_p(point)
            later = (np.inf if np.isnan(point["collapse"]) else point["collapse"]) > other
            orders[NEITHER if not p <= alpha else LATER if later else EARLIER].append(label)
            tests = [_difference(point, () if p <= alpha else ("n.s.",)), significance.shown(p)]
        values = percent(*accuracies.loc[point["method"]].iloc[1:])
        lines.append((label, [_point(point, last), *tests, *values]))
    level = f"{100 * settings['confidence']:g}%"
    notes = [
        f"Collapse point: the sparsity in per cent at which accuracy has fallen halfway from dense to chance "
        f"({100 * settings['chance']:g}%), from a logistic curve fitted by maximum likelihood, with a {level} "
        f"percentile bootstrap interval over the test items. `> {last}`: not reached within the sparsities measured.",
        *_test_notes(points, reference, alpha, orders),
        f"Other columns: accuracy in per cent on {settings['title']} (`{settings['metric']}`, "
        f"n = {points['n'].iloc[0]:,} items, the same for all) at that sparsity, the share of FFN neurons removed; "
        "intervals are in accuracy.csv.",
        "A point between measured sparsities, and more so before the first, leans on the curve's form. Where the "
        "whole fall lies between two of them, it is put midway and its interval reaches from one to the other.",
    ]
    title = f"`{model}`, calibrated on `{calib}`: {settings['title']}"
    columns = ["Collapse point", f"minus `{reference}`'s", "p", *sparsities]
    return Block(f"{model}-{calib}", title, columns, lines, notes)


def _point(point: Mapping[str, Any], last: str) -> Cell:
    """A collapse point with its interval; what lies beyond the last measured sparsity as `> 70%`."""
    if point["dense"] <= point["chance"]:
        return Cell("none")
    ends = (point[name] for name in ("collapse", "ci_low", "ci_high"))
    value, low, high = (f"> {last}" if np.isnan(end) else percent(end)[0] for end in ends)
    return Cell(value, "" if np.isnan(point["ci_low"]) else f"[{low}, {high}]")


def _difference(point: Mapping[str, Any], marks: tuple[str, ...]) -> Cell:
    """A point minus the reference's, in points of sparsity."""
    value, low, high = (signed(100 * point[name]) for name in ("delta", "delta_low", "delta_high"))
    return Cell(value, "" if low == high == "–" else f"[{low}, {high}]", marks=marks)


def _test_notes(points: pd.DataFrame, reference: str, alpha: float, orders: Mapping[str, list[str]]) -> list[str]:
    """How the order of the collapse points was tested, and which orders are significant."""
    if points["p_value"].isna().all():
        return []
    tests = (
        f"Only orders against `{reference}` are tested: paired bootstrap over the same items, Holm over the "
        f"{printing.comparisons(points['p_value'].count())} of this table, at p = {alpha:.3g}"
    )
    if pd.notna(templates := points["clusters"].iloc[0]):
        tests += (
            f". Items share {templates:.0f} templates: the bootstrap speaks of these with other instances, a "
            f"jackknife t-test over templates (Holm over its own {printing.comparisons(points['p_cluster'].count())}) "
            "of other templates of the same kind; p is the larger of the two"
        )
    found = "; ".join(f"{order}, {', '.join(named)}" for order, named in orders.items() if named)
    return [f"{tests}. Accuracy collapses {found}. The order of two other methods is not tested."]
