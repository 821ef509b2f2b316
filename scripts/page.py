"""A table in Markdown as an HTML page for the report."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def page(
    markdown: Annotated[Path, typer.Option(help="the table, as the pipeline writes it")],
    template: Annotated[Path, typer.Option(help="Jinja template of the page")],
    output: Annotated[Path, typer.Option(help="HTML page")],
) -> None:
    from pruning.core import artifacts
    from pruning.report import site

    title, html = site.table_page(artifacts.read_beside(markdown))
    site.write(output, template, title=title, html=html)


if __name__ == "__main__":
    cli.run(page)
