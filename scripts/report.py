"""One table, figure, page or analysis of the report, from files of earlier stages: its maker is a module of pruning/.

Equal files and settings make equal bytes.
"""

import importlib
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli
from pruning.report.files import Files

PACKAGES = {
    "report": "pruning.report",
    "report/figures": "pruning.report.figures",
    "report/pages": "pruning.report.pages",
    "paper": "pruning.paper",
    "paper/tables": "pruning.paper.tables",
    "paper/figures": "pruning.paper.figures",
}
"""Folder -> its package, whose `write` writes what a module makes that has none itself; all else are tables."""


def report(
    settings: cli.Settings,
    maker: str,
    output: Annotated[list[Path], typer.Argument()],
    file: list[str] | None = None,
    threads: int = 1,
) -> None:
    """maker: module of scripts/pruning/, as report/tables/results. output: in the order that its package says, as
    arguments. file: NAME=PATH, what it is made from, or a template."""
    folder, _, name = maker.rpartition("/")
    module = importlib.import_module(f".{name}", PACKAGES.get(folder, "pruning.report.tables"))
    write = getattr(module, "write", None) or partial(sys.modules[module.__package__].write, module)
    write(Files(file or ()), settings, output)


if __name__ == "__main__":
    cli.run(report)
