"""From what was measured of a model, in memory or in artefacts, to a score per unit."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pruning.core import artifacts, layer_files
from pruning.core.errors import InputError
from pruning.core.layer_files import kind_of
from pruning.methods import masks, scores
from pruning.methods.masks import NEURONS
from pruning.models.families import family_of, read_config

if TYPE_CHECKING:
    from pruning.models.checkpoint import Tensors  # needs torch, which most scores do not

FEW = 100  # Tokens of an expert: of a mean over so many the standard error is a tenth of what single tokens differ by
Read = Callable[[int, str, str], Mapping[str, np.ndarray]]
"""From a layer, a structure and a kind of matrices (REQUIRES) to that layer's, with the counts of tokens."""


# Normalisation within a layer, so that layers can compete in one ranking; each function takes and returns one layer's
# scores, float64 [n]. All are increasing: under uniform allocation none of them can change a mask.

EPSILON = 1e-30  # the paper's eps in Eq. 2; keeps a silent layer at 0


def none(scores: np.ndarray) -> np.ndarray:
    return scores


def layer_sum(scores: np.ndarray) -> np.ndarray:
    """RKU_c = U_c / (sum_j U_j + eps): the paper's Eq. 2, "Fisher trace normalization"."""
    return scores / (np.abs(scores).sum() + EPSILON)  # no preset's are negative, a user's may be


def layer_mean(scores: np.ndarray) -> np.ndarray:
    return scores / (np.abs(scores).mean() + EPSILON)


def layer_l2(scores: np.ndarray) -> np.ndarray:
    """Molchanov et al. 2017, section 2.2: divide by the layer's L2 norm."""
    return scores / (np.linalg.norm(scores) + EPSILON)


def zscore(scores: np.ndarray) -> np.ndarray:
    """FLAP's standardisation: zero mean, unit (unbiased) standard deviation; a constant layer is all zero."""
    if scores.max() == scores.min():
        return np.zeros_like(scores)
    scaled = scores / np.abs(scores).max()  # squares of tiny scores would underflow
    return (scaled - scaled.mean()) / scaled.std(ddof=1)


NORMALISATIONS = {f.__name__: f for f in (none, layer_sum, layer_mean, layer_l2, zscore)}


def check_model(
    tables: Mapping[str, pd.DataFrame],
    matrices: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    structures: Iterable[str],
    base: "Tensors",
) -> None:
    """Raises InputError for statistics of a model with layers of other sizes. tables, matrices: by kind."""
    otherwise = "statistics: of another model"
    if "statistics" in tables:
        masks.check_widths(tables["statistics"], base.channels(base.main.name), otherwise)
    for name in structures:
        if (kind := kind_of("second_moments", name)) not in matrices:
            continue
        if (measured := [len(own["fit"]) for own in matrices[kind]]) != (own := base.channels(name)):
            raise InputError(f"{otherwise}: second moments of {measured} inputs, not {own}")


def scored(
    settings: Mapping[str, Any],
    structures: Iterable[str],
    tables: Mapping[str, pd.DataFrame],
    matrices: Iterable[str],
    read: Read,
    model: Callable[[], "Tensors"],
    progress: Callable = lambda items, _: items,
    warn: Callable[[str], None] = lambda _: None,
) -> pd.DataFrame:
    """Return one row per unit: `layer`, `unit`, `score` (float64), and, of others than FFN neurons alone, `structure`
    and `parameters` (those of one unit).

    settings: `score` (a name or a function), its `options`, `normalise`, `shuffle`. tables, matrices: what was
    measured, by kind. model: the dense model, called where its weights are looked at. warn: told of experts that few
    tokens were sent to. Raises InputError, naming the
    score, if something is missing, an option is wrong, or a score is not finite or not one per unit."""
    plugin, structures = scores.plugin(settings["score"]), list(structures)
    what = f"score {getattr(settings['score'], '__name__', settings['score'])!r}"
    table = next((kind for kind in plugin.requires if kind in tables), None)  # whose rows are the neurons
    needed = {kind_of(kind, name) for kind in plugin.requires for name in structures}
    if missing := sorted(needed - {*tables, *matrices}):
        raise InputError(f"{what} needs {', '.join(missing)}, which was not measured (REQUIRES)")

    def values(layer: scores.Layer, units: int, name: str) -> np.ndarray:
        """A score per unit: one that is made of channels' is their sum."""
        try:
            found = np.asarray(plugin.score(layer, **settings["options"]), dtype=np.float64)
            if found.size not in (units, units * layer.block):
                raise ValueError(f"it gives {found.size} numbers for {units} units")
            found = NORMALISATIONS[settings["normalise"]](found.reshape(units, -1).sum(1))
        except (TypeError, ValueError) as error:
            raise InputError(f"{what} with options {settings['options']}: {error}") from None
        if settings["shuffle"] is not None:
            found = np.random.default_rng((settings["shuffle"], layer.index)).permutation(found)
        if not np.isfinite(found).all():
            raise InputError(f"{what}: NaN or Inf in layer {layer.index} of {name}")
        return found

    frames, seldom = [], []
    for name in structures:
        neurons, rows = name == NEURONS, tables.get(kind_of(table, name)) if table else None
        own = {} if rows is None else dict(list(rows.groupby("layer")))
        of_table = {index: len(each) for index, each in own.items()} if neurons else {}
        counts = of_table or {index: count for index, count in enumerate(model().units(name)) if count}
        sizes = {"structure": name, "parameters": model().size(name)} if structures != [NEURONS] else {}
        for index, count in progress(list(counts.items()), f"layers, {name}"):
            block = 1 if neurons else model().channels(name)[index] // count
            columns = {column: each.to_numpy() for column, each in own.get(index, {}).items()}
            columns = columns or {"unit": np.arange(count * block)}
            weights = scores.Weights(lambda which, at=(index, name): model().matrix(at[0], which, at[1]))
            found = values(scores.Layer(index, columns, weights, partial(read, index, name), block), count, name)
            units = columns["unit"] if neurons else np.arange(count)
            frames.append(pd.DataFrame({"layer": index, "unit": units, "score": found}).assign(**sizes))
            if "routed_tokens" in columns:
                seldom += [(int(n), index, unit) for unit, n in enumerate(columns["routed_tokens"][::block]) if n < FEW]
    if seldom:
        warn(f"warning: {few(sorted(seldom))}")
    return pd.concat(frames, ignore_index=True)


def few(found: Sequence[tuple[int, int, int]]) -> str:
    """Return what is to be said of experts (tokens, layer, expert), the least first, that few tokens were sent to."""
    named = ", ".join(f"layer {layer}'s {expert} got {tokens}" for tokens, layer, expert in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return (
        f"experts that fewer than {FEW} calibration tokens were sent to ({named}{more}): their scores are uncertain; "
        "raise `samples` or `sequence_length`, or calibrate on other text"
    )


def scored_from(
    settings: Mapping[str, Any],
    structures: Iterable[str],
    evidence: Mapping[str, Path],
    model: Path,
    progress: Callable,
    warn: Callable[[str], None],
) -> pd.DataFrame:
    """Return the same of artefacts: tables, and manifests of matrices, by kind. model: directory of the dense model,
    whose main structure `ffn` stands for.

    Raises InputError as `scored` does, and where an artefact or the model is not whole."""
    tables = {kind: artifacts.read_parquet(path, kind) for kind, path in evidence.items() if path.suffix == ".parquet"}
    main = family_of(read_config(model), model).main
    own = [main if name == NEURONS else name for name in structures]

    @cache
    def checkpoint() -> "Tensors":
        from pruning.models.checkpoint import Checkpoint

        artifacts.check_model(model)
        return Checkpoint(model)

    @cache
    def matrices(kind: str, name: str) -> Callable[[int], dict[str, Any]]:
        return layer_files.read(evidence[kind], kind, checkpoint().channels(name))[0]

    def read(index: int, name: str, kind: str) -> dict[str, Any]:
        return matrices(kind_of(kind, name), name)(index)

    return scored(settings, own, tables, evidence, read, checkpoint, progress, warn)
