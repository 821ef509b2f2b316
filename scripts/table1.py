"""Table 1: accuracy and perplexity of every method and sparsity beside the dense model, with intervals and tests.

Settings (JSON): `reference`, the method that all others are compared with; `confidence` of the intervals, and
1 - confidence the level of the tests; `resamples` and `seed` of the bootstraps; `published`, the paper's table as CSV;
`models`: alias -> {`note` (text or null), `calibrations`: alias -> {`seed`}}; `tasks`: name -> {`metrics`, `kind`
(`accuracy` or `perplexity`), `title`}; `methods` and `sparsities` (whole per cent), in the order of rows and columns.

Reads the samples of evaluation and the manifests of compaction below `--results`; writes a tidy CSV (one row a
model, calibration, method, sparsity, task and metric) and the same as a table to read, in Markdown and LaTeX.
"""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from pruning import artifacts, cli, tables


def table1(
    settings: cli.Settings,
    output_csv: Annotated[Path, typer.Option(help="tidy table to write")],
    output_md: Annotated[Path, typer.Option(help="table to read, in Markdown")],
    output_tex: Annotated[Path, typer.Option(help="table to read, in LaTeX")],
    results: Annotated[Path, typer.Option(help="directory of the pipeline's results")] = Path("results"),
) -> None:
    published = tables.read_published(Path(settings["published"]))
    frames = [model_rows(model, results / model, published, settings) for model in settings["models"]]
    frame = pd.concat(frames, ignore_index=True)
    blocks = tables.layout(frame, published, settings)
    tidy = frame[tables.COLUMNS].assign(sparsity=frame["sparsity"] / 100)  # a fraction, like all the CSV's shares
    csv = tidy.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    for path, text in ((output_csv, csv), (output_md, tables.to_markdown(blocks)), (output_tex, tables.to_tex(blocks))):
        with artifacts.atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


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
    dense = read_samples(directory / "eval" / "dense", settings)
    return tables.table1_rows(model, dense, pruned, manifests, published, settings)


def read_samples(directory: Path, settings: dict[str, Any]) -> dict[str, pd.DataFrame]:
    return {
        task: artifacts.read_parquet(directory / f"{task}.samples.parquet", "samples") for task in settings["tasks"]
    }


if __name__ == "__main__":
    cli.run(table1)
