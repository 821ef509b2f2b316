"""The first page of an experiment: its result in words, a figure and a table; below, all the others.

Files: `table` and `figure`, templates of their names; `experiments`, the page that lists them all. Settings: `tables`
(name, maker, caption), `figures` (name, title, caption), in the page's order, the headline's first; `titles`: task ->
text; `title`; `confidence`.
"""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.core import artifacts
from pruning.report import site
from pruning.report.files import Files


def values(files: Files, settings: Mapping[str, Any], output: Path) -> dict[str, Any]:
    def link(path: Path) -> str:
        return os.path.relpath(path, output.parent)

    def table(entry: dict) -> dict:
        stem = files.at("table", table=entry["name"])
        title, html = site.table_page(artifacts.read_beside(stem.with_suffix(".md")))
        frame = artifacts.read_csv(stem.with_suffix(".csv"))
        words = site.sentence(entry["maker"], frame, settings["titles"], settings["confidence"])
        links = {form: link(Path(f"{stem}.{form}")) for form in ("csv", "md", "tex")}
        return {**entry, "title": title, "words": site.MARKDOWN.renderInline(words), "html": html, "links": links}

    def figure(entry: dict) -> dict:
        stem = files.at("figure", figure=entry["name"])
        svg = base64.b64encode(Path(f"{stem}.svg").read_bytes()).decode()
        return {**entry, "svg": svg, "links": {form: link(Path(f"{stem}.{form}")) for form in ("svg", "png")}}

    tables = [table(entry) for entry in settings["tables"]]
    lead = [made["words"] for made in (*tables[:1], *(t for t in tables[1:] if t["maker"] == "tradeoff"))]
    return {
        "title": settings["title"],
        "lead": [words for words in lead if words],
        "tables": tables,
        "figures": [figure(entry) for entry in settings["figures"]],
        "experiments": link(files.one("experiments")),
    }
