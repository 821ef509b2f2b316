"""Structures: what can be cut out of a model, one file each.

A structure's *units* are what scores rank and masks keep. Its file says, and nothing else does, where a unit's
activation is measured (`sites`), which rows and columns of which tensors are a unit's (`parse` or `axis_of`, `cut`),
what config.json calls their number (`compact_config`, `widths_of`; `counts_of`, `listed`), and how a loaded model gets
another (`resize`, `shrink`).
"""

from torch import nn

from pruning.models.structures import ffn, kv_groups


def sites(model: nn.Module, structure: str = "ffn") -> list[nn.Linear]:
    """The module of each layer whose input holds the activations of a structure's units. Raises InputError as its file
    does."""
    return {"ffn": ffn, "kv_groups": kv_groups}[structure].sites(model)


def counts(model: nn.Module, structure: str = "ffn") -> list[int]:
    """Units of each layer. Raises InputError as `sites` does."""
    widths = [site.in_features for site in sites(model, structure)]
    return kv_groups.counts_of(model.config.to_dict()) if structure == "kv_groups" else widths
