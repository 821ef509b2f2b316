"""One table of the report, as tidy CSV and to read in Markdown and LaTeX: its maker is a module of pruning/."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import artifacts, cli
from pruning.report.files import Files, plug_in


def table(
    settings: cli.Settings,
    maker: Annotated[str, typer.Option(help="module of scripts/pruning/, as report/tables/results")],
    output_csv: Annotated[Path, typer.Option(help="tidy table to write")],
    output_md: Annotated[Path, typer.Option(help="table to read, in Markdown")],
    output_tex: Annotated[Path, typer.Option(help="table to read, in LaTeX")],
    file: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="what it is made from, or a template; repeat")
    ] = None,
) -> None:
    folder, _, name = maker.rpartition("/")
    with plug_in(maker):
        if folder == "paper/tables":
            module = importlib.import_module(f"pruning.paper.tables.{name}")
        else:
            module = importlib.import_module(f"pruning.report.tables.{name}")
    page = module.make(Files(file or ()), settings)
    for path, text in ((output_md, page.markdown), (output_tex, page.tex)):
        with artifacts.atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    artifacts.write_csv(output_csv, page.frame, settings, beside=(output_md, output_tex))


if __name__ == "__main__":
    cli.run(table)
