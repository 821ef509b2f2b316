"""Masks and scores by what their rows are of: FFN neurons, and, where a method cuts both, key-value groups.

Files of the others have no column `structure`: all rows are neurons.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pruning.core import artifacts
from pruning.core.errors import InputError

NEURONS, GROUPS = "ffn", "kv_groups"


def rows(path: Path, kind: str, structure: str = NEURONS) -> pd.DataFrame:
    """Of `mask` or `scores`, those of one structure, by layer and unit. Raises InputError as read_parquet does."""
    return of(artifacts.read_parquet(path, kind), structure)


def of(frame: pd.DataFrame, structure: str) -> pd.DataFrame:
    if "structure" in frame:
        frame = frame[frame["structure"] == structure]
    elif structure != NEURONS:
        frame = frame.iloc[:0]
    return frame.sort_values(["layer", "unit"], ignore_index=True)


def by_layer(frame: pd.DataFrame, column: str, layers: int = 0) -> list[np.ndarray]:
    """layers: of the model, the last of which may have no row, for want of units."""
    own = {layer: values.to_numpy() for layer, values in frame.groupby("layer")[column]}
    nothing = frame[column].to_numpy()[:0]
    return [own.get(layer, nothing) for layer in range(max([layers, *(layer + 1 for layer in own)]))]


def keeps_of(mask: Path, directory: Path, widths: Sequence[int]) -> list[np.ndarray]:
    """Neurons that stay, bool [n_l] a layer. Raises InputError if the mask is not one of this model."""
    keeps = by_layer(rows(mask, "mask"), "keep", len(widths))
    if [len(keep) for keep in keeps] != list(widths):
        found = [len(keep) for keep in keeps]
        raise InputError(f"{mask}: not a mask of {directory}: layer widths {found}, not {list(widths)}")
    return keeps


def groups_of(mask: Path) -> list[np.ndarray] | None:
    """Key-value groups that stay, bool [groups] a layer; None where all do."""
    return by_layer(rows(mask, "mask", GROUPS), "keep") or None
