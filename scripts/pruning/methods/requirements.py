"""What a method reads, as its plug-ins declare it (REQUIRES, SEARCH, STRUCTURES, REFITS): for the rules, the costs of a
table and estimates.

Kinds of artefacts are those of core/names.py in small letters, and those that layer_files.kind_of names. They are
tables, or matrices: a directory of one file per layer, beside its manifest. A method is one of config/methods.py.
"""

from collections.abc import Mapping
from typing import Any

from pruning.core import names
from pruning.core.layer_files import kind_of
from pruning.methods import allocation, compensation, latency_table, scores


def kinds(method: Any, stage: str) -> list[str]:
    """Return what a stage (`score`, `sensitivity`, `mask` or `compact`) reads of one method, beside what it reads of
    all. Of a score its table of neurons comes first, where it has one.

    After a measured cut the rest is refitted by plain ridge regression wherever the method's scheme refits at all."""
    structures, searched = allocation.structures_of(method.allocate), allocation.search_of(method.allocate)
    if stage == "score":
        own = scores.plugin(method.score).requires
        measured = [kind_of(kind, name) for name in structures for kind in own]
        return list(dict.fromkeys([*filter(is_table, own), *measured]))
    if stage == "sensitivity":
        refitted = compensation.refits(method.compensate) if searched else ()
        return [kind_of("second_moments", name) for name in structures if name in refitted]
    if stage == "mask":
        timed = latency_table.per_of(method.allocate_options) != latency_table.PARAMETERS
        return [*allocation.requires(method.allocate)] + ["sensitivity"] * bool(searched) + ["latency_table"] * timed
    return list(compensation.requires(method.compensate))


def passes(method: Any) -> list[str]:
    """Return what of a calibration, and of the model, a method's variants are made of, in the order of their making."""
    found = [kind for stage in ("score", "sensitivity", "compact", "mask") for kind in kinds(method, stage)]
    found = ["shards" if kind in ("statistics", "layers") else kind for kind in found]  # which merge into them
    return [kind for kind in dict.fromkeys(found) if kind not in ("sensitivity", "refit")]


def is_table(kind: str) -> bool:
    return names.of_kind(kind).endswith(".parquet")


def files(method: Any, stage: str, wildcards: Mapping[str, str]) -> dict[str, str]:
    """Return kind -> the file that a stage reads first: a table, or a manifest."""
    paths = {kind: names.of_kind(kind).format(**wildcards) for kind in kinds(method, stage)}
    return {kind: path if is_table(kind) else f"{path}.json" for kind, path in paths.items()}


def directories(method: Any, stage: str, wildcards: Mapping[str, str]) -> list[str]:
    """Return the directories beside the manifests."""
    return [path.removesuffix(".json") for path in files(method, stage, wildcards).values() if path.endswith(".json")]
