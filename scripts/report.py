"""One table, figure or page of the report, from the files of the analyses: its maker is a module of pruning/.

Equal files and settings make equal bytes.
"""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli
from pruning.report.files import Files

KINDS = {
    "report/figures": "pruning.report.figures",
    "report/pages": "pruning.report.pages",
    "paper/tables": "pruning.paper.tables",
    "paper/figures": "pruning.paper.figures",
}
"""Folder -> the package whose `write` makes one of its modules' files; all else are tables."""


def report(
    settings: cli.Settings,
    maker: Annotated[str, typer.Option(help="module of scripts/pruning/, as report/tables/results")],
    outputs: Annotated[list[Path], typer.Option("--output", help="in the order that its package says; repeat")],
    file: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="what it is made from, or a template; repeat")
    ] = None,
) -> None:
    package = importlib.import_module(KINDS.get(maker.rpartition("/")[0], "pruning.report.tables"))
    package.write(maker, Files(file or ()), settings, outputs)


if __name__ == "__main__":
    cli.run(report)
