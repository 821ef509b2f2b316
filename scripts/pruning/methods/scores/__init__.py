"""Scores: one file a score, each with `score(layer, **options) -> float64 [units]`.

A higher score is a more important unit. The file's name is the score's name in the config, and
the keyword arguments of its function are the options it takes. A score that needs weights reads
`layer.weights`; nothing is loaded for the others. To add a score, add a file here.

`REQUIRES` names the kinds of artefacts that it is made of (requirements.py): at most one table, whose columns it has
from `layer`, and matrices, which it has from `layer.read`; without it, ("statistics",). `CHANNELS = True` says that it
scores other structures as well: it is called with the channels that they hand on in place of neurons, and gives a score
a channel, of which a unit's is the sum, or a score a unit, of `layer.block` channels each. Experts of mixtures are
scored by all that are made of `statistics` alone, as the sum over an expert's neurons; `MIXTURES = True` says that a
score is for experts only. A score that takes an `objective` is made of its gradient. Planning reads these: what a file
imports at its top is imported there.

Another package's score is an entry point of the group `pruning.scores`: a module like the files here, or a function
with these attributes. A program hands over such a function itself.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pruning.core.errors import InputError

GROUP = "pruning.scores"
KINDS = ("statistics", "second_moments", "output_gradients", "parameter_taylor", "rounds", "gisp")
"""What can stand in REQUIRES."""
BUILT_IN = tuple(sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem != "__init__"))
TINY = 1e-30  # keeps a silent layer's 0/0 at 0; far below any real score


@dataclass(frozen=True)
class Weights:
    """A block's FFN weights, each row or column one neuron; float32. Only what is looked at is read."""

    read: Callable[[str], np.ndarray]  # Of `gate`, `up` or `down`

    gate = cached_property(lambda self: self.read("gate"))  # [n, d]
    up = cached_property(lambda self: self.read("up"))  # [n, d]
    down = cached_property(lambda self: self.read("down"))  # [d, n]


@dataclass(frozen=True)
class Layer:
    """What a score may look at: one layer's statistics, and its weights on demand."""

    index: int
    statistics: Mapping[str, np.ndarray]  # column -> float64 [n]; `unit` alone for a score of matrices
    weights: Weights
    read: Callable[[str], Mapping[str, np.ndarray]] | None = None
    """A layer's matrices of a kind that the score REQUIRES, with the manifest's counts of tokens. Those of other
    structures' channels have the names of neurons'."""
    block: int = 1
    """Neighbouring channels that can only be removed together: those of a key-value group, or of an expert."""

    @property
    def size(self) -> int:
        return len(next(iter(self.statistics.values())))

    def __getitem__(self, column: str) -> np.ndarray:
        if column not in self.statistics:
            raise InputError(f"{column!r} was not measured, but: {', '.join(self.statistics) or 'nothing'}")
        return self.statistics[column]


Score = str | Callable[..., np.ndarray]  # A name, or a function with the signature of the `score` of a file here


class Plugin(NamedTuple):
    score: Callable[..., np.ndarray]
    requires: tuple[str, ...]  # Kinds of artefacts, measured of neurons, that it is made of
    channels: bool  # Whether it is a score of other structures as well
    mixtures: bool  # Whether it is a score of experts alone
    objective: str | None  # Whose gradient it is made of if its option `objective` is not given; None: of none


def plugin(score: Score) -> Plugin:
    """Return a score. Raises InputError for a name that is none, and for a plug-in that cannot be loaded or used."""
    if callable(score):
        found, name = score, getattr(score, "__name__", "score")
    elif score in BUILT_IN:
        found, name = importlib.import_module(f"pruning.methods.scores.{score}"), score
    else:
        name, [entry] = score, installed()[check(score)]
        try:
            found = entry.load()
        except Exception as error:  # whatever the package's code raises
            place = f"{entry.value} of package {entry.dist.name}"
            raise InputError(f"score {name!r}: {place} cannot be loaded: {type(error).__name__}: {error}") from error
    function, needed = getattr(found, "score", found), getattr(found, "REQUIRES", ("statistics",))
    if not callable(function):
        raise InputError(f"score {name!r}: its module has no function `score`")
    if unknown := sorted({*needed} - {*KINDS}):
        raise InputError(f"score {name!r}: REQUIRES names {', '.join(unknown)}; known: {', '.join(KINDS)}")
    taken = inspect.signature(function).parameters.get("objective")
    objective = taken.default if taken and isinstance(taken.default, str) else None
    kinds = getattr(found, "CHANNELS", False), getattr(found, "MIXTURES", False)
    return Plugin(function, tuple(needed), *kinds, objective)


def installed() -> dict[str, list[EntryPoint]]:
    """Return name -> entry points of installed packages that give a score of this name; there should be one."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, []).append(entry)
    return found


def check(score: str) -> str:
    """Return a score's name. Raises InputError for one that is none, and for one that several give."""
    others = installed()
    if score not in (*BUILT_IN, *others):
        listed = ", ".join(sorted(others)) or "none"
        raise InputError(f"unknown score {score!r}; built in: {', '.join(BUILT_IN)}; of installed packages: {listed}")
    given = [f"package {entry.dist.name}" for entry in others.get(score, ())] + ["built in"] * (score in BUILT_IN)
    if len(given) > 1:
        raise InputError(f"score {score!r}: given by several ({', '.join(given)}): rename it in the package")
    return score


def origin(score: str) -> tuple[list[str], dict[str, str]]:
    """Return the Python files of a package's score, all those in its folder, and `package` with name and version; of a
    built-in one neither."""
    if score in BUILT_IN:
        return [], {}
    [entry] = installed()[check(score)]
    spec = importlib.util.find_spec(entry.module)
    file = Path(spec.origin)
    in_package = "." in entry.module or spec.submodule_search_locations
    files = {file, *(file.parent.rglob("*.py") if in_package else ())}
    return sorted(map(str, files)), {"package": f"{entry.dist.name} {entry.dist.version}"}
