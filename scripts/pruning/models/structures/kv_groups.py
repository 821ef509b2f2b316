"""Key-value groups: a head of keys and values and the query heads that read it (grouped-query attention, Ainslie et al.
2023, arXiv 2305.13245). A group is rows of q, k and v and columns of o, all of one length each; it is measured at the
input of o, channel by channel.

How many query heads read a group stays the same, so a layer's attention is what transformers' own class computes: it
takes the number of heads from the tensors. config.json keeps the dense model's heads, and lists the groups of each
layer under `kv_groups`. A layer without a group has a `Dropped` in the place of its attention.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.models import families
from pruning.models.families import Family

CONFIG_KEY = families.GROUPS
"""Absent: as many everywhere as `num_key_value_heads`."""


def projections(family: Family) -> dict[str, int]:
    """Module of a layer -> the axis of its weight that has so many entries a group.

    Raises InputError for a family whose attention cannot be cut by groups."""
    if not family.qkv:
        raise InputError(
            "key-value groups cannot be cut out of this family's attention (fused projections, or norms over all "
            "heads); use an allocation other than `joint` and `sensitivity_joint`"
        )
    return {**dict.fromkeys(family.qkv, 0), family.attention_out: 1}


@cache
def pattern(family: Family) -> re.Pattern[str]:
    layers, modules = family.layers.rpartition(".")[2], "|".join(map(re.escape, projections(family)))
    return re.compile(rf"^.*\b{layers}\.(?P<layer>\d+)\.(?P<module>{modules})\.(?P<kind>weight|bias)$")


def axis_of(name: str, family: Family) -> tuple[int, int] | None:
    """(layer, axis along which a tensor of this name has so many entries a group); None: along none."""
    if not (found := pattern(family).match(name)):
        return None
    axis = projections(family)[found["module"]]
    return None if axis and found["kind"] == "bias" else (int(found["layer"]), axis)


def cut(name: str, tensor: Tensor, keeps: Sequence[np.ndarray], family: Family) -> Tensor:
    """The kept groups' part of a tensor of attention; others come back as they are. keeps: a bool [groups] a layer."""
    if not (found := axis_of(name, family)):
        return tensor
    layer, axis = found
    channels = np.flatnonzero(np.repeat(keeps[layer], tensor.shape[axis] // len(keeps[layer])))
    return tensor.index_select(axis, torch.from_numpy(channels).to(tensor.device)).contiguous()


def cut_shape(name: str, shape: Sequence[int], keeps: Sequence[np.ndarray], family: Family) -> list[int]:
    """Of what `cut` gives of a tensor of this shape."""
    shape = list(shape)
    if found := axis_of(name, family):
        layer, axis = found
        shape[axis] = shape[axis] // len(keeps[layer]) * int(keeps[layer].sum())
    return shape


def counts_of(config: Mapping[str, Any]) -> list[int]:
    """Groups of each layer of a model with this config.json.

    Raises InputError for one without grouped queries: a group would be a head, and its keys and values its own."""
    heads, groups = config["num_attention_heads"], config.get("num_key_value_heads")
    if not groups or groups == heads:
        raise InputError(
            f"{config.get('model_type')} model with {heads} query and as many key-value heads: no grouped-query "
            "attention, so no groups to cut; use an allocation other than `joint` and `sensitivity_joint`"
        )
    return list(config.get(CONFIG_KEY) or [groups] * config["num_hidden_layers"])


def listed(config: Mapping[str, Any]) -> list[int]:
    """Of the layers of a model that was cut; empty for others."""
    return list(config.get(CONFIG_KEY) or ())


# In memory -----------------------------------------------------------------------------------------------------------


class Dropped(nn.Module):
    """Attention without a group: its output projection [d, 0] makes zeros of nothing, or its bias.

    transformers' own classes cannot count heads of no channels. Lengths, and with them masks and positions, are read
    from what the cache holds of a layer, so it gets a channel of zeros for each token."""

    def __init__(self, attention: nn.Module, out: str):
        """out: name of its output projection. The modules that it has stay, under their names."""
        super().__init__()
        self.layer_idx, self.out = attention.layer_idx, out
        for name, module in attention.named_children():
            self.add_module(name, module)

    def forward(
        self, hidden_states: Tensor, cache: Any = None, past_key_values: Any = None, **_: Any
    ) -> tuple[Tensor, None]:
        cache = past_key_values if cache is None else cache  # its name before transformers 5.24
        if cache is not None:
            nothing = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            cache.update(nothing, nothing, self.layer_idx)
        return self.get_submodule(self.out)(hidden_states[..., :0]), None


def drop(block: nn.Module, family: Family) -> None:
    """Put a `Dropped` in the place of a decoder layer's attention, whose projections have no groups left."""
    place, _, out = family.attention_out.rpartition(".")
    block.set_submodule(place, Dropped(block.get_submodule(place), out))


def sites(model: nn.Module) -> list[nn.Linear]:
    """The module of each layer whose input [B, T, groups * channels] holds what the groups hand on."""
    family = families.of(model)
    projections(family)
    counts_of(model.config.to_dict())
    return [layer.get_submodule(family.attention_out) for layer in families.decoder_layers(model)]


def resize(model: nn.Module, counts: Sequence[int]) -> None:
    """Give each layer's attention new weights for so many groups, on the device and in the dtype of the old ones.

    The model is as its stock class builds it, with `num_key_value_heads` groups in every layer."""
    family, whole = families.of(model), model.config.num_key_value_heads
    for layer, count in zip(families.decoder_layers(model), counts, strict=True):
        for name, axis in projections(family).items():
            old = layer.get_submodule(name)
            shape = [old.in_features, old.out_features]
            shape[1 - axis] = shape[1 - axis] // whole * count
            new = nn.Linear(*shape, bias=old.bias is not None, dtype=old.weight.dtype, device=old.weight.device)
            layer.set_submodule(name, new)
        if not count:
            drop(layer, family)


def shrink(block: nn.Module, layer: int, keeps: Sequence[np.ndarray], family: Family) -> None:
    """Cut one decoder layer's attention down to its kept groups, in place."""
    for name in projections(family):
        module = block.get_submodule(name)
        for kind, parameter in list(module.named_parameters(recurse=False)):
            kept = cut(f"{family.layers}.{layer}.{name}.{kind}", parameter.data, keeps, family)
            setattr(module, kind, nn.Parameter(kept, requires_grad=parameter.requires_grad))
        module.out_features, module.in_features = module.weight.shape
    if not keeps[layer].any():
        drop(block, family)
