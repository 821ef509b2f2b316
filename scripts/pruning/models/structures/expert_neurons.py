"""Neurons inside experts: as many of every expert, a multiple of 8, so that config.json stays a stock one with narrower
experts. The router, and shared experts, stay.

A layer's units are the neurons of all of its experts, one expert after the other: what is measured of experts
(experts.py) is measured of these.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.models.families import EXPERT_MULTIPLE, EXPERT_WIDTHS, Family
from pruning.models.structures.base import Place
from pruning.models.structures.experts import Experts, Part, Routed

ATTRIBUTES = ("intermediate_dim", "intermediate_size")
"""What experts of the families call the number of their neurons."""


class ExpertNeurons(Experts):
    """The neurons of all experts of a layer. A stock model has as many in every expert."""

    name = "expert_neurons"
    key = "expert_neurons_kept"
    title = "neurons of experts"

    def whole(self, config: Mapping[str, Any]) -> int:
        return super().whole(config) * config[width_key(config)]

    def place(self, name: str, family: Family) -> Place | None:
        part = self.part(name, family)
        if part is None or not part.projections or (part.kind == "bias" and part.projections == ("down",)):
            return None  # the router's, and biases of what experts put out
        return Place(part.layer, axis_of(part, family), 1)

    def renamed(self, name: str, keeps: Sequence[np.ndarray], family: Family) -> str | None:
        return name

    def cut(
        self, name: str, tensor: Tensor, keeps: Sequence[np.ndarray], family: Family, pad_to: int | None = None
    ) -> Tensor:
        """Return the kept neurons' part. Raises InputError unless as many of every expert are kept."""
        if not (place := self.place(name, family)):
            return tensor
        part, keep = self.part(name, family), torch.tensor(keeps[place.layer], device=tensor.device)
        if part.expert is not None:
            own = keep.unflatten(0, (-1, tensor.shape[place.axis]))
            equal(own)
            return tensor.index_select(place.axis, own[part.expert].nonzero().flatten()).contiguous()
        own = keep.unflatten(0, (len(tensor), -1))  # [experts, neurons]
        kept = own.nonzero()[:, 1].unflatten(0, (len(own), equal(own)))
        if len(part.projections) == 2:
            pairs = (2 * kept, 2 * kept + 1) if family.mixture.interleaved else (kept, kept + own.shape[1])
            kept = torch.stack(pairs, 2 if family.mixture.interleaved else 1).flatten(1)
        shape = [len(own), *[1] * (tensor.dim() - 1)]
        shape[place.axis] = kept.shape[1]
        sizes = list(tensor.shape)
        sizes[place.axis] = kept.shape[1]
        return tensor.gather(place.axis, kept.view(shape).expand(sizes))

    def cut_shape(
        self, name: str, shape: Sequence[int], units: Sequence[int], family: Family, config: Mapping[str, Any]
    ) -> list[int]:
        shape = list(shape)
        if place := self.place(name, family):
            shape[place.axis] = shape[place.axis] * units[place.layer] // self.whole(config)
        return shape

    def shrink(
        self, layer: nn.Module, index: int, keeps: Sequence[np.ndarray] | Mapping[int, np.ndarray], family: Family
    ) -> None:
        place = self.site(family)
        experts = layer.get_submodule(place)
        for kind, parameter in list(experts.named_parameters(recurse=False)):
            kept = self.cut(f"{family.layers}.{index}.{place}.{kind}", parameter.data, keeps, family)
            setattr(experts, kind, nn.Parameter(kept, requires_grad=parameter.requires_grad))
        for name in ATTRIBUTES:
            if hasattr(experts, name):
                setattr(experts, name, int(keeps[index].sum()) // experts.num_experts)

    def compact_config(self, config: Mapping[str, Any], units: Sequence[int]) -> dict[str, Any]:
        if len(set(units)) > 1:
            raise InputError(
                f"{self.title}: layers keep {', '.join(map(str, units))}: transformers has as many in every layer"
            )
        width = units[0] // super().whole(config)
        if not width or width % EXPERT_MULTIPLE:
            raise InputError(
                f"{self.title}: {width} of an expert stay: torch's grouped products take multiples of {EXPERT_MULTIPLE}"
            )
        return {**config, width_key(config): width}

    def counts(self, model: nn.Module) -> list[int]:
        return [self.channels(site) for site in self.sites(model)]

    @contextmanager
    def silenced(self, model: nn.Module, keeps: Sequence[np.ndarray]) -> Iterator[None]:
        with ExitStack() as stack:
            for site, keep in zip(self.sites(model), keeps, strict=True):
                on = torch.tensor(keep).view(site.num_experts, -1)

                def silence(a: Tensor, routed: Routed, on: Tensor = on) -> None:
                    a *= on.to(a.device)[routed.expert]

                stack.callback(self.watch(site, silence, lambda *_: None).remove)
            yield


def axis_of(part: Part, family: Family) -> int:
    """Return the axis of a tensor along which an expert's neurons are."""
    if part.expert is not None:
        return int(part.projections == ("down",))
    outputs = len(part.projections) == 2  # of gate and up
    return 1 if part.kind == "bias" or outputs != family.mixture.interleaved else 2


def equal(keep: Tensor) -> int:
    """Return how many neurons of each expert are kept, bool [experts, neurons]. Raises InputError if they differ."""
    counts = keep.sum(1)
    if not (counts == counts[0]).all():
        raise InputError(f"{STRUCTURE.title}: {counts.tolist()} stay: every expert must keep as many")
    return int(counts[0])


def width_key(config: Mapping[str, Any]) -> str:
    """Return the key of config.json that says how many neurons an expert has."""
    return next(key for key in EXPERT_WIDTHS if config.get(key))


STRUCTURE = ExpertNeurons()
