"""Tables: one file each, with `make(files, settings) -> Page`; report/catalogue.py says what it is given.

The numbers come from the analyses' files, or are computed from outcomes: by analysis/comparison.py, or, where one table
alone has them, in its file.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.core import artifacts
from pruning.report.files import Files, plug_in
from pruning.report.printing import Page


def write(maker: str, files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Make a table of this folder and write it, as `write_page` does."""
    with plug_in(maker):
        module = importlib.import_module(f"pruning.report.tables.{maker.rpartition('/')[2]}")
    write_page(module.make(files, settings), settings, outputs)


def write_page(page: Page, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write a table as tidy CSV, and to read in Markdown and LaTeX; outputs: in this order."""
    csv, *printed = outputs
    for path, text in zip(printed, (page.markdown, page.tex), strict=True):
        with artifacts.atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    artifacts.write_csv(csv, page.frame, settings, beside=printed)
