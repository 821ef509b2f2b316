"""Rows of analysis/comparison.py in the paper's layout: one block a model and calibration, wide or long."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pruning.analysis.comparison import (
    DENSE,
    across,
    groups,
    measures,
    pruned_variants,
    reference_of,
    task_of,
    tuning_of,
)
from pruning.core.errors import InputError
from pruning.report.notes import asked, legend, published_notes, rounding, widths
from pruning.report.printing import Block, Cell, percent, plain


def layout(frame: pd.DataFrame, published: pd.DataFrame, settings: Mapping[str, Any]) -> list[Block]:
    """Rows of `table_rows` (of any number of models) in the paper's layout, one block a model and calibration, with
    the notes that explain it; models with several calibrations get one more, the spread over them.

    `wide` (Table 1): rows are methods, column groups sparsities, columns tasks. `long` (Tables 6 and 7): rows are
    methods at a sparsity."""
    _check_layout(settings)
    blocks = []
    for model, entry in settings["models"].items():
        of_model = frame[frame["model"] == model]
        dense, pruned = of_model[of_model["method"] == DENSE[0]], of_model[of_model["method"] != DENSE[0]]
        for calib in entry["calibrations"]:
            own = pruned[pruned["calib"] == calib]
            family = pruned if across(settings) else own
            blocks.append(_block(model, calib, dense, own, family, published, settings))
        if len(entry["calibrations"]) > 1:
            blocks.append(_spread_block(model, dense, pruned, settings))
    return blocks


def _check_layout(settings: Mapping[str, Any]) -> None:
    if settings["layout"] not in ("wide", "long"):
        raise InputError(f"{settings['name']}.layout: {settings['layout']!r} is neither 'wide' nor 'long'")


def _block(
    model: str,
    calib: str,
    dense: pd.DataFrame,
    pruned: pd.DataFrame,
    family: pd.DataFrame,
    published: pd.DataFrame,
    settings: Mapping[str, Any],
) -> Block:
    notes = legend(dense, pruned, family, settings) + widths(pruned) + published_notes(pruned, published, settings)
    if note := settings["models"][model]["note"]:
        notes.insert(0, f"`{model}`: {note.rstrip('.')}.")
    notes += asked(settings) + rounding(dense, settings["models"][model].get("dtype"))
    tunings = {entry["tuning"]: entry["note"] for entry in settings["tasks"].values() if entry.get("note")}
    notes += [f"`{tuning}`: {note.rstrip('.')}." for tuning, note in tunings.items()]
    title = f"`{model}` after FFN neurons were removed by each method, calibrated on `{calib}`"
    reference = settings["reference"].removeprefix(f"{calib}/")
    return _arranged(f"{model}-{calib}", title, _cells(dense, pruned, settings), notes, reference, settings)


def _cells(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> dict[tuple, Cell]:
    """(method, sparsity, column, metric) -> printed result; the dense model's under sparsity 0."""
    of = {
        (r["method"], r["sparsity"], r["task"], _text(r["tuning"]), r["metric"]): r for r in pruned.to_dict("records")
    }
    of_dense = {(r["task"], r["metric"]): r for r in dense.to_dict("records")}
    cells = {}
    for column, metric, _ in measures(settings):
        task, tuning = task_of(column, settings), _text(tuning_of(column, settings))
        cells[(*DENSE, column, metric)] = _cell(of_dense[task, metric], column, settings)
        for variant in pruned_variants(settings):
            cells[(*variant, column, metric)] = _cell(of[(*variant, task, tuning, metric)], column, settings)
    return cells


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arranged(
    name: str, title: str, cells: Mapping[tuple, Cell], notes: list[str], reference: str, settings: Mapping[str, Any]
) -> Block:
    """Cells of `_cells` as a block, wide or long; the dense model's stand in every column group, or on top."""
    keys = [measure[:2] for measure in measures(settings)]
    label = {m: f"`{m}` (reference)" if m == reference else f"`{m}`" for m in settings["methods"]}
    compared = groups(settings)
    if settings.get("at"):
        label = {method: f"{text}, {settings['at'][method]}%" for method, text in label.items()}
    dense = [cells[(*DENSE, *measure)] for measure in keys if (*DENSE, *measure) in cells]
    if settings["layout"] == "wide":
        heads = list(compared)
        rows = [("dense", dense * len(heads))] if dense else []
        rows += [(label[m], [cells[m, own[m], *key] for own in compared.values() for key in keys]) for m in label]
    else:
        heads = [""]
        rows = [("dense", dense)] if dense else []
        rows += [
            (label[m] if settings.get("at") else f"{label[m]}, {head}", [cells[m, own[m], *key] for key in keys])
            for head, own in compared.items()
            for m in label
        ]
    return Block(name, title, heads, [_title(*key, settings) for key in keys], rows, notes)


def _spread_block(model: str, dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> Block:
    """Mean, standard deviation and range over the calibrations: what the choice of calibration text brings."""
    calibrations = settings["models"][model]["calibrations"]
    keys = ["method", "sparsity", "task", "tuning", "metric"]
    spread = pruned.assign(tuning=pruned["tuning"].map(_text)).groupby(keys)["value"].agg(["mean", "std", "min", "max"])
    cells = {}
    for column, metric, kind in measures(settings):
        show = percent if kind == "accuracy" else plain
        for variant in pruned_variants(settings):
            key = (*variant, task_of(column, settings), _text(tuning_of(column, settings)), metric)
            mean, deviation, low, high = show(*spread.loc[key])
            cells[(*variant, column, metric)] = Cell(f"{mean} ± {deviation}", f"[{low}, {high}]")
    named = ", ".join(f"`{name}` (seed {entry['seed']})" for name, entry in calibrations.items())
    notes = [
        f"Mean ± standard deviation over {len(calibrations)} calibrations, the smallest and largest value in brackets: "
        f"{named}. The test items are the same, so this is the spread that the choice of calibration text brings."
    ]
    title = f"`{model}`: spread over calibrations"
    return _arranged(f"{model}-spread", title, cells, notes, settings["reference"], settings)


def _title(column: str, metric: str, settings: Mapping[str, Any]) -> str:
    entry = settings["tasks"][column]
    notes = [metric] if len(entry["metrics"]) > 1 else []
    notes += [f"tuned on {entry['tuning']}"] if entry.get("tuning") else []
    return f"{entry['title']} ({'; '.join(notes)})" if notes else entry["title"]


def _cell(row: Mapping[str, Any], column: str, settings: Mapping[str, Any]) -> Cell:
    accuracy = settings["tasks"][column]["kind"] == "accuracy"
    show, unit = (percent, 100) if accuracy else (plain, 1)
    marks = ["†"] if row["near_best"] else []
    compared = row["method"] != DENSE[0] and reference_of(row["calib"], row["method"], column, settings)
    if compared and not significant(row, settings):
        marks.append("n.s.")
    value, low, high = show(row["value"], row["ci_low"], row["ci_high"])
    published = ""
    if not math.isnan(row["published"]):
        difference = round(unit * (row["value"] - row["published"]), 1) + 0.0  # + 0.0 makes -0.0 a plain zero
        published = f"paper {unit * row['published']:.2f}, {difference:+.1f}".replace("-", "−")
    return Cell(value, f"[{low}, {high}]", row["best"], tuple(marks), published)


def significant(row: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether every test of a comparison finds a difference. An undefined p (a single window) is no evidence."""
    tests = ["p_holm", "p_cluster_holm"] if pd.notna(row.get("clusters")) else ["p_holm"]
    return all(row[p] <= 1 - settings["confidence"] for p in tests)
