"""Pages to read in a browser, one file each: `values(files, settings, output)` gives what its template shows.

files: by the names that its rule gives them, the Jinja `template` among them. settings: the job's. output: where the
page will lie, for links.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pruning.core import artifacts, templates
from pruning.report.files import Files


def write(module: ModuleType, files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write a page as HTML; outputs: that file."""
    (output,) = outputs
    page = templates.page(files.one("template"), **module.values(files, settings, output))
    with artifacts.atomic(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
