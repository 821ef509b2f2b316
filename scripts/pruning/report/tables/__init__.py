"""Tables: one file each, with `make(files, settings) -> Page`; report/catalogue.py says what it is given.

The numbers come from the analyses' files, or are computed from outcomes: by analysis/comparison.py, or, where one table
alone has them, in its file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pruning.core import artifacts
from pruning.report.files import Files


def write(module: ModuleType, files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write a table as tidy CSV, and to read in Markdown and LaTeX; outputs: in this order."""
    page, (csv, *printed) = module.make(files, settings), outputs
    for path, text in zip(printed, (page.markdown, page.tex), strict=True):
        with artifacts.atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    artifacts.write_csv(csv, page.frame, settings, beside=printed)
