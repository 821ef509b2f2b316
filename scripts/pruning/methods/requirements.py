"""What a method reads, as its plug-ins declare it (REQUIRES, SEARCH, STRUCTURES, REFITS): for the rules, the costs of a
table and estimates.

Kinds of artefacts are those of core/names.py in small letters: `second_moments` lies at names.SECOND_MOMENTS.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from pruning.core import names
from pruning.core.layer_files import kind_of
from pruning.methods import allocation, compensation, latency_table, scores


class Method(Protocol):
    """A method of the config."""

    score: str
    allocate: str
    allocate_options: dict[str, Any]
    compensate: str


def of_stage(method: Method, stage: str) -> list[str]:
    """Return the kinds of artefacts that a stage (`score`, `sensitivity`, `mask` or `compact`) reads of one method,
    beside those that it reads of all. A score's table of neurons comes first."""
    return {"score": of_score, "sensitivity": of_sensitivity, "mask": of_mask, "compact": of_compact}[stage](method)


def of_score(method: Method) -> list[str]:
    kinds = scores.requires(method.score)
    table = next(filter(is_table, kinds), "statistics")
    structures = allocation.structures_of(method.allocate)
    return list(dict.fromkeys([table, *(kind_of(kind, name) for name in structures for kind in kinds)]))


def of_sensitivity(method: Method) -> list[str]:
    """What cuts leave is refitted by plain ridge regression wherever the method's scheme refits at all."""
    if not allocation.search_of(method.allocate):
        return []
    refitted = compensation.refits(method.compensate)
    return [kind_of("second_moments", name) for name in allocation.structures_of(method.allocate) if name in refitted]


def of_mask(method: Method) -> list[str]:
    measured = ["sensitivity"] if allocation.search_of(method.allocate) else []
    timed = latency_table.per_of(method.allocate_options) != latency_table.PARAMETERS
    return measured + (["latency_table"] if timed else [])


def of_compact(method: Method) -> list[str]:
    return list(compensation.requires(method.compensate))


def path_of(kind: str) -> str:
    """Return the template of an artefact's path."""
    return getattr(names, kind.upper())


def is_table(kind: str) -> bool:
    """Return whether an artefact is one table; others are directories of a file a layer, beside their manifests."""
    return path_of(kind).endswith(".parquet")


def paths(method: Method, stage: str, wildcards: Mapping[str, str], tables: bool) -> dict[str, str]:
    """Return kind -> path of what `of_stage` says, either of the tables or of the directories."""
    kinds = [kind for kind in of_stage(method, stage) if is_table(kind) == tables]
    return {kind: path_of(kind).format(**wildcards) for kind in kinds}


def passes(method: Method) -> list[str]:
    """Return what of a calibration, and of the model, a method's variants are made of, in the order of their making."""
    kinds = [kind for stage in ("score", "sensitivity", "compact", "mask") for kind in of_stage(method, stage)]
    made_of = [kind for kind in kinds if kind not in ("statistics", "sensitivity", "refit")]
    return list(dict.fromkeys(["shards", *made_of]))
