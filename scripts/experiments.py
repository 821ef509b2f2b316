"""The list of all experiments whose first page is in `results`, with the result of each in words. One HTML file."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def experiments(
    template: Annotated[Path, typer.Option(help="Jinja template of the page")],
    output: Annotated[Path, typer.Option(help="HTML page, beside the experiments' folders")],
) -> None:
    from pruning.report import site

    pages = []
    for path in sorted([*output.parent.glob("index.html"), *output.parent.glob("*/index.html")]):
        if found := site.about(path.read_text(encoding="utf-8")):
            pages.append({**found, "link": os.path.relpath(path, output.parent)})
    site.write(output, template, pages=pages)
    print(f"{len(pages)} experiments")


if __name__ == "__main__":
    cli.run(experiments)
