"""Where each method collapses: points of halfway loss, with intervals and tests. The numbers: scripts/collapse.py.

Settings: `title` of the task, `methods`, `reference`, `sparsities`, `confidence`, `resamples`. Files: `collapse`,
`accuracy`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pruning.analysis.collapse import larger_p
from pruning.core import artifacts
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block, Cell, comparisons, percent


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    points, accuracies = (artifacts.read_csv(files.one(name)) for name in ("collapse", "accuracy"))
    return printing.page("collapse", "Where each method collapses", points, layout(points, accuracies, settings))


def layout(points: pd.DataFrame, accuracies: pd.DataFrame, settings: Mapping[str, Any]) -> list[Block]:
    """The rows of collapse.csv and accuracy.csv as tables, one a model and calibration; settings as of the stage."""
    sparsities = [f"{sparsity}%" for sparsity in sorted(settings["sparsities"])]
    chance, level = f"{100 * settings['chance']:g}", f"{100 * settings['confidence']:g}"
    reference, alpha = settings["reference"], 1 - settings["confidence"]
    blocks = []
    for (model, calib), of in points.groupby(["model", "calib"], sort=False):
        dense = Cell(*percent(of["dense"].iloc[0]), "")
        rows = [("dense", [Cell("–", ""), Cell("", ""), Cell("", ""), *[dense] * len(sparsities)])]
        measured = accuracies[(accuracies["model"] == model) & (accuracies["calib"] == calib)].set_index("method")
        orders = {"later": [], "earlier": [], "n.s.": []}
        for point in of.itertuples():
            label, tests = f"`{point.method}`", [Cell("", ""), Cell("", "")]
            if point.method == reference:
                label += " (reference)"
            elif not np.isnan(point.p_value):
                p = larger_p(point)
                order = ("later" if _is_later(point, of, reference) else "earlier") if p <= alpha else "n.s."
                orders[order].append(label)
                tests = [_difference(point, order), Cell(_p(p), "")]
            values = percent(*measured.loc[point.method, "value"].iloc[1:])
            rows.append((label, [_cell(point, sparsities[-1]), *tests, *(Cell(value, "") for value in values)]))
        found = [f"{order} than the reference, {', '.join(named)}" for order, named in orders.items() if named]
        found = "; ".join(found).replace("n.s. than the reference", "order not significant (n.s.)")
        notes = [
            f"Collapse point: the sparsity in per cent at which accuracy has fallen halfway from dense to chance "
            f"({chance}%), from a logistic curve fitted by maximum likelihood, with a {level}% percentile bootstrap "
            f"interval over the test items. `> {sparsities[-1]}`: not reached within the sparsities measured.",
            *_test_notes(of, reference, alpha, found),
            f"Other columns: accuracy in per cent on {settings['title']} (`{settings['metric']}`, "
            f"n = {of['n'].iloc[0]:,} items, the same for all) at that sparsity, the share of FFN neurons removed; "
            "intervals are in accuracy.csv. dense is the unpruned model: one measurement, repeated.",
            "A point between measured sparsities, and more so before the first, leans on the curve's form. Where the "
            "whole fall lies between two of them, it is put midway and its interval reaches from one to the other.",
        ]
        title = f"`{model}`, calibrated on `{calib}`: {settings['title']}"
        columns = ["Collapse point", f"minus `{reference}`'s", "p", *sparsities]
        blocks.append(Block(f"{model}-{calib}", title, [""], columns, rows, notes))
    return blocks


def _test_notes(of: pd.DataFrame, reference: str, alpha: float, found: str) -> list[str]:
    """How the order of the collapse points was tested, and which orders are significant."""
    if of["p_value"].isna().all():
        return []
    tests = (
        f"Only orders against `{reference}` are tested: paired bootstrap over the same items, Holm over the "
        f"{comparisons(of['p_value'])} of this table, at p = {alpha:.3g}"
    )
    if (templates := of["clusters"].iloc[0]) is not pd.NA:
        tests += (
            f". Items share {templates} templates: the bootstrap speaks of these stories with other numbers, a "
            f"jackknife t-test over templates (Holm over its own {comparisons(of['p_cluster'])}) of other "
            "stories of the same kind; p is the larger of the two"
        )
    return [f"{tests}. Accuracy collapses {found}. The order of two other methods is not tested."]


def _is_later(point: Any, of: pd.DataFrame, reference: str) -> bool:
    """Whether a method's point is after the reference's; one beyond the last sparsity (NaN) is after any other."""
    (other,) = of.loc[of["method"] == reference, "collapse"].fillna(np.inf)
    return (np.inf if np.isnan(point.collapse) else point.collapse) > other


def _difference(point: Any, order: str) -> Cell:
    ends = point.delta, point.delta_low, point.delta_high
    value, low, high = ("–" if np.isnan(end) else f"{100 * end:+.1f}".replace("-", "−") for end in ends)
    interval = "" if np.isnan(ends[1:]).all() else f"[{low}, {high}]"
    return Cell(value, interval, marks=("n.s.",) if order == "n.s." else ())


def _p(p: float) -> str:
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cell(point: Any, last: str) -> Cell:
    """A collapse point with its interval; what lies beyond the last measured sparsity as `> 70%`."""
    if point.dense <= point.chance:
        return Cell("none", "")
    ends = point.collapse, point.ci_low, point.ci_high
    value, low, high = (f"> {last}" if np.isnan(end) else percent(end)[0] for end in ends)
    return Cell(value, "" if np.isnan(point.ci_low) else f"[{low}, {high}]")
