"""A table of results: accuracy and perplexity of every method and sparsity beside the dense model, with tests.

Settings: `name` and `title` of the table; `layout` (`wide` or `long`); `reference`: the method that all others are
compared with, or `untuned` (each recovered model with itself before recovery), or `uncompensated` (`ridge_<m>` with
<m>), or a calibration (the same method there), or `calibration/method`; `confidence` of the intervals, and
1 - confidence the level of the tests; `resamples` and `seed` of the bootstraps; `paper` (the paper's table, `table1`,
or null); `models`: alias -> {`note` (text or null), `dtype` where it is a short one, `calibrations`: alias ->
{`seed`}}; `tasks`: column -> {`task`, `tuning` (or null), `metrics`,
`kind` (`accuracy` or `perplexity`), `title`, `asked` (how, where the config says so)}; `methods` and `sparsities`
(whole per cent), in the order of rows and columns, or `at`: method -> its sparsity.

`costs`, where the table shows them: `folder` of the benchmark files, `passes` (costs.of_methods), and `searched`: the
methods whose widths are found by measuring cuts.
Files: `samples`, `results` and, of `searched`, `sensitivity`, templates; `published` and `notes` where there is
`paper`; `leakage`.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pruning.analysis import comparison, costs
from pruning.core import artifacts
from pruning.core.names import DENSE, Column, Variant
from pruning.report import layout, printing
from pruning.report.files import Files


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    """One row a model, calibration, method, sparsity (a fraction, like all shares), task, tuning and metric."""
    published = pd.DataFrame(columns=comparison.PUBLISHED)
    if path := files.one("published"):
        published = comparison.read_published(path)
        settings["paper_notes"] = yaml.safe_load(files.one("notes").read_text(encoding="utf-8"))[settings["paper"]]
    leakage = files.one("leakage")
    settings["leakage"] = artifacts.read_csv(leakage).to_dict("records") if leakage else []
    frames = [model_rows(model, files, published, settings) for model in settings["models"]]
    frame = pd.concat(frames, ignore_index=True)
    blocks = layout.layout(frame, published, settings)
    if own := settings.pop("costs", None):
        blocks += [
            cost_block(model, calib, files, own)
            for model, entry in settings["models"].items()
            for calib in entry["calibrations"]
        ]
    tidy = frame[comparison.COLUMNS].assign(sparsity=frame["sparsity"] / 100)
    return printing.page(settings["name"], settings["title"], tidy, blocks)


def cost_block(model: str, calib: str, files: Files, own: dict[str, Any]) -> printing.Block:
    """What making each method's models took, from benchmark files, and forward passes, from what was measured."""
    table = costs.of_methods(Path(own["folder"]) / model, calib, own["passes"])
    lines = []
    for row in table.itertuples():
        tried = "–"
        if row.method in own["searched"]:
            path = files.at("sensitivity", model=model, calib=calib, method=row.method)
            tried = f"{artifacts.read_parquet(path, 'sensitivity')['passes'].max():,.0f}"
        memory = "–" if pd.isna(row.memory_mb) else f"{row.memory_mb:,.0f}"
        texts = [f"{row.calibration:,.0f}", f"{row.scores:,.0f}", tried, f"{row.model:,.0f}", memory]
        lines.append((f"`{row.method}`", [printing.Cell(text, "") for text in texts]))
    columns = [
        "Calibration (s)",
        "Scores, measured cuts (s)",
        "Measured cuts (forward passes)",
        "One model (s)",
        "Peak memory (MiB)",
    ]
    notes = [
        "Seconds of jobs as they ran here, whatever else ran beside them. Calibration: the passes over its text that "
        "the method is made of; methods share them. Forward passes: over the calibration's `probed` samples, to "
        "measure what cuts cost. One model: its mask, its refit where it has one, its weights; the median of the "
        "sparsities. Memory: the most of any of these jobs.",
    ]
    title = f"What it takes: {model}, calibrated on {calib}"
    return printing.Block(f"{model}-{calib}-costs", title, [""], columns, lines, notes)


def model_rows(model: str, files: Files, published: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """The table's rows of one model."""
    columns = {column: Column(entry["task"], entry["tuning"]) for column, entry in settings["tasks"].items()}

    def samples(variant: Variant) -> dict[str, pd.DataFrame]:
        own = {name: DENSE if variant == DENSE else column.of(variant) for name, column in columns.items()}
        paths = {name: files.at("samples", model=model, variant=v, task=columns[name].task) for name, v in own.items()}
        return {name: artifacts.read_parquet(path, "samples") for name, path in paths.items()}

    pruned, sizes = {}, {}
    [first, *_] = columns.values()

    def size(variant: Variant) -> dict[str, Any]:
        path = files.at("results", model=model, variant=first.of(variant), task=first.task)
        return artifacts.read_json(path, "evaluation")["pruned"]

    for calib in settings["models"][model]["calibrations"]:
        keys = comparison.pruned_variants(settings)
        pruned[calib] = {(method, sparsity): samples(Variant(calib, method, sparsity)) for method, sparsity in keys}
        sizes[calib] = {(method, sparsity): size(Variant(calib, method, sparsity)) for method, sparsity in keys}
    return comparison.table_rows(model, samples(DENSE), pruned, sizes, published, settings)
