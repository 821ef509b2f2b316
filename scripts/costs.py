"""Costs: time and peak memory of every stage, from the files that Snakemake's benchmarks left."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def costs(
    output_csv: Annotated[Path, typer.Option(help="tidy table to write")],
    output_md: Annotated[Path, typer.Option(help="table to read, in Markdown")],
    output_tex: Annotated[Path, typer.Option(help="table to read, in LaTeX")],
    benchmarks: Annotated[Path, typer.Option(help="directory of the benchmark files")] = Path("results/benchmarks"),
) -> None:
    from pruning.analysis.costs import block, read, summary
    from pruning.report import printing

    table = summary(read(benchmarks))
    csv = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    outputs = (output_csv, output_md, output_tex)
    printing.write("costs", "Costs: time and memory of every stage", [block(table)], csv, outputs)


if __name__ == "__main__":
    cli.run(costs)
