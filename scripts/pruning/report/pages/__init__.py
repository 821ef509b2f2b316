"""Pages to read in a browser, one file each: `values(files, settings, output)` gives what its template shows.

files: by the names that its rule gives them, the Jinja `template` among them. settings: the job's. output: where the
page will lie, for links.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.report import site
from pruning.report.files import Files, plug_in


def write(maker: str, files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write a page of this folder as HTML; outputs: that file."""
    with plug_in(maker):
        module = importlib.import_module(f"pruning.report.pages.{maker.rpartition('/')[2]}")
    (output,) = outputs
    site.write(output, files.one("template"), **module.values(files, settings, output))
