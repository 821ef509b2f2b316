"""Allocation: how many neurons each layer keeps. One file a scheme, each with `widths(problem, **options)`.

Schemes return wishes; `finish` turns them into whole numbers that respect `round_to` and `min_keep` (with `drop_layers`
there is no least width), the same way for all, and add up to what the wishes do. Within a layer the best-scored neurons
stay, ties going to the lower index, so masks at growing sparsity are nested as long as a scheme's widths shrink (with
`round_to` above 1 they need not: a total that is kept to moves layers up as well). To add a scheme, add a file here.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from pruning.core.errors import InputError
from pruning.methods import masks as masks_of

LEVELS = 16
"""Widths of a layer that are measured where a scheme asks for it: sixteenths, and the least."""


@dataclass(frozen=True)
class Problem:
    """What an allocation may look at."""

    scores: Sequence[np.ndarray]  # normalised, one float64 [n_l] a layer
    original: np.ndarray  # [layers], neurons before any pruning: n_l, or more where this is a further round
    sparsity: float  # per cent of the original FFN neurons to remove; whole, unless groups were removed before
    importance: np.ndarray  # [layers], mean angular distance a token between a layer's input and output
    floor: np.ndarray  # [layers], least neurons a layer keeps
    measured: pd.DataFrame | None = None  # what cuts cost (methods/sensitivity.py), for schemes that have SEARCH
    latencies: pd.DataFrame | None = None  # methods/latency_table.py, for schemes whose option `per` asks for it
    groups: Sequence[np.ndarray] = ()  # scores of key-value groups, a float64 [groups] a layer, for schemes with GROUPS
    neurons_worth: float = 0.0  # neurons of as many parameters as a group
    least_groups: int = 1  # that a layer keeps
    groups_removed: float = 0.0  # key-value groups removed in earlier iterations, as neurons of as many parameters

    @property
    def sizes(self) -> np.ndarray:
        return np.array([len(scores) for scores in self.scores])


def problem_of(
    scores: pd.DataFrame,
    layers: pd.DataFrame,
    base: Mapping[str, Any],
    min_keep: float | None,
    measured: pd.DataFrame | None = None,
    latencies: pd.DataFrame | None = None,
) -> Problem:
    """At sparsity 0, from artefacts: scores of one method, in the order of layers and units; the calibration's layers;
    manifest of the model that is pruned; `min_keep`, None where layers may be dropped; what cuts cost and how fast
    models are, where the scheme asks for it."""
    original = np.array(base["original"]["widths"])
    values = masks_of.by_layer(masks_of.of(scores, masks_of.NEURONS), "score", len(original))
    groups, worth = masks_of.of(scores, masks_of.GROUPS), 0.0
    if len(groups):
        worth = groups["parameters"].iloc[0] / scores.loc[scores["structure"] == masks_of.NEURONS, "parameters"].iloc[0]
    per_layer = layers.sort_values("layer")
    return Problem(
        scores=values,
        original=original,
        sparsity=0,
        importance=(per_layer["angular_sum"] / per_layer["n_tokens"]).to_numpy(),
        floor=least(original, [len(own) for own in values], min_keep),
        measured=measured,
        latencies=latencies,
        groups=masks_of.by_layer(groups, "score"),
        neurons_worth=worth,
        least_groups=0 if min_keep is None else 1,
        groups_removed=base.get("groups_removed", 0.0),
    )


def levels(size: int, least: int) -> list[int]:
    """Widths below the whole layer, the largest first."""
    return sorted({max(least, size * part // LEVELS) for part in range(LEVELS)} - {size}, reverse=True)


def search_of(scheme: str) -> str | None:
    """Which measurement a scheme asks for (methods/sensitivity.py), if any."""
    return getattr(importlib.import_module(f"pruning.methods.allocation.{scheme}"), "SEARCH", None)


def cuts_groups(scheme: str) -> bool:
    """Whether it cuts key-value groups as well; such a scheme has `counts(problem)` of them beside `widths`."""
    return getattr(importlib.import_module(f"pruning.methods.allocation.{scheme}"), "GROUPS", False)


def keeps_to_speed(scheme: str) -> bool:
    """Whether it has the option `per` (methods/latency_table.py)."""
    own = importlib.import_module(f"pruning.methods.allocation.{scheme}").widths
    return "per" in inspect.signature(own).parameters


def widths(problem: Problem, sparsity: int, method: Mapping[str, Any]) -> np.ndarray:
    """int [layers]. method: `allocate`, its `options`, and `round_to`."""
    scheme, own = _asked(problem, sparsity, method)
    return finish(scheme.widths(own, **method["options"]), own, method["round_to"])


def counts(problem: Problem, sparsity: int, method: Mapping[str, Any]) -> np.ndarray | None:
    """int [layers] of key-value groups; None where the scheme cuts none. method: as of `widths`."""
    scheme, own = _asked(problem, sparsity, method)
    return scheme.counts(own, **method["options"]) if problem.groups else None


def _asked(problem: Problem, sparsity: int, method: Mapping[str, Any]) -> tuple[ModuleType, Problem]:
    """The scheme and its problem: what was removed as groups counts, and floors are widths that `round_to` permits."""
    scheme = importlib.import_module(f"pruning.methods.allocation.{method['allocate']}")
    left = max(0.0, sparsity - 100 * problem.groups_removed / problem.original.sum())
    floor = permitted(problem.floor, problem.sizes, method["round_to"])
    return scheme, replace(problem, sparsity=left if problem.groups_removed else sparsity, floor=floor)


def achieved(problem: Problem, widths: np.ndarray, counts: np.ndarray | None = None) -> float:
    """The share of the FFN neurons that is removed; key-value groups count as the neurons of as many parameters."""
    groups = 0 if counts is None else sum(map(len, problem.groups)) - counts.sum()
    gone = problem.original.sum() - widths.sum() + problem.groups_removed + groups * problem.neurons_worth
    return float(gone / problem.original.sum())


def kept(size: int | np.ndarray, sparsity: float) -> int | np.ndarray:
    """Neurons left of `size` at `sparsity` per cent, removals rounded half up; exact for whole per cents."""
    return size - np.asarray((size * sparsity + 50) // 100).astype(int)


def floors(sizes: np.ndarray, min_keep: float | None) -> np.ndarray:
    """Least width of each layer: the fraction `min_keep` of it, at least one neuron; None: no neuron at all."""
    if min_keep is None:
        return np.zeros(len(sizes), dtype=int)
    return np.maximum(1, np.ceil(sizes * min_keep)).astype(int)


def least(original: Sequence[int], sizes: Sequence[int], min_keep: float | None) -> np.ndarray:
    """Least width of each layer: the floor of the layer before any pruning, or all that is left of it."""
    return np.minimum(floors(np.asarray(original), min_keep), sizes)


def permitted(floor: np.ndarray, sizes: np.ndarray, round_to: int) -> np.ndarray:
    """Least widths that are multiples of `round_to`, or the whole layer."""
    return np.minimum(-(-floor // round_to) * round_to, sizes)


def finish(wishes: np.ndarray, problem: Problem, round_to: int) -> np.ndarray:
    """Whole widths between floor and size, nearest (half up) to the wishes, in multiples of `round_to` or whole layers.

    Multiples add up to what the wishes do as nearly as one step allows: beyond nearest ones, the layers take a step
    whose widths stay nearest to their wishes, ties up to the lower layer and down to the higher one."""
    floor, sizes = permitted(problem.floor, problem.sizes, round_to), problem.sizes
    wishes = filled(np.maximum(np.asarray(wishes, dtype=np.float64), 0), floor, sizes)
    widths = np.clip((np.floor(wishes / round_to + 0.5) * round_to).astype(int), floor, sizes)
    while round_to > 1:
        excess = widths.sum() - wishes.sum()
        if excess > 0:
            moved = np.maximum((-(-widths // round_to) - 1) * round_to, floor)
        else:
            moved = np.minimum((widths // round_to + 1) * round_to, sizes)
        step = np.abs(moved - widths)
        useful = np.flatnonzero((step > 0) & (step < 2 * abs(excess)))[:: -1 if excess > 0 else 1]
        if not len(useful):
            break
        chosen = useful[np.abs(moved - wishes)[useful].argmin()]
        widths[chosen] = moved[chosen]
    return widths


def filled(wishes: np.ndarray, floor: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Wishes between floor and size: what that adds or takes, the other layers give or get in proportion, if they can.

    So layers that are narrow already, or small, do not change the model's sparsity; float64 [layers]."""
    found, some = np.clip(wishes, floor, sizes), wishes > 0
    if np.isclose(found.sum(), wishes.sum(), rtol=1e-9) or not some.any():
        return found
    bends = np.concatenate([bound[some] / wishes[some] for bound in (floor, sizes)])
    factors = np.unique([0.0, *bends])
    totals = [np.clip(factor * wishes, floor, sizes).sum() for factor in factors]
    return np.clip(np.interp(wishes.sum(), totals, factors) * wishes, floor, sizes)


def ranking(scores: np.ndarray) -> np.ndarray:
    """Neurons from best to worst, ties to the lower index."""
    return np.argsort(-scores, kind="stable")


def masks(scores: Sequence[np.ndarray], widths: np.ndarray) -> list[np.ndarray]:
    """keep[c] of each layer: True for its `width` best neurons. Raises InputError if none is kept in any layer."""
    if not np.any(widths):
        raise InputError(
            "drop_layers: of all layers no FFN neuron would stay, or no key-value group: ask for a lower sparsity "
            "or `round_to`, or leave `drop_layers` out"
        )
    keeps = []
    for layer_scores, width in zip(scores, widths, strict=True):
        keep = np.zeros(len(layer_scores), dtype=bool)
        keep[ranking(layer_scores)[:width]] = True
        keeps.append(keep)
    return keeps
