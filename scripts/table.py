"""A table of results: accuracy and perplexity of every method and sparsity beside the dense model, with tests.

Settings (JSON): `name` and `title` of the table; `layout` (`wide` or `long`); `reference`: the method that all others
are compared with, or `untuned` (each recovered model with itself before recovery), or `uncompensated` (`ridge_<m>`
with <m>); `confidence` of the intervals, and 1 - confidence the level of the tests; `resamples` and `seed` of the
bootstraps; `paper` (the paper's table, `table1`, or null), `published` (its numbers as CSV, or null) and `notes`
(YAML of footnotes on them, a list a table); `models`: alias -> {`note` (text or null), `calibrations`: alias ->
{`seed`}}; `tasks`: column -> {`task`, `tuning` (or null), `metrics`, `kind` (`accuracy` or `perplexity`), `title`,
`asked` (how, where the config says so)}; `methods` and `sparsities` (whole per cent), in the order of rows and columns.

Reads the samples of evaluation and the manifests of compaction below `--results`; writes a tidy CSV (one row a
model, calibration, method, sparsity, task, tuning and metric) and the same as a table to read, in Markdown and LaTeX.
"""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
import yaml

from pruning.core import artifacts, cli
from pruning.report import printing, tables


def table(
    settings: cli.Settings,
    output_csv: Annotated[Path, typer.Option(help="tidy table to write")],
    output_md: Annotated[Path, typer.Option(help="table to read, in Markdown")],
    output_tex: Annotated[Path, typer.Option(help="table to read, in LaTeX")],
    results: Annotated[Path, typer.Option(help="directory of the pipeline's results")] = Path("results"),
    leakage: Annotated[Path | None, typer.Option(help="leakage.csv, for the footer")] = None,
) -> None:
    published = pd.DataFrame(columns=tables.PUBLISHED)
    if settings["published"]:
        published = tables.read_published(Path(settings["published"]))
        settings["paper_notes"] = yaml.safe_load(Path(settings["notes"]).read_text(encoding="utf-8"))[settings["paper"]]
    settings["leakage"] = pd.read_csv(leakage).to_dict("records") if leakage else []
    frames = [model_rows(model, results / model, published, settings) for model in settings["models"]]
    frame = pd.concat(frames, ignore_index=True)
    blocks = tables.layout(frame, published, settings)
    tidy = frame[tables.COLUMNS].assign(sparsity=frame["sparsity"] / 100)  # a fraction, like all the CSV's shares
    csv = tidy.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    printing.write(settings["name"], settings["title"], blocks, csv, (output_csv, output_md, output_tex))


def model_rows(model: str, directory: Path, published: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """The table's rows of one model, from its directory of results."""
    variants = list(product(settings["methods"], settings["sparsities"]))
    pruned, manifests = {}, {}
    for calib in settings["models"][model]["calibrations"]:
        paths = {variant: f"{calib}/{variant[0]}/{variant[1]}" for variant in variants}
        pruned[calib] = {v: read_samples(directory / "eval" / path, settings) for v, path in paths.items()}
        manifests[calib] = {
            v: artifacts.read_json(directory / "compact" / path / "manifest.json", "compact")
            for v, path in paths.items()
        }
    dense = read_samples(directory / "eval" / "dense", settings, tuned=False)
    return tables.table_rows(model, dense, pruned, manifests, published, settings)


def read_samples(directory: Path, settings: dict[str, Any], tuned: bool = True) -> dict[str, pd.DataFrame]:
    """Samples of every column: a task's lie in the variant's directory, or in its tuning's below."""
    samples = {}
    for column, entry in settings["tasks"].items():
        folder = directory / entry["tuning"] if tuned and entry["tuning"] else directory
        samples[column] = artifacts.read_parquet(folder / f"{entry['task']}.samples.parquet", "samples")
    return samples


if __name__ == "__main__":
    cli.run(table)
