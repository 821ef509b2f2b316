"""Masks and scores, by structure: files of FFN neurons alone have no column `structure`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pruning.core import artifacts
from pruning.core.errors import InputError

if TYPE_CHECKING:  # torch is slow
    from pruning.models.checkpoint import Tensors

NEURONS = "ffn"
"""The main structure, in which sparsity is counted and which every mask has, of all models but mixtures of experts."""


def main(units: Mapping[str, object]) -> str:
    """Return the main structure of what maps structures to something of theirs: the first."""
    return next(iter(units))


def rows(path: Path, kind: str) -> pd.DataFrame:
    """Return the rows of neurons in a file of `mask` or `scores`, by layer and unit.

    Raises InputError as read_parquet does."""
    return of(artifacts.read_parquet(path, kind), NEURONS)


def of(frame: pd.DataFrame, structure: str) -> pd.DataFrame:
    """Return the rows of one structure, by layer and unit."""
    if "structure" in frame:
        frame = frame[frame["structure"] == structure]
    elif structure != NEURONS:
        frame = frame.iloc[:0]
    return frame.sort_values(["layer", "unit"], ignore_index=True)


def structures_of(frame: pd.DataFrame) -> list[str]:
    """Return the structures of which there are rows, the main one first."""
    return list(frame["structure"].unique()) if "structure" in frame else [NEURONS]


def by_layer(frame: pd.DataFrame, column: str, layers: int = 0) -> list[np.ndarray]:
    """Return a column's values of each layer. layers: of the model, the last of which may have no row."""
    own = {layer: values.to_numpy() for layer, values in frame.groupby("layer")[column]}
    nothing = frame[column].to_numpy()[:0]
    return [own.get(layer, nothing) for layer in range(max([layers, *(layer + 1 for layer in own)]))]


def check_widths(neurons: pd.DataFrame, widths: Sequence[int], otherwise: str) -> None:
    """Raises InputError, which begins with `otherwise`, if a table with a row per unit has other numbers of them."""
    if (measured := [len(own) for own in by_layer(neurons, "unit", len(widths))]) != list(widths):
        raise InputError(f"{otherwise}: layer widths {measured}, not {list(widths)}")


def read(path: Path, model: Path) -> dict[str, list[np.ndarray]]:
    """Return structure -> which of its units are kept, bool [units] per layer.

    Raises InputError if the mask is not one of this model."""
    from pruning.models.checkpoint import Checkpoint  # torch is slow

    return keeps_of(artifacts.read_parquet(path, "mask"), f"{path}: not a mask of {model}", Checkpoint(model))


def keeps_of(frame: pd.DataFrame, otherwise: str, base: "Tensors") -> dict[str, list[np.ndarray]]:
    """Return the same of a mask's rows, of a model with these tensors. Raises InputError, which begins with
    `otherwise`, if its layers have other numbers of units, and as Tensors.units does."""
    keeps = {name: by_layer(of(frame, name), "keep", len(base.widths)) for name in structures_of(frame)}
    for name, own in keeps.items():
        units = base.widths if name == main(keeps) else base.units(name)
        if (found := [len(keep) for keep in own]) != list(units):
            what = "layer widths" if name == main(keeps) else f"layers' numbers of `{name}`"
            raise InputError(f"{otherwise}: {what} {found}, not {list(units)}")
    return keeps


def counts(keeps: Mapping[str, Sequence[np.ndarray]]) -> dict[str, list[int]]:
    """Return structure -> units that are kept in each layer."""
    return {name: [int(keep.sum()) for keep in own] for name, own in keeps.items()}
