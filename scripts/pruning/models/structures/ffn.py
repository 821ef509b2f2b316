"""FFN neurons: a row of gate, a row of up and a column of down each; measured at the input of down, act(gate) * up."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.models import families
from pruning.models.families import Family

CONFIG_KEY = "intermediate_size"

WIDTHS = families.WIDTHS
"""Where the stock class does not build the model by itself."""
DOWN_BIAS = families.DOWN_BIAS
"""Only models/loading.py builds such a model."""


# On disk -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FfnTensor:
    """What a tensor's name says of it."""

    layer: int
    projections: tuple[str, ...]
    """`gate`, `up` or `down`; two where they are fused, one after the other."""
    kind: str
    """`weight` or `bias`."""

    @property
    def axis(self) -> int | None:
        """Along which it has an entry a unit; None: along none, as the bias of down."""
        if self.projections != ("down",):
            return 0
        return 1 if self.kind == "weight" else None


def names(family: Family) -> dict[tuple[str, ...], str]:
    """Projections -> the module that holds them."""
    rows = [("gate", "up")] if len(family.gate_up) == 1 else [("gate",), ("up",)]
    return {**dict(zip(rows, family.gate_up, strict=True)), ("down",): family.down}


@cache
def pattern(family: Family) -> re.Pattern[str]:
    layers, modules = family.layers.rpartition(".")[2], "|".join(names(family).values())
    return re.compile(
        rf"^(?P<prefix>.*\b{layers})\.(?P<layer>\d{{1,9}})\.{family.ffn}\.(?P<module>{modules})\.(?P<kind>weight|bias)$"
    )


def parse(name: str, family: Family) -> FfnTensor | None:
    """Of a tensor's name; None for one that is not of an FFN."""
    if not (match := pattern(family).match(name)):
        return None
    projections = next(held for held, module in names(family).items() if module == match["module"])
    return FfnTensor(int(match["layer"]), projections, match["kind"])


def cut(name: str, tensor: Tensor, keeps: Sequence[np.ndarray], family: Family, *, pad_to: int | None = None) -> Tensor:
    """The kept part of an FFN tensor (others come back as they are); with `pad_to`, zeros up to that width.

    A zero row in gate and up and a zero column in down is a neuron that outputs nothing: act(0) * 0 = 0."""
    found = parse(name, family)
    if not found or found.axis is None:
        return tensor
    keep = torch.from_numpy(np.flatnonzero(keeps[found.layer])).to(tensor.device)
    parts = [
        padded(part.index_select(found.axis, keep), found.axis, pad_to)
        for part in tensor.chunk(len(found.projections), found.axis)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, found.axis)


def padded(tensor: Tensor, axis: int, width: int | None) -> Tensor:
    """With zeros along an axis up to this width; None adds none."""
    if width is None or width == tensor.shape[axis]:
        return tensor.contiguous()
    shape = list(tensor.shape)
    shape[axis] = width - tensor.shape[axis]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis).contiguous()


def compact_config(config: Mapping[str, Any], widths: Sequence[int]) -> dict[str, Any]:
    """config.json of a model with these widths, one a layer.

    Equal widths make a stock config. Different ones are listed, beside the widest as the global one; models/loading.py
    builds such models, and what models/remote_code.py writes."""
    made = {**config, CONFIG_KEY: max(widths)}
    for key in (WIDTHS, "auto_map"):
        made.pop(key, None)  # of a model that was pruned before
    if len(set(widths)) > 1:
        made[WIDTHS] = list(widths)
    return made


def widths_of(config: Mapping[str, Any]) -> dict[int, int]:
    """Widths of the layers that config.json lists; empty for a stock model."""
    return dict(enumerate(config.get(WIDTHS) or ()))


# In memory -----------------------------------------------------------------------------------------------------------


def modules(layer: nn.Module, family: Family) -> dict[tuple[str, ...], nn.Linear]:
    """Projections -> linear module, of one decoder layer."""
    return {held: layer.get_submodule(f"{family.ffn}.{name}") for held, name in names(family).items()}


def sites(model: nn.Module) -> list[nn.Linear]:
    """The module of each layer whose input [B, T, n] holds the units' activations.

    Raises InputError, naming what was looked for, if a layer has no such FFN."""
    family = families.of(model)
    for index, layer in enumerate(families.decoder_layers(model)):
        for name in names(family).values():
            found = getattr(getattr(layer, family.ffn, None), name, None)
            if not isinstance(found, nn.Linear):
                place = f"{family.layers}.{index}.{family.ffn}.{name}"
                raise InputError(f"{type(model).__name__}: no linear module {place}: not a gated FFN")
    return [modules(layer, family)["down",] for layer in families.decoder_layers(model)]


def resize(model: nn.Module, widths: Mapping[int, int]) -> None:
    """Give the FFNs of these layers new weights of these widths, on the device and in the dtype of the old ones."""
    family, layers = families.of(model), families.decoder_layers(model)
    for layer, width in widths.items():
        ffn = layers[layer].get_submodule(family.ffn)
        for held, old in modules(layers[layer], family).items():
            shape = (width, old.out_features) if held == ("down",) else (old.in_features, len(held) * width)
            new = nn.Linear(*shape, bias=old.bias is not None, dtype=old.weight.dtype, device=old.weight.device)
            setattr(ffn, names(family)[held], new)
        if hasattr(ffn, CONFIG_KEY):
            setattr(ffn, CONFIG_KEY, width)


def shrink(block: nn.Module, layer: int, keeps: Sequence[np.ndarray], family: Family) -> None:
    """Cut one decoder layer's FFN down to its kept units, in place."""
    ffn, width = block.get_submodule(family.ffn), int(keeps[layer].sum())
    for held, module in modules(block, family).items():
        for kind, parameter in list(module.named_parameters(recurse=False)):
            name = f"{family.layers}.{layer}.{family.ffn}.{names(family)[held]}.{kind}"
            kept = cut(name, parameter.data, keeps, family)
            setattr(module, kind, nn.Parameter(kept, requires_grad=parameter.requires_grad))
        if held == ("down",):
            module.in_features = width
        else:
            module.out_features = len(held) * width
    if hasattr(ffn, CONFIG_KEY):
        setattr(ffn, CONFIG_KEY, width)


def add_down_bias(model: nn.Module) -> None:
    """Give every down projection a bias, new, on the device and in the dtype of the weights, which stay."""
    for down in sites(model):
        down.bias = nn.Parameter(down.weight.new_zeros(down.out_features))
