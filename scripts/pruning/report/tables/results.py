"""A table of results: accuracy and perplexity of every method and sparsity beside the dense model, with tests.

Settings: `name` and `title` of the table; `layout` (`wide` or `long`); `reference`: the method that all others are
compared with, or `untuned` (each recovered model with itself before recovery), or `uncompensated` (`ridge_<m>` with
<m>), or a calibration (the same method there), or `calibration/method`; `confidence` of the intervals, and
1 - confidence the level of the tests; `resamples` and `seed` of the bootstraps; `paper` (the paper's table, `table1`,
or null); `models`: alias -> {`note` (text or null), `dtype` where it is a short one, `calibrations`: alias ->
{`seed`}}; `tasks`: column -> {`task`, `tuning` (or null), `metrics`, `kind` (`accuracy` or `perplexity`), `title`,
`asked` (how, where the config says so)}; `methods` and `sparsities` (whole per cent), in the order of rows and columns,
or `at`: method -> its sparsity.

`costs`, where the table shows them: `folder` of the benchmark files, `passes` (costs.of_methods), and `searched`: the
methods whose widths are found by measuring cuts.
Files: `samples`, `results` and, of `searched`, `sensitivity`, templates; `published` and `notes` where there is
`paper`; `leakage`.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pruning.analysis import comparison, costs
from pruning.core import artifacts, names
from pruning.core.names import Column, Variant
from pruning.report import layout, printing
from pruning.report.files import Files


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
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

    samples = cache(files.samples)
    frames = [
        comparison.table_rows(model, partial(samples, model), partial(size, model), published, settings)
        for model in settings["models"]
    ]
    frame = pd.concat(frames, ignore_index=True)
    blocks = layout.layout(frame, published, settings)
    if own := settings.pop("costs", None):
        blocks += [
            cost_block(model, calib, files, own)
            for model, entry in settings["models"].items()
            for calib in entry["calibrations"]
        ]
    tidy = frame[comparison.COLUMNS].assign(sparsity=names.share(frame["sparsity"]))
    return printing.Page(settings["name"], settings["title"], tidy, blocks)


def cost_block(model: str, calib: str, files: Files, own: dict[str, Any]) -> printing.Block:
    """What making each method's models took, from benchmark files, and forward passes, from what was measured."""
    lines = []
    for row in costs.of_methods(Path(own["folder"]) / model, calib, own["passes"]).itertuples():
        tried = "–"
        if row.method in own["searched"]:
            path = files.at("sensitivity", model=model, calib=calib, method=row.method)
            tried = f"{artifacts.read_parquet(path, 'sensitivity')['passes'].max():,.0f}"
        seconds = [f"{value:,.0f}" for value in (row.calibration, row.scores, row.model)]
        lines.append((f"`{row.method}`", [*seconds[:2], tried, seconds[2], printing.memory(row.memory_mb)]))
    columns = ["Calibration (s)", "Scores, measured cuts (s)", "Measured cuts (forward passes)", "One model (s)"]
    notes = [
        "Seconds of jobs as they ran here, whatever else ran beside them. Calibration: the passes over its text that "
        "the method is made of; methods share them. Forward passes: over the calibration's `probed` samples, to "
        "measure what cuts cost. One model: its mask, its refit where it has one, its weights; the median of the "
        "sparsities. Memory: the most of any of these jobs."
    ]
    title = f"What it takes: {model}, calibrated on {calib}"
    return printing.Block(f"{model}-{calib}-costs", title, [*columns, "Peak memory (MiB)"], lines, notes)
