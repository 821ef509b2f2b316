"""The first page of an experiment: its result in words, a figure and a table; below, all the others. One HTML file."""

import base64
import os
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def index(
    settings: cli.Settings,
    file: Annotated[
        list[str], typer.Option(metavar="NAME=PATH", help="`table` and `figure`: templates; `experiments`")
    ],
    template: Annotated[Path, typer.Option(help="Jinja template of the page")],
    output: Annotated[Path, typer.Option(help="HTML page")],
) -> None:
    """Settings: `tables` (name, maker, caption), `figures` (name, title, caption), in the page's order, the headline's
    first; `titles`: task -> text; `title`; `confidence`."""
    from pruning.core import artifacts
    from pruning.report import site
    from pruning.report.files import Files

    files = Files(file)

    def link(path: Path) -> str:
        return os.path.relpath(path, output.parent)

    def table(entry: dict) -> dict:
        stem = files.at("table", table=entry["name"])
        title, html = site.table_page(artifacts.read_beside(stem.with_suffix(".md")))
        frame = artifacts.read_csv(stem.with_suffix(".csv"))
        words = site.sentence(entry["maker"], frame, settings["titles"], settings["confidence"])
        return {
            **entry,
            **{"title": title, "words": site.inline(words), "html": html},
            "links": {form: link(Path(f"{stem}.{form}")) for form in ("csv", "md", "tex")},
        }

    def figure(entry: dict) -> dict:
        stem = files.at("figure", figure=entry["name"])
        svg = base64.b64encode(Path(f"{stem}.svg").read_bytes()).decode()
        return {**entry, "svg": svg, "links": {form: link(Path(f"{stem}.{form}")) for form in ("svg", "png")}}

    tables = [table(entry) for entry in settings["tables"]]
    lead = [made["words"] for made in (*tables[:1], *(t for t in tables[1:] if t["maker"] == "tradeoff"))]
    site.write(
        output,
        template,
        title=settings["title"],
        lead=[words for words in lead if words],
        tables=tables,
        figures=[figure(entry) for entry in settings["figures"]],
        experiments=link(files.one("experiments")),
    )


if __name__ == "__main__":
    cli.run(index)
