"""A model directory on disk, seen as tensors: which are FFN weights, and reading them a layer at a time.

No model code is imported, so scoring and compaction of a 7B model need the memory of one shard.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from pruning.core.errors import InputError
from pruning.models.families import family_of, read_config
from pruning.models.structures import ffn, kv_groups

FLOATS = ("F64", "F32", "F16", "BF16")


class Checkpoint:
    """The safetensors of a model directory.

    Raises InputError if there are none, if they are quantised, or if there is no gated FFN among them."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.files = sorted(directory.glob("*.safetensors"))
        if not self.files:
            raise InputError(f"{directory}: no *.safetensors here; only safetensors checkpoints are read")
        self.file_of: dict[str, Path] = {}
        for file in self.files:
            try:
                with safe_open(file, "pt") as tensors:
                    self.file_of.update(dict.fromkeys(tensors.keys(), file))
                    kinds = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"{file}: not a whole safetensors file ({error}); delete it and fetch it again"
                ) from None
            if quantised := [name for name, kind in kinds.items() if kind not in FLOATS]:
                raise InputError(
                    f"{file}: {quantised[0]} is stored as {kinds[quantised[0]]}: quantised weights cannot be "
                    f"pruned; give the model in one of {', '.join(FLOATS)}"
                )
        self.family = family_of(read_config(directory), directory)
        found = {name: part for name in self.file_of if (part := ffn.parse(name, self.family))}
        self.name_of = {
            (part.layer, projection, part.kind): name for name, part in found.items() for projection in part.projections
        }
        weights = {(layer, projection) for layer, projection, kind in self.name_of if kind == "weight"}
        layers = sorted({layer for layer, _ in weights})
        if not layers or layers != list(range(len(layers))) or len(weights) != 3 * len(layers):
            looked_for = ", ".join([*self.family.gate_up, self.family.down])
            raise InputError(
                f"{directory}: not a whole checkpoint: looked for {looked_for} in {self.family.ffn} of every layer, "
                f"found {len(found)} tensors of that kind among {len(self.file_of)}"
            )
        self.layers = len(layers)

    def name(self, layer: int, projection: str, kind: str = "weight") -> str:
        """Of a projection's tensor, which may be another's as well; of a bias that is not there, as it would be."""
        if kind == "bias":
            return self.name_of[layer, projection, "weight"].removesuffix("weight") + "bias"
        return self.name_of[layer, projection, kind]

    def attention_out(self, layer: int) -> str:
        """Of the weight of attention's output projection."""
        ffn_part = f"{self.family.ffn}.{self.family.down}"
        return self.name(layer, "down").replace(ffn_part, self.family.attention_out)

    def tensor(self, name: str) -> torch.Tensor:
        with safe_open(self.file_of[name], "pt") as tensors:
            return tensors.get_tensor(name)

    def shape(self, name: str) -> list[int]:
        with safe_open(self.file_of[name], "pt") as tensors:
            return tensors.get_slice(name).get_shape()

    def matrix(self, layer: int, projection: str) -> np.ndarray:
        """One FFN weight as float32: gate and up are [n, d], down is [d, n]."""
        name = self.name(layer, projection)
        held = ffn.parse(name, self.family).projections
        return self.tensor(name).chunk(len(held))[held.index(projection)].float().numpy()

    @property
    def widths(self) -> list[int]:
        """FFN neurons of each layer."""
        return [self.shape(self.name(layer, "down"))[1] for layer in range(self.layers)]

    @property
    def channels(self) -> list[int]:
        """Inputs of each layer's attention output projection."""
        return [self.shape(self.attention_out(layer))[1] for layer in range(self.layers)]

    def attention_matrix(self, layer: int, projection: str) -> np.ndarray:
        """Attention's output projection as float32 [d, channels], in the place of an FFN's `down`, [d, n].

        Raises InputError for another: channels have no rows of their own."""
        if projection != "down":
            raise InputError(f"this score looks at {projection}_proj, which attention's channels have not")
        return self.tensor(self.attention_out(layer)).float().numpy()

    @property
    def groups(self) -> list[int]:
        """Key-value groups of each layer. Raises InputError as kv_groups.counts_of does, and if any were cut before:
        what is counted against is a model with all of them."""
        config = read_config(self.directory)
        if kv_groups.listed(config):
            raise InputError(
                f"{self.directory}: key-value groups were cut before: allocations that cut them are for models with all"
            )
        return kv_groups.counts_of(config)

    @property
    def sizes(self) -> dict[str, int]:
        """Parameters of one FFN `neuron` and of one key-value `group`."""
        total, counts = {"neuron": 0, "group": 0}, kv_groups.counts_of(read_config(self.directory))
        first, attending = (next(n for n, count in enumerate(own) if count) for own in (self.widths, counts))
        for name in self.file_of:
            part, axis = ffn.parse(name, self.family), kv_groups.axis_of(name, self.family)
            if part and part.axis is not None and part.layer == first:
                total["neuron"] += len(part.projections) * math.prod(self.shape(name)) // self.shape(name)[part.axis]
            if axis and axis[0] == attending:
                total["group"] += math.prod(self.shape(name)) // counts[attending]
        return total

    def groups_removed(self, keeps: Sequence[np.ndarray] | None = None) -> float:
        """Key-value groups removed by `keeps`, or in earlier iterations, as neurons of as many parameters."""
        config = read_config(self.directory)
        left = [int(keep.sum()) for keep in keeps or ()] or kv_groups.listed(config)
        if not left:
            return 0.0
        return (config["num_key_value_heads"] * self.layers - sum(left)) * self.sizes["group"] / self.sizes["neuron"]

    @property
    def parameters(self) -> int:
        """Parameters stored; tied weights count once."""
        return sum(int(np.prod(self.shape(name))) for name in self.file_of)


def has_mlp_bias(config: dict) -> bool:
    """Whether the stock class takes `mlp_bias`, a bias on gate, up and down_proj; older config.json do not name it."""
    if "mlp_bias" in config:
        return True
    from transformers import AutoConfig  # slow, and unneeded where nothing is compensated by a bias

    try:
        return hasattr(AutoConfig.for_model(config["model_type"]), "mlp_bias")
    except (KeyError, ValueError):
        return False  # a family that transformers does not know, which loading will say
