"""The figures, one module each, with `draw(tables, settings) -> Figure`; scripts/report.py finds them by name.

`tables` maps names to data frames as the analyses wrote them (sparsities are fractions). `settings` holds `methods` and
`models`, which are drawn in that order, and the figure's own keys.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from pruning.core import artifacts
from pruning.report.figures import style
from pruning.report.files import Files


def write(module: ModuleType, files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write a figure as SVG and PNG (200 dpi), in the figures' style; outputs: in this order.

    files: CSV and parquet; those of one name are joined."""
    tables, metadata = read(files), ({"Date": None}, {"Software": None})
    with style.figure_style():
        made = module.draw(tables, settings)
        for path, kind, own in zip(outputs, ("svg", "png"), metadata, strict=True):
            with artifacts.atomic(path) as temporary:
                made.savefig(temporary, format=kind, metadata=own)


def read(files: Files) -> dict[str, pd.DataFrame]:
    """Return data frames by name. Raises InputError naming the file at fault."""

    def read_one(name: str, path: Path) -> pd.DataFrame:
        if name == "published":  # the paper's numbers are no result
            return pd.read_csv(path)
        if path.suffix != ".parquet":
            return artifacts.read_csv(path)
        # What the stage `trap` says of each neuron, with the model and calibration of its provenance.
        frame, settings = artifacts.read_parquet(path, "trap"), artifacts.read_provenance(path)["settings"]
        return frame.assign(model=settings["model"], calib=settings["calib"])

    return {
        name: pd.concat([read_one(name, path) for path in files.all(name)], ignore_index=True) for name in files.named
    }
