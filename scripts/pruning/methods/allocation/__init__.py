"""Allocation: how many units each layer keeps. One file a scheme, each with `widths(problem, **options)`.

Schemes return wishes, neurons of each layer; a scheme that cuts other structures as well names all in `STRUCTURES` and
returns such an array of each. `SEARCH` names what of methods/sensitivity.py it is made of, if anything; `REQUIRES`
other tables of a calibration that it looks at.

With `WITHIN` other units are ranked within the unit of the main structure that they belong to, as many in each.

`finish` turns wishes of neurons into whole numbers that respect `round_to` and `min_keep` (with `drop_layers` there is
no least width), the same way for all, and add up to what the wishes do. Within a layer the best-scored units stay, ties
going to the lower index, so masks at growing sparsity are nested as long as a scheme's widths shrink (with `round_to`
above 1 they need not: a total that is kept to moves layers up as well). To add a scheme, add a file here.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import masks as masks_of
from pruning.methods.masks import NEURONS
from pruning.models.families import check_routed

LEVELS = 16  # Widths of a layer that are measured where a scheme asks for it: sixteenths, and the least


@dataclass(frozen=True)
class Others:
    """Units of a structure that is cut beside FFN neurons."""

    scores: Sequence[np.ndarray]  # float64 [units] a layer
    worth: float  # neurons of as many parameters as a unit
    least: int = 1  # units that a layer keeps


@dataclass(frozen=True)
class Problem:
    """What an allocation may look at."""

    scores: Sequence[np.ndarray]  # of neurons, normalised, one float64 [n_l] a layer
    original: np.ndarray  # [layers], neurons before any pruning: n_l, or more where this is a further iteration
    sparsity: float  # per cent of the original FFN neurons to remove; whole, unless others were removed before
    importance: np.ndarray | None  # [layers], mean angular distance a token between a layer's input and output
    floor: np.ndarray  # [layers], least neurons a layer keeps
    measured: pd.DataFrame | None = None  # what cuts cost (methods/sensitivity.py), for schemes that have SEARCH
    latencies: pd.DataFrame | None = None  # methods/latency_table.py, for schemes whose option `per` asks for it
    others: Mapping[str, Others] = field(default_factory=dict)  # by structure, for schemes with STRUCTURES
    main: str = NEURONS  # the structure that `scores` and `sparsity` are of: neurons, or experts
    routed: int = 0  # experts that a token is sent to, which a mixture keeps at least
    removed: float = 0.0  # of others, in earlier iterations, as neurons of as many parameters

    @property
    def sizes(self) -> np.ndarray:
        return np.array([len(scores) for scores in self.scores])


def problem_of(
    scores: pd.DataFrame,
    layers: pd.DataFrame | None,
    base: Mapping[str, Any],
    min_keep: float | None,
    measured: pd.DataFrame | None = None,
    latencies: pd.DataFrame | None = None,
) -> Problem:
    """Return the problem at sparsity 0, from artefacts: scores of one method, in the order of layers and units; the
    calibration's layers, None where no scheme looks at them; manifest of the model that is pruned; `min_keep`, None
    where layers may be dropped; what cuts cost and how fast models are, where the scheme asks for it."""
    original = np.array(base["original"]["widths"])
    main, *beside = masks_of.structures_of(scores)
    values = masks_of.by_layer(masks_of.of(scores, main), "score", len(original))
    others = {}
    for name in beside:
        rows = masks_of.of(scores, name)
        worth = rows["parameters"].iloc[0] / masks_of.of(scores, main)["parameters"].iloc[0]
        others[name] = Others(masks_of.by_layer(rows, "score"), worth, 0 if min_keep is None else 1)
    per_layer = None if layers is None else layers.sort_values("layer")
    return Problem(
        scores=values,
        original=original,
        sparsity=0,
        importance=None if layers is None else (per_layer["angular_sum"] / per_layer["n_tokens"]).to_numpy(),
        floor=np.maximum(least(original, [len(own) for own in values], min_keep), base.get("experts_per_token", 0)),
        measured=measured,
        latencies=latencies,
        others=others,
        main=main,
        routed=base.get("experts_per_token", 0),
        removed=base.get("groups_removed", 0.0),
    )


def read_problem(frame: pd.DataFrame, base: Path, min_keep: float | None, evidence: Mapping[str, Path]) -> Problem:
    """Return the same, from scores and the files of the other artefacts; evidence: those that the method's scheme asks
    for, by kind. Raises InputError where one is not whole."""
    asked = {kind: artifacts.read_parquet(path, kind) for kind, path in evidence.items()}
    whole = artifacts.read_json(base, "base")
    return problem_of(frame, asked.get("layers"), whole, min_keep, asked.get("sensitivity"), asked.get("latency_table"))


def levels(size: int, least: int) -> list[int]:
    """Widths below the whole layer, the largest first."""
    return sorted({max(least, size * part // LEVELS) for part in range(LEVELS)} - {size}, reverse=True)


def plugin(scheme: str) -> ModuleType:
    return importlib.import_module(f"pruning.methods.allocation.{scheme}")


def search_of(scheme: str) -> str | None:
    """Return which measurement a scheme asks for (methods/sensitivity.py), if any."""
    return getattr(plugin(scheme), "SEARCH", None)


def check_measured(scheme: str, measured: pd.DataFrame | None) -> None:
    """Raises InputError where a scheme goes by the measured cost of removals, and that is missing or not finite."""
    if measured is None and search_of(scheme):
        said = "needs the measured cost of removals: give `measured` (methods/sensitivity.py)"
        raise InputError(f"scheme: {scheme!r} {said}")
    if measured is not None and not np.isfinite(measured["divergence"]).all():
        raise InputError("measured: NaN or Inf in `divergence`: measure again in a wider dtype")


def requires(scheme: str) -> tuple[str, ...]:
    """Return the kinds of a calibration's tables that a scheme looks at, beside scores and what cuts cost."""
    return getattr(plugin(scheme), "REQUIRES", ())


def structures_of(scheme: str) -> tuple[str, ...]:
    """Return the structures that a scheme cuts, the main one first, which is `ffn` for mixtures of experts as well."""
    return getattr(plugin(scheme), "STRUCTURES", (NEURONS,))


def keeps_to_speed(scheme: str) -> bool:
    """Return whether a scheme has the option `per` (methods/latency_table.py)."""
    return "per" in inspect.signature(plugin(scheme).widths).parameters


def units(problem: Problem, sparsity: float, method: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return structure -> units that each layer keeps, int [layers]. method: `allocate`, its `options`, and `round_to`.

    What was removed of other structures before counts, and floors are widths that `round_to` permits."""
    left = max(0.0, sparsity - 100 * problem.removed / problem.original.sum())
    floor = permitted(problem.floor, problem.sizes, method["round_to"])
    own = replace(problem, sparsity=left if problem.removed else sparsity, floor=floor)
    wishes = plugin(method["allocate"]).widths(own, **method["options"])
    wishes = wishes if isinstance(wishes, Mapping) else {problem.main: wishes}
    return {**wishes, problem.main: finish(wishes[problem.main], own, method["round_to"])}


def mask(
    frame: pd.DataFrame, problem: Problem, sparsity: float, method: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return a row per unit (of several structures `structure`; `layer`, `unit`, `keep`), and what `units` does.

    frame: the scores of which the problem is. Raises InputError as `masks` does, and where a mixture would keep fewer
    experts than a token is sent to."""
    if problem.routed and len(structures_of(method["allocate"])) == 1:
        check_routed(int(problem.original[0]), problem.routed, int(kept(problem.original, sparsity)[0]))
    found, frames = units(problem, sparsity, method), []
    for structure, counts in found.items():
        scored, within = problem.scores, False
        if structure != problem.main:
            scored, within = problem.others[structure].scores, hasattr(plugin(method["allocate"]), "WITHIN")
        keep = np.concatenate(masks(scored, counts, problem.sizes if within else 1))
        frames.append(masks_of.of(frame, structure).assign(keep=keep))
    columns = [*(["structure"] if {*found} != {NEURONS} else []), "layer", "unit", "keep"]
    return pd.concat(frames, ignore_index=True)[columns], found


def achieved(problem: Problem, units: Mapping[str, np.ndarray]) -> float:
    """Return the share of the main structure's units that is removed; others count as those of as many parameters."""
    others = sum(
        (sum(map(len, own.scores)) - units[name].sum()) * own.worth
        for name, own in problem.others.items()
        if name in units
    )
    removed = problem.original.sum() - units[problem.main].sum() + problem.removed + others
    return float(removed / problem.original.sum())


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
    """Units from best to worst, ties to the lower index; of each row on its own."""
    return np.argsort(-scores, kind="stable")


def masks(scores: Sequence[np.ndarray], widths: np.ndarray, blocks: int | np.ndarray = 1) -> list[np.ndarray]:
    """keep[c] of each layer: True for its `width` best neurons, of so many equal blocks as many each.

    Raises InputError if none is kept in any layer."""
    if not np.any(widths):
        raise InputError(
            "drop_layers: of all layers no FFN neuron would stay, or no unit of another structure: ask for a lower "
            "sparsity or `round_to`, or leave `drop_layers` out"
        )
    keeps = []
    for own, width, parts in zip(scores, widths, np.broadcast_to(blocks, len(widths)), strict=True):
        rows = own.reshape(parts, len(own) // parts)
        keep = np.zeros(rows.shape, dtype=bool)
        np.put_along_axis(keep, ranking(rows)[:, : width // parts], True, axis=1)
        keeps.append(keep.flatten())
    return keeps
