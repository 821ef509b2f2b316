"""Structures: what can be cut out of a model, one file each, with a subclass of `Structure` (base.py) and its instance.

A structure's *units* are what scores rank and masks keep. To add one, add a file to ALL; an allocation cuts it that
names it in its own STRUCTURES. One is a model's main one, in which sparsity is counted and which every mask has: FFN
neurons, or a mixture's experts (families.Family.main). Where plans are made, `ffn` stands for either.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pruning.models.families import DOWN_BIAS, Family
from pruning.models.structures import expert_neurons, experts, ffn, kv_groups
from pruning.models.structures.base import Main, Structure

ALL = (ffn, experts, expert_neurons, kv_groups)
STRUCTURES: dict[str, Structure] = {each.STRUCTURE.name: each.STRUCTURE for each in ALL}


def main(family: Family) -> Main:
    """Return the structure in which a family's sparsity is counted."""
    return STRUCTURES[family.main]


def of_model(names: Iterable[str], family: Family) -> list[str]:
    """Return the structures that these stand for in models of a family."""
    return [family.main if name == ffn.STRUCTURE.name else name for name in names]


def listed(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return structure -> units of each layer, of those that config.json lists; empty for a stock model."""
    found = {name: structure.listed(config) for name, structure in STRUCTURES.items()}
    return {name: units for name, units in found.items() if units}


def others(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the same of the structures beside FFN neurons."""
    return {name: units for name, units in listed(config).items() if name != ffn.STRUCTURE.name}


def keys() -> set[str]:
    """Return the keys of config.json with which stock classes do not build a model right."""
    return {DOWN_BIAS, *(structure.key for structure in STRUCTURES.values())}


def is_stock(config: Mapping[str, Any]) -> bool:
    """Return whether transformers' own class builds a model of this config.json."""
    return not keys() & config.keys()
