"""Structures: what can be cut out of a model, one file each, with a subclass of `Structure` (base.py) and its instance.

A structure's *units* are what scores rank and masks keep. To add one, add a file and name it in STRUCTURES; an
allocation cuts it that names it in its own STRUCTURES.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pruning.models.families import DOWN_BIAS
from pruning.models.structures import ffn, kv_groups
from pruning.models.structures.base import Structure

if TYPE_CHECKING:
    from torch import nn

STRUCTURES: dict[str, Structure] = {each.STRUCTURE.name: each.STRUCTURE for each in (ffn, kv_groups)}


def kind_of(measured: str, structure: str = "ffn") -> str:
    """Return the kind of artefact of what is measured of a structure: that of FFN neurons has the plain name."""
    label = "" if structure == ffn.STRUCTURE.name else f"{STRUCTURES[structure].label}_"
    return f"{label}{measured}".removesuffix("_statistics")


def titles(names: Iterable[str]) -> str:
    """Return what texts for people call the structures of these beside FFN neurons."""
    return " and ".join(STRUCTURES[name].title for name in names if name != ffn.STRUCTURE.name)


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


def sites(model: nn.Module, structure: str = "ffn") -> list[nn.Linear]:
    """Return the module of each layer whose input holds the activations of a structure's units.

    Raises InputError for a model without such units."""
    return STRUCTURES[structure].sites(model)


def counts(model: nn.Module, structure: str = "ffn") -> list[int]:
    """Return the units of each layer. Raises InputError as `sites` does."""
    return STRUCTURES[structure].counts(model)
