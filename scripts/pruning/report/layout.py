"""Rows of analysis/comparison.py in the paper's layout: one block per model and calibration, wide or long."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pruning.analysis.comparison import deciding_p
from pruning.report import notes
from pruning.report.printing import Block, Cell, difference, estimate, percent, shown


def layout(frame: pd.DataFrame, published: pd.DataFrame, settings: Mapping[str, Any]) -> list[Block]:
    """Rows of `table_rows` (of any number of models) in the paper's layout, one block per model and calibration, with
    the notes that explain it; models with several calibrations get one more, the spread over them.

    `wide` (Table 1): rows are methods, column groups sparsities, columns tasks. `long` (Tables 6 and 7): rows are
    methods at a sparsity."""
    frame = frame.assign(cell=[_cell(row, settings["confidence"]) for row in frame.to_dict("records")])
    blocks = []
    for model, of_model in frame.groupby("model", sort=False):
        dense, pruned = of_model[of_model["calib"].isna()], of_model[of_model["calib"].notna()]
        for calib, own in pruned.groupby("calib", sort=False):
            title = f"`{model}` pruned by each method, calibrated on `{calib}`"
            reference = settings["reference"].removeprefix(f"{calib}/")
            explained = notes.notes(model, dense, own, published, settings)
            blocks.append(_arranged(f"{model}-{calib}", title, own, dense, explained, reference, settings))
        if pruned["calib"].nunique() > 1:
            blocks.append(_spread(model, pruned, settings))
    return blocks


def _cell(row: Mapping[str, Any], confidence: float) -> Cell:
    """A printed result with its marks, and the published value where there is one."""
    marks = ["†"] if row["near_best"] else []
    if pd.notna(row["reference"]) and not deciding_p(row) <= 1 - confidence:
        marks.append("n.s.")
    if (cut_off := percent(row["cut_off"])[0]) not in ("–", "0.0"):
        marks.append(f"{cut_off}% cut off")
    published, unit = row["published"], 100 if row["kind"] == "accuracy" else 1
    beside = "" if pd.isna(published) else difference(unit * published, unit * (row["value"] - published))
    return estimate(row["kind"], row["value"], row["ci_low"], row["ci_high"], row["best"], tuple(marks), beside)


def _arranged(
    name: str,
    title: str,
    rows: pd.DataFrame,
    dense: pd.DataFrame,
    explained: list[str],
    reference: str,
    settings: Mapping[str, Any],
) -> Block:
    """One calibration's rows as a block; the dense model's cells stand in every column group, or on top."""
    keys = list(rows[["column", "metric"]].drop_duplicates().itertuples(index=False, name=None))
    columns = [_title(settings["tasks"][column], metric) for column, metric in keys]
    cells = rows.set_index(["method", "group", "column", "metric"])["cell"].to_dict()
    of_dense = dense.set_index(["task", "metric"])["cell"].to_dict()
    label = {method: f"`{method}`" + " (reference)" * (method == reference) for method in settings["methods"]}
    if settings.get("at"):
        label = {method: f"{text}, {settings['at'][method]}%" for method, text in label.items()}
    lines = [[of_dense[settings["tasks"][column]["task"], metric] for column, metric in keys]] if of_dense else []
    groups = list(rows["group"].unique())
    if settings["layout"] == "wide":
        lines = [("dense", line * len(groups)) for line in lines]
        lines += [(label[m], [cells[m, group, *key] for group in groups for key in keys]) for m in label]
        return Block(name, title, columns, lines, explained, groups=groups)
    lines = [("dense", line) for line in lines]
    for group in groups:
        where = "" if settings.get("at") else f", {group}"
        lines += [(f"{text}{where}", [cells[method, group, *key] for key in keys]) for method, text in label.items()]
    return Block(name, title, columns, lines, explained)


def _title(entry: Mapping[str, Any], metric: str) -> str:
    """The heading of a column: the task's title, and what tells it from the task's other columns."""
    said = [metric] if len(entry["metrics"]) > 1 else []
    said += [f"tuned on {entry['tuning']}"] if entry["tuning"] else []
    return f"{entry['title']} ({'; '.join(said)})" if said else entry["title"]


def _spread(model: str, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> Block:
    """Mean, standard deviation and range over the calibrations: what the choice of calibration data brings."""
    keys = ["method", "group", "column", "metric", "kind"]
    spread = pruned.groupby(keys, sort=False)["value"].agg(["mean", "std", "min", "max"]).reset_index()
    cells = []
    for row in spread.to_dict("records"):
        mean, deviation, low, high = shown(row["kind"], row["mean"], row["std"], row["min"], row["max"])
        cells.append(Cell(f"{mean} ± {deviation}", f"[{low}, {high}]"))
    calibrations = settings["models"][model]["calibrations"]
    named = ", ".join(f"`{name}` (seed {entry['seed']})" for name, entry in calibrations.items())
    explained = [
        f"Mean ± standard deviation over {len(calibrations)} calibrations, the smallest and largest value in brackets: "
        f"{named}. The test items are the same, so this is the spread that the choice of calibration text brings."
    ]
    dense = pruned[:0].assign(cell=None)
    title = f"`{model}`: spread over calibrations"
    spread = spread.assign(cell=cells)
    return _arranged(f"{model}-spread", title, spread, dense, explained, settings["reference"], settings)
