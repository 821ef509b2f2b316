"""One table of the report, as tidy CSV and to read in Markdown and LaTeX: pruning/report/tables/{maker}.py makes it."""

import importlib
import pkgutil
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import artifacts, cli
from pruning.report import tables
from pruning.report.files import Files


def table(
    settings: cli.Settings,
    maker: Annotated[str, typer.Option(help="name of the module in pruning/report/tables")],
    output_csv: Annotated[Path, typer.Option(help="tidy table to write")],
    output_md: Annotated[Path, typer.Option(help="table to read, in Markdown")],
    output_tex: Annotated[Path, typer.Option(help="table to read, in LaTeX")],
    file: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="what it is made from, or a template; repeat")
    ] = None,
) -> None:
    known = sorted(module.name for module in pkgutil.iter_modules(tables.__path__))
    if maker not in known:
        raise cli.InputError(f"--maker {maker}: no such table; there are {', '.join(known)}")
    page = importlib.import_module(f"pruning.report.tables.{maker}").make(Files(file or ()), settings)
    for path, text in ((output_md, page.markdown), (output_tex, page.tex)):
        with artifacts.atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    artifacts.write_csv(output_csv, page.frame, settings, beside=(output_md, output_tex))


if __name__ == "__main__":
    cli.run(table)
