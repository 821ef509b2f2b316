"""What a structure says of itself, and how its units are then cut, on disk and in memory: the same for all."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruning.models import families
from pruning.models.families import Family

Keeps = Mapping[str, Sequence[np.ndarray]]
"""A mask: structure -> which units of each layer are kept, bool [units]. Of a structure that is not there all are."""


class Place(NamedTuple):
    """Where a tensor has entries of units."""

    layer: int
    axis: int
    parts: int = 1
    unit: int | None = None
    """Which unit's it is, of a tensor that is one unit's alone."""


class Code(NamedTuple):
    """What models/remote_code.py writes beside a model, so that stock transformers load it."""

    text: str
    """Functions, of which `name(layers, config)` gives the layers the units that config.json lists."""
    name: str
    says: str
    """The end of a sentence that begins with "Each layer's FFN has the width that `ffn_widths` says, "."""


class Structure:
    """Units that can be removed from every layer: consecutive rows and columns of some of its linear modules.

    A subclass says which; cutting, loading and counting parameters follow from that."""

    name: str
    """In masks, scores and allocations (STRUCTURES)."""
    key: str
    """In config.json: the units of each layer, where these are not as many in all of them."""
    title: str
    """What texts for people call its units."""

    def modules(self, family: Family) -> dict[str, tuple[int, int]]:
        """Return linear module of a layer -> (axis of its weight along which units have entries, fused parts on it).

        Raises InputError for a family out of which these units cannot be cut."""
        raise NotImplementedError

    def site(self, family: Family) -> str:
        """Return the linear module of a layer whose input [B, T, channels] holds what the units put out."""
        raise NotImplementedError

    def whole(self, config: Mapping[str, Any]) -> int:
        """Return the units of a layer of the stock model. Raises InputError if it has none that can be cut."""
        raise NotImplementedError

    def check(self, model: nn.Module) -> None:
        """Raise InputError unless a loaded model has such units."""
        self.modules(families.of(model))
        self.whole(model.config.to_dict())

    def settle(self, layer: nn.Module, family: Family, units: int) -> None:
        """Change what else of a decoder layer depends on the number of its units."""

    def code(self, config: Mapping[str, Any], family: Family) -> Code:
        """Return the code that builds what config.json lists under `key`, in stock transformers."""
        raise NotImplementedError

    def compact_config(self, config: Mapping[str, Any], units: Sequence[int]) -> dict[str, Any]:
        """Return config.json of a model with so many units, one number per layer.

        Raises InputError for numbers of which no model can be made."""
        return {**config, self.key: list(units)}

    # What follows from that ------------------------------------------------------------------------------------------

    def listed(self, config: Mapping[str, Any]) -> list[int]:
        """Return the units of each layer that config.json lists; empty for a model with as many in all."""
        return list(config.get(self.key) or ())

    def units(self, config: Mapping[str, Any]) -> list[int]:
        """Return the units of each layer. Raises InputError as `whole` does."""
        whole = self.whole(config)
        layers = config["num_hidden_layers"] - families.dense_layers(config)
        return self.listed(config) or [whole] * layers

    def counts(self, model: nn.Module) -> list[int]:
        """Return the units of each layer of a loaded model. Raises InputError as `check` does."""
        self.check(model)
        return self.units(model.config.to_dict())

    def place(self, name: str, family: Family) -> Place | None:
        """Return where a tensor of this name has entries of units; None for one that has none."""
        modules = self.modules(family)
        if not (found := parse(name, family, tuple(modules))):
            return None
        layer, module, kind = found
        axis, parts = modules[module]
        return None if axis and kind == "bias" else Place(layer, axis, parts)

    def renamed(self, name: str, keeps: Sequence[np.ndarray], family: Family) -> str | None:
        """Return what a tensor on disk is called once these units are cut; None: it is that of a removed one."""
        return name

    def cut(
        self, name: str, tensor: Tensor, keeps: Sequence[np.ndarray], family: Family, pad_to: int | None = None
    ) -> Tensor:
        """Return the kept units' part of a tensor, with zeros up to `pad_to` entries; other tensors as they are."""
        place = self.place(name, family)
        if place is None or place.unit is not None:
            return tensor
        return kept_of(tensor, keeps[place.layer], place, pad_to)

    def cut_shape(
        self, name: str, shape: Sequence[int], units: Sequence[int], family: Family, config: Mapping[str, Any]
    ) -> list[int]:
        """Return the shape that a tensor has once its layers have so many units."""
        shape = list(shape)
        if (place := self.place(name, family)) and place.unit is None:
            shape[place.axis] = shape[place.axis] * units[place.layer] // max(self.units(config)[place.layer], 1)
        elif place and place.unit >= units[place.layer]:
            shape[place.axis] = 0
        return shape

    def sites(self, model: nn.Module) -> list[nn.Linear]:
        """Return the module of each layer at whose input units are measured. Raises InputError as `check` does."""
        self.check(model)
        family = families.of(model)
        return [layer.get_submodule(self.site(family)) for layer in families.pruned_layers(model)]

    def channels(self, site: nn.Module) -> int:
        """Return the channels that are measured at a site: of units whose outputs have several, as many for each."""
        return site.in_features

    def watch(
        self, site: nn.Module, look: Callable[..., None], after: Callable[[Tensor, Any], None]
    ) -> RemovableHandle:
        """Let each forward pass through a site call look(a) with what the units put out, a [B, T, channels]. Return
        what ends that."""
        return site.register_forward_pre_hook(lambda _, args: look(args[0]))

    @contextmanager
    def silenced(self, model: nn.Module, keeps: Sequence[np.ndarray]) -> Iterator[None]:
        """Have the dense model compute what it does without these units, by other means than cutting them."""
        self.check(model)
        family = families.of(model)
        with ExitStack() as stack:
            for layer, keep in zip(families.pruned_layers(model), keeps, strict=True):
                self.silence(layer, keep, family, stack)
            yield

    def silence(self, layer: nn.Module, keep: np.ndarray, family: Family, stack: ExitStack) -> None:
        """Have one layer compute what it does without the units that are not kept, until the stack is left."""
        site = layer.get_submodule(self.site(family))
        on = torch.tensor(np.repeat(keep, site.in_features // max(len(keep), 1)))
        stack.callback(site.register_forward_pre_hook(lambda _, args: (args[0] * on.to(args[0]),)).remove)

    def resize(self, model: nn.Module, units: Sequence[int]) -> None:
        """Leave the layers of a stock model so many of their units, the first ones, in place."""
        whole = self.whole(model.config.to_dict())
        keeps = [np.arange(whole) < count for count in units]
        for index, layer in enumerate(families.pruned_layers(model)):
            self.shrink(layer, index, keeps, families.of(model))

    def shrink(self, layer: nn.Module, index: int, keeps: Sequence[np.ndarray], family: Family) -> None:
        """Cut one decoder layer, the `index`th of those that are pruned, down to its kept units, in place."""
        for name in self.modules(family):
            module = layer.get_submodule(name)
            place = f"{family.layers}.{family.first + index}.{name}"
            for kind, parameter in list(module.named_parameters(recurse=False)):
                kept = self.cut(f"{place}.{kind}", parameter.data, keeps, family)
                setattr(module, kind, nn.Parameter(kept, requires_grad=parameter.requires_grad))
            for kind, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, kind, self.cut(f"{place}.{kind}", buffer, keeps, family))
            if isinstance(module, nn.Linear):
                module.out_features, module.in_features = module.weight.shape
        self.settle(layer, family, int(keeps[index].sum()))


class Main(Structure):
    """One in which sparsity is counted, of the models of some families: it says as well which tensors an FFN is."""

    def named(self, names: Sequence[str], family: Family) -> dict[tuple[int, str, str], list[str]]:
        """Return (layer, `gate`, `up` or `down`, `weight` or `bias`) -> names of the tensors that hold it, which may be
        another's as well; of experts by their numbers."""
        raise NotImplementedError

    def whole_in(self, names: Sequence[str], config: Mapping[str, Any]) -> bool:
        """Return whether the tensors that hold a projection of one layer are all that there must be."""
        return True

    def looked_for(self, family: Family) -> str:
        """Return the tensors of every layer, in words."""
        raise NotImplementedError

    def matrix(self, tensors: Sequence[Tensor], projection: str, family: Family) -> Tensor:
        """Return gate or up [n, d], or down [d, n], of the tensors that hold it: n neurons, experts one after the
        other."""
        raise NotImplementedError


@cache
def pattern(layers: str, modules: tuple[str, ...]) -> re.Pattern[str]:
    last, names = layers.rpartition(".")[2], "|".join(map(re.escape, modules))
    return re.compile(rf"^.*\b{last}\.(?P<layer>\d{{1,9}})\.(?P<module>{names})\.(?P<kind>weight|bias)$")


def parse(name: str, family: Family, modules: tuple[str, ...]) -> tuple[int, str, str] | None:
    """Return (layer, of those that are pruned, module, `weight` or `bias`) of a tensor's name; None for one of no such
    module."""
    found = pattern(family.layers, modules).match(name)
    layer = int(found["layer"]) - family.first if found else -1
    return (layer, found["module"], found["kind"]) if layer >= 0 else None


def kept_of(tensor: Tensor, keep: np.ndarray, place: Place, pad_to: int | None = None) -> Tensor:
    """Return the kept units' entries of a tensor, with zeros up to `pad_to` of them in each part."""
    entries = tensor.shape[place.axis] // place.parts // max(len(keep), 1)
    kept = torch.from_numpy(np.flatnonzero(np.repeat(keep, entries))).to(tensor.device)
    pieces = tensor.chunk(place.parts, place.axis)
    pieces = [padded(piece.index_select(place.axis, kept), place.axis, pad_to) for piece in pieces]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, place.axis)


def padded(tensor: Tensor, axis: int, size: int | None) -> Tensor:
    """Return the tensor with zeros along an axis up to this size; None adds none."""
    if size is None or size == tensor.shape[axis]:
        return tensor.contiguous()
    return nn.functional.pad(tensor, [0, 0] * (tensor.dim() - 1 - axis) + [0, size - tensor.shape[axis]])
