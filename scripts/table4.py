"""Table 4: IoU of two methods' masks over the sparsities, averaged over layers and at one of them."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def table4(
    settings: cli.Settings,
    overlap: Annotated[list[Path], typer.Option(help="overlap CSV of one pair; repeat")],
    published: Annotated[Path, typer.Option(help="the paper's Table 4 as CSV")],
    notes: Annotated[Path, typer.Option(help="footnotes on it")],
    output_csv: Annotated[Path, typer.Option(help="tidy table to write")],
    output_md: Annotated[Path, typer.Option(help="table to read, in Markdown")],
    output_tex: Annotated[Path, typer.Option(help="table to read, in LaTeX")],
) -> None:
    """Settings: `models` and `pairs` (in the order of the blocks and rows), `layer` (null: the last but one)."""
    import pandas as pd
    import yaml

    from pruning.analysis.overlap import table4_block, table4_rows
    from pruning.report import printing

    cli.phase("start-up")
    frame = pd.concat([pd.read_csv(path) for path in overlap], ignore_index=True)
    rows = table4_rows(frame, pd.read_csv(published), settings["layer"])
    known_trouble = yaml.safe_load(notes.read_text(encoding="utf-8"))["table4"]
    blocks = [
        table4_block(rows[rows["model"] == model], [tuple(pair) for pair in settings["pairs"]], known_trouble)
        for model in settings["models"]
    ]
    csv = rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    title = "Table 4: how much two methods' masks agree"
    printing.write("table4", title, blocks, csv, (output_csv, output_md, output_tex))


if __name__ == "__main__":
    cli.run(table4)
