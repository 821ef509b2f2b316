"""Scores: one file a score, each with `score(layer, **options) -> float64 [units]`.

A higher score is a more important unit. The file's name is the score's name in the config, and
the keyword arguments of its function are the options it takes. A score that needs weights reads
`layer.weights`; nothing is loaded for the others. To add a score, add a file here.

`REQUIRES` names the kinds of artefacts that it is made of (requirements.py): at most one table, whose columns it has
from `layer`, and matrices, which it has from `layer.read`; without it, ("statistics",). `CHANNELS = True` says that it
scores other structures as well: it is called with the channels that they hand on in place of neurons, and gives a score
a channel, of which a unit's is the sum, or a score a unit, of `layer.block` channels each. Planning reads these: what a
file imports at its top is imported there.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import numpy as np

TINY = 1e-30  # keeps a silent layer's 0/0 at 0; far below any real score


@dataclass(frozen=True)
class Weights:
    """A block's FFN weights, each row or column one neuron; float32. Only what is looked at is read."""

    read: Callable[[str], np.ndarray]
    """Of `gate`, `up` or `down`."""

    gate = cached_property(lambda self: self.read("gate"))  # [n, d]
    up = cached_property(lambda self: self.read("up"))  # [n, d]
    down = cached_property(lambda self: self.read("down"))  # [d, n]


@dataclass(frozen=True)
class Layer:
    """What a score may look at: one layer's statistics, and its weights on demand."""

    index: int
    statistics: Mapping[str, np.ndarray]  # column -> float64 [n]
    weights: Weights
    read: Callable[[str], Mapping[str, np.ndarray]] | None = None
    """A layer's matrices of a kind that the score REQUIRES, with the manifest's counts of tokens. Those of other
    structures' channels have the names of neurons'."""
    block: int = 1
    """Neighbouring channels that can only be removed together: those of a key-value group."""

    @property
    def size(self) -> int:
        return len(next(iter(self.statistics.values())))

    def __getitem__(self, column: str) -> np.ndarray:
        return self.statistics[column]


def plugin(score: str) -> ModuleType:
    return importlib.import_module(f"pruning.methods.scores.{score}")


def requires(score: str) -> tuple[str, ...]:
    """Return the kinds of artefacts, measured of neurons, that a score is made of."""
    return getattr(plugin(score), "REQUIRES", ("statistics",))


def scores_channels(score: str) -> bool:
    """Return whether a score is one of other structures as well."""
    return getattr(plugin(score), "CHANNELS", False)
