"""One HTML page, from a template and what its maker, a module of pruning/report/pages, puts into it."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli
from pruning.report import site
from pruning.report.files import Files


def page(
    settings: cli.Settings,
    maker: Annotated[str, typer.Option(help="file of pruning/report/pages, as index")],
    template: Annotated[Path, typer.Option(help="Jinja template of the page")],
    output: Annotated[Path, typer.Option(help="HTML page")],
    file: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="what it is made from, or a template; repeat")
    ] = None,
) -> None:
    module = importlib.import_module(f"pruning.report.pages.{maker}")
    site.write(output, template, **module.values(Files(file or ()), settings, output))


if __name__ == "__main__":
    cli.run(page)
