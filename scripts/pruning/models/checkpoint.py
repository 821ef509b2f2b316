"""A model seen as tensors: which are FFN weights, and reading them a layer at a time.

Of a model directory on disk no model code is imported, so scoring and compaction of a 7B model need the memory of one
shard.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from pruning.core.errors import InputError
from pruning.core.files import weight_files
from pruning.models.families import family_of, of, read_config
from pruning.models.structures import STRUCTURES, listed, main
from pruning.models.structures.base import Keeps

FLOATS = ("F64", "F32", "F16", "BF16")


class Tensors(ABC):
    """The tensors of a model, by their names, and its config.json.

    place: what messages call it. Raises InputError if there is no gated FFN among them."""

    def __init__(self, place: object, config: Mapping[str, Any], names: Collection[str]):
        self.place, self.config, self.names = place, config, names  # tied weights have one name
        self.family = family_of(config, place)
        self.main = main(self.family)
        self.names_of = self.main.named(names, self.family)
        weights = {(layer, projection) for layer, projection, kind in self.names_of if kind == "weight"}
        layers = sorted({layer for layer, _ in weights})
        whole = layers == list(range(len(layers))) and len(weights) == 3 * len(layers) > 0
        if not whole or not all(self.main.whole_in(own, config) for own in self.names_of.values()):
            found = {name for own in self.names_of.values() for name in own}
            raise InputError(
                f"{place}: not a whole checkpoint: looked for {self.main.looked_for(self.family)}, "
                f"found {len(found)} tensors of that kind among {len(names)}"
            )
        self.layers = len(layers)

    @abstractmethod
    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor as it is stored."""

    @abstractmethod
    def shape(self, name: str) -> list[int]:
        """Return a tensor's shape."""

    def name(self, layer: int, projection: str, kind: str = "weight") -> str:
        """Of a projection's tensor, which may be another's as well, of experts the first's; of a bias that is not
        there, as it would be."""
        if kind == "bias":
            return self.names_of[layer, projection, "weight"][0].removesuffix("weight") + "bias"
        return self.names_of[layer, projection, kind][0]

    def site(self, structure: str, layer: int) -> str:
        """Return the name of the weight at whose input a structure's units are measured."""
        down, own = (STRUCTURES[name].site(self.family) for name in (self.main.name, structure))
        return self.name(layer, "down").replace(down, own)

    def has_tokens(self, name: str) -> bool:
        """Whether a tensor has a row for each token: the embedding, and the head where it is one of its own."""
        inside = name.startswith(f"{self.family.layers}.")
        return not inside and "norm" not in name and self.shape(name)[0] == self.config["vocab_size"]

    def matrix(self, layer: int, projection: str, structure: str | None = None) -> np.ndarray:
        """Return a weight as float32: of the FFN gate and up [n, d] and down [d, n], n neurons of all experts where it
        is a mixture; of another structure, in the place
        of `down`, the one at whose input its units are measured [d, channels].

        Raises InputError for another projection of that: channels have no rows of their own."""
        if not self._at_main(structure or self.main.name):
            if projection != "down":
                title = STRUCTURES[structure].title
                raise InputError(f"this score reads {projection}_proj, which the channels of {title} do not have")
            return self.tensor(self.site(structure, layer)).float().cpu().numpy()
        held = [self.tensor(name) for name in self.names_of[layer, projection, "weight"]]
        return self.main.matrix(held, projection, self.family).float().cpu().numpy()

    def _at_main(self, structure: str) -> bool:
        """Whether a structure is measured where the main one is."""
        return STRUCTURES[structure].site(self.family) == self.main.site(self.family)

    @property
    def widths(self) -> list[int]:
        """Units of each layer in which sparsity is counted: FFN neurons, or experts."""
        if self.family.mixture:
            return self.main.units(self.config)
        return self.channels(self.main.name)

    def channels(self, structure: str) -> list[int]:
        """Return the inputs of each layer's module at which a structure's units are measured."""
        if self._at_main(structure):
            downs = (self.names_of[layer, "down", "weight"] for layer in range(self.layers))
            return [sum(math.prod(self.shape(name)) for name in names) // self.config["hidden_size"] for names in downs]
        return [self.shape(self.site(structure, layer))[1] for layer in range(self.layers)]

    def units(self, structure: str) -> list[int]:
        """Return the units of each layer.

        Raises InputError for a model without such units, and, but for neurons, if any were cut before: what is counted
        against is a model with all of them."""
        if structure == self.main.name:
            return self.widths
        if structure in listed(self.config):
            raise InputError(
                f"{self.place}: {STRUCTURES[structure].title} were pruned before: allocations that prune them need a "
                "model with all of them"
            )
        return STRUCTURES[structure].units(self.config)

    def size(self, structure: str) -> int:
        """Return the parameters of one unit, in a layer that has some. Raises InputError as `units` does."""
        own = STRUCTURES[structure]
        counts = self.widths if own is self.main else own.units(self.config)
        first = next(layer for layer, count in enumerate(counts) if count)
        places = ((name, own.place(name, self.family)) for name in self.names)
        return (
            sum(math.prod(self.shape(name)) for name, place in places if place and place.layer == first)
            // counts[first]
        )

    def removed(self, keeps: Keeps | None = None) -> float:
        """Return what `keeps`, or earlier iterations, removed beside the main structure, as its units of as many
        parameters."""
        left = listed(self.config) | {name: [int(keep.sum()) for keep in own] for name, own in (keeps or {}).items()}
        left.pop(self.main.name, None)
        gone = {name: STRUCTURES[name].whole(self.config) * self.layers - sum(own) for name, own in left.items()}
        return sum((many * self.size(name) / self.size(self.main.name) for name, many in gone.items()), 0.0)

    @property
    def parameters(self) -> int:
        """Parameters stored; tied weights count once."""
        return sum(int(np.prod(self.shape(name))) for name in self.names)


class Checkpoint(Tensors):
    """The safetensors of a model directory.

    Raises InputError if there are none, if they are quantised, or as Tensors does."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.files = weight_files(directory)
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
        super().__init__(directory, read_config(directory), self.file_of)

    def tensor(self, name: str) -> torch.Tensor:
        with safe_open(self.file_of[name], "pt") as tensors:
            return tensors.get_tensor(name)

    def shape(self, name: str) -> list[int]:
        with safe_open(self.file_of[name], "pt") as tensors:
            return tensors.get_slice(name).get_shape()


class Loaded(Tensors):
    """A model in memory. Raises InputError as Tensors does, and for what is no model."""

    def __init__(self, model: nn.Module):
        of(model)
        self.parameters_of = dict(model.named_parameters())
        super().__init__(type(model).__name__, model.config.to_dict(), self.parameters_of)

    def tensor(self, name: str) -> torch.Tensor:
        return self.parameters_of[name].detach()

    def shape(self, name: str) -> list[int]:
        return list(self.parameters_of[name].shape)


def has_mlp_bias(config: dict) -> bool:
    """Whether the stock class takes `mlp_bias`, a bias on gate, up and down_proj; older config.json do not name it."""
    if "mlp_bias" in config:
        return True
    from transformers import AutoConfig  # slow, and unneeded where nothing is compensated by a bias

    try:
        return hasattr(AutoConfig.for_model(config["model_type"]), "mlp_bias")
    except (KeyError, ValueError):
        return False  # a family that transformers does not know, which loading will say
