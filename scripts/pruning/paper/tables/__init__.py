"""Tables of the paper's analyses: as in report/tables."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.report.files import Files, plug_in
from pruning.report.tables import write_page


def write(maker: str, files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Make a table of this folder and write it."""
    with plug_in(maker):
        module = importlib.import_module(f"pruning.paper.tables.{maker.rpartition('/')[2]}")
    write_page(module.make(files, settings), settings, outputs)
