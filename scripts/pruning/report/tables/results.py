"""A table of results: accuracy and perplexity of every method and sparsity beside the dense model, with tests.

Settings: `name` and `title` of the table; `layout` (`wide` or `long`); `reference`: the method that all others are
compared with, or `untuned` (each recovered model with itself before recovery), or `uncompensated` (`ridge_<m>` with
<m>), or a calibration (the same method there), or `calibration/method`; `confidence` of the intervals, and
1 - confidence the level of the tests; `resamples` and `seed` of the bootstraps; `paper` (the paper's table, `table1`,
or null); `models`: alias -> {`note` (text or null), `dtype` where it is a short one, `calibrations`: alias ->
{`seed`}}; `tasks`: column -> {`task`, `tuning` (or null), `metrics`, `kind` (`accuracy` or `perplexity`), `title`,
`asked` (how, where the config says so)}; `methods` and `sparsities` (whole per cent), in the order of rows and columns,
or `at`: method -> its sparsity.

`costs`, where the table shows them: `folder` of the benchmark files, `passes` and `cut_as` (costs.of_methods), and
`searched`: the methods whose widths are found by measuring cuts.
Files: `samples`, `results` and, of `searched`, `sensitivity`, templates; `published` and `notes` where there is
`paper`; `leakage`.
"""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pruning.analysis import comparison, costs
from pruning.core import artifacts, names
from pruning.core.names import Column, Variant
from pruning.report import notes
from pruning.report.files import Files
from pruning.report.printing import Block, Cell, Page, difference, estimate, memory, percent, shown


def make(files: Files, settings: dict[str, Any]) -> Page:
    """One row per model, calibration, method, sparsity (a fraction, like all shares), task, tuning and metric."""
    published = pd.DataFrame(columns=comparison.PUBLISHED)
    if path := files.one("published"):
        published = pd.read_csv(path).fillna({"tuning": ""})
        settings["paper_notes"] = yaml.safe_load(files.one("notes").read_text(encoding="utf-8"))[settings["paper"]]
    leakage = files.one("leakage")
    settings["leakage"] = artifacts.read_csv(leakage).to_dict("records") if leakage else []
    first = next(iter(settings["tasks"].values()))

    def size(model: str, variant: Variant) -> dict[str, Any]:
        own = Column(first["task"], first["tuning"]).of(variant)
        path = files.at("results", model=model, variant=own, task=first["task"])
        return artifacts.read_json(path, "evaluation")["pruned"]

    frames = []
    for model in settings["models"]:
        samples = cache(partial(files.samples, model))  # of one model at a time: a large table's take gigabytes
        frames.append(comparison.table_rows(model, samples, partial(size, model), published, settings))
    frame = pd.concat(frames, ignore_index=True)
    blocks = layout(frame, published, settings)
    if own := settings.pop("costs", None):
        blocks += [
            cost_block(model, calib, files, own)
            for model, entry in settings["models"].items()
            for calib in entry["calibrations"]
        ]
    tidy = frame[comparison.COLUMNS].assign(sparsity=names.share(frame["sparsity"]))
    return Page(settings["name"], settings["title"], tidy, blocks)


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
    if pd.notna(row["reference"]) and not comparison.deciding_p(row) <= 1 - confidence:
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


def cost_block(model: str, calib: str, files: Files, own: dict[str, Any]) -> Block:
    """What making each method's models took, from benchmark files, and forward passes, from what was measured."""
    lines = []
    for row in costs.of_methods(Path(own["folder"]) / model, calib, own["passes"], own["cut_as"]).itertuples():
        tried = "–"
        if row.method in own["searched"]:
            path = files.at("sensitivity", model=model, calib=calib, method=own["cut_as"].get(row.method, row.method))
            tried = f"{artifacts.read_parquet(path, 'sensitivity')['passes'].max():,.0f}"
        seconds = [f"{value:,.0f}" for value in (row.calibration, row.scores, row.model)]
        lines.append((f"`{row.method}`", [*seconds[:2], tried, seconds[2], memory(row.memory_mb)]))
    columns = ["Calibration (s)", "Scores, measured cuts (s)", "Measured cuts (forward passes)", "One model (s)"]
    notes = [
        "Seconds of jobs as they ran here, whatever else ran beside them. Calibration: the passes over its text that "
        "the method is made of; methods share them. Forward passes: over the calibration's `probed` samples, to "
        "measure what cuts cost. One model: its mask, its refit where it has one, its weights; the median of the "
        "sparsities. Memory: the most of any of these jobs."
    ]
    title = f"What it takes: {model}, calibrated on {calib}"
    return Block(f"{model}-{calib}-costs", title, [*columns, "Peak memory (MiB)"], lines, notes)
