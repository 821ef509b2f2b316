"""Figures of the paper's analyses: as in report/figures."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.report.figures import write_figure
from pruning.report.files import Files, plug_in


def write(maker: str, files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Draw a figure of this folder and write it."""
    with plug_in(maker):
        module = importlib.import_module(f"pruning.paper.figures.{maker.rpartition('/')[2]}")
    write_figure(module, files, settings, outputs)
