"""Scores: one file a score, each with `score(layer, **options) -> float64 [neurons]`.

A higher score is a more important neuron. The file's name is the score's name in the config, and
the keyword arguments of its function are the options it takes. A score that needs weights reads
`layer.weights`; nothing is loaded for the others. To add a score, add a file here. One made of another artefact than
statistics.parquet gives its kind, as `STATISTICS = "parameter_taylor"`, and core/names.py its file (PARAMETER_TAYLOR).
One that reads matrices as well names their kinds, as `NEEDS = ("second_moments",)`, and has them from `layer.read`.
One that can score key-value groups, too, names what of attention's channels it is made of, as `GROUPS = ("attention",)`
(their statistics): it is called with channels in place of neurons, and gives a score a channel, of which a group's is
the sum, or a score a group, of `layer.block` channels each. Planning reads these: what a file imports at its top is
imported there.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

TINY = 1e-30  # keeps a silent layer's 0/0 at 0; far below any real score


@dataclass(frozen=True)
class Weights:
    """A block's FFN weights, each row or column one neuron; float32. Only what is looked at is read."""

    read: Callable[[str], np.ndarray]
    """Of `gate`, `up` or `down`."""

    @cached_property
    def gate(self) -> np.ndarray:
        """[n, d]"""
        return self.read("gate")

    @cached_property
    def up(self) -> np.ndarray:
        """[n, d]"""
        return self.read("up")

    @cached_property
    def down(self) -> np.ndarray:
        """[d, n]"""
        return self.read("down")


@dataclass(frozen=True)
class Layer:
    """What a score may look at: one layer's statistics, and its weights on demand."""

    index: int
    statistics: Mapping[str, np.ndarray]  # column -> float64 [n]
    weights: Weights
    read: Callable[[str], Mapping[str, np.ndarray]] | None = None
    """A layer's matrices of a kind that the score NEEDS, with the manifest's counts of tokens. Of attention's channels
    they have the names of neurons'."""
    block: int = 1
    """Neighbouring units that can only leave together: the channels of a key-value group."""

    @property
    def size(self) -> int:
        return len(next(iter(self.statistics.values())))

    def __getitem__(self, column: str) -> np.ndarray:
        return self.statistics[column]


def statistics_of(score: str) -> str:
    """The kind of artefact that a score is made of."""
    return getattr(_plugin(score), "STATISTICS", "statistics")


def needs_of(score: str) -> tuple[str, ...]:
    """Kinds of matrices that a score reads as well."""
    return getattr(_plugin(score), "NEEDS", ())


def groups_by(score: str) -> tuple[str, ...]:
    """Kinds of artefacts of attention's channels that key-value groups are scored by; empty for a score that cannot."""
    return getattr(_plugin(score), "GROUPS", ())


def _plugin(score: str):
    return importlib.import_module(f"pruning.methods.scores.{score}")
