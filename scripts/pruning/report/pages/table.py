"""A table in Markdown as a page of the report. Files: `markdown`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.core import artifacts
from pruning.report import site
from pruning.report.files import Files


def values(files: Files, settings: Mapping[str, Any], output: Path) -> dict[str, Any]:
    title, html = site.table_page(artifacts.read_beside(files.one("markdown")))
    return {"title": title, "html": html}
