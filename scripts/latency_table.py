"""The latencies of all shapes in one table."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def latency_table(
    shapes: Annotated[list[Path], typer.Option("--shape", help="a shape's CSV; repeat")],
    output_csv: Annotated[Path, typer.Option(help="tidy table to write")],
    output_md: Annotated[Path, typer.Option(help="table to read, in Markdown")],
    output_tex: Annotated[Path, typer.Option(help="table to read, in LaTeX")],
) -> None:
    import pandas as pd

    from pruning.analysis.latency import block
    from pruning.report import printing

    frames = [pd.read_csv(path) for path in shapes]
    csv = pd.concat(frames, ignore_index=True).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    blocks = [block(frame) for frame in frames]
    outputs = (output_csv, output_md, output_tex)
    printing.write("latency", "Latency: what smaller FFNs gain", blocks, csv, outputs)


if __name__ == "__main__":
    cli.run(latency_table)
