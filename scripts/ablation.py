"""Ablation of RKU: one table over objective, reduction, normalisation and allocation."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def ablation(
    settings: cli.Settings,
    output_csv: Annotated[Path, typer.Option(help="tidy table to write")],
    output_md: Annotated[Path, typer.Option(help="table to read, in Markdown")],
    output_tex: Annotated[Path, typer.Option(help="table to read, in LaTeX")],
    results: Annotated[Path, typer.Option(help="directory of the pipeline's results")] = Path("results"),
) -> None:
    """Settings: `models`; `rows` (combinations); `presets` (combination -> its name, if it has one); `calib`;
    `sparsity` (whole per cent), `task`, `metric`, `title`, `confidence`."""
    import pandas as pd

    from pruning.analysis import ablation
    from pruning.core import artifacts
    from pruning.report import printing

    cli.phase("start-up")

    def outcomes(model: str, variant: str) -> pd.DataFrame:
        path = results / model / "eval" / variant / f"{settings['task']}.samples.parquet"
        samples = artifacts.read_parquet(path, "samples")
        return samples[samples["metric"] == settings["metric"]].sort_values("item", ignore_index=True)

    tables, blocks = [], []
    for model in settings["models"]:
        dense = outcomes(model, "dense")
        variants = {row: f"{settings['calib']}/{row}/{settings['sparsity']}" for row in settings["rows"]}
        samples = {row: outcomes(model, variant) for row, variant in variants.items()}
        table = ablation.rows(samples, dense, settings)
        blocks.append(ablation.block(model, table, dense["value"].mean(), settings))
        table.insert(0, "model", model)
        tables.append(
            table.assign(sparsity=settings["sparsity"] / 100, task=settings["task"], metric=settings["metric"])
        )
    csv = pd.concat(tables, ignore_index=True).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    printing.write("ablation", "Ablation: RKU's choices, one by one", blocks, csv, (output_csv, output_md, output_tex))


if __name__ == "__main__":
    cli.run(ablation)
