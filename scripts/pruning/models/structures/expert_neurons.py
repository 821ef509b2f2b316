"""Neurons inside experts: as many of every expert, a multiple of 8, so that config.json stays a stock one with narrower
experts. The router, and shared experts, stay.

A layer's units are the neurons of all of its experts, one expert after the other: what is measured of experts
(experts.py) is measured of these.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.models.families import EXPERT_MULTIPLE, EXPERT_WIDTHS, Family
from pruning.models.structures.base import Place, kept_of
from pruning.models.structures.experts import Experts, Routed

ATTRIBUTES = ("intermediate_dim", "intermediate_size")
"""What experts of the families call the number of their neurons."""
SHARED = "n_shared_experts"
"""The key that says how many times as wide as an expert DeepSeek's shared experts are together."""


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
        interleaved, both = family.mixture.interleaved, len(part.projections) == 2
        columns = part.kind == "bias" or ("down" in part.projections) != interleaved
        return Place(part.layer, -1 if columns else -2, 2 if both and not interleaved else 1)

    def cut(
        self, name: str, tensor: Tensor, keeps: Sequence[np.ndarray], family: Family, pad_to: int | None = None
    ) -> Tensor:
        """Return the kept neurons' part. Raises InputError unless as many of every expert are kept."""
        if not (place := self.place(name, family)):
            return tensor
        expert, keep = self.part(name, family).expert, keeps[place.layer]
        own = keep.reshape(len(tensor), -1) if expert is None else keep.reshape(-1, tensor.shape[place.axis])
        if len(set(counts := own.sum(1).tolist())) > 1:
            raise InputError(f"{self.title}: {counts} stay: every expert must keep as many")
        if expert is not None:
            return kept_of(tensor, own[expert], place)
        return torch.stack([kept_of(*each, place) for each in zip(tensor, own, strict=True)])

    def settle(self, layer: nn.Module, family: Family, units: int) -> None:
        experts = layer.get_submodule(self.site(family))
        for name in ATTRIBUTES:
            if hasattr(experts, name):
                setattr(experts, name, units // experts.num_experts)

    def compact_config(self, config: Mapping[str, Any], units: Sequence[int]) -> dict[str, Any]:
        width = self.alike(units) // super().whole(config)
        if not width or width % EXPERT_MULTIPLE:
            raise InputError(
                f"{self.title}: {width} of an expert stay: torch's grouped products take multiples of {EXPERT_MULTIPLE}"
            )
        if not (always := (config.get(SHARED) or 0) * config[width_key(config)]):
            return {**config, width_key(config): width}
        if always % width:
            fit = [n for n in range(EXPERT_MULTIPLE, config[width_key(config)], EXPERT_MULTIPLE) if always % n == 0]
            raise InputError(
                f"{self.title}: {width} of an expert stay: shared experts keep all of their {always} neurons, which "
                f"must be a multiple of that in a {config['model_type']} model: keep {', '.join(map(str, fit))}"
            )
        return {**config, width_key(config): width, SHARED: always // width}

    def counts(self, model: nn.Module) -> list[int]:
        return [self.channels(site) for site in self.sites(model)]

    def silence(self, layer: nn.Module, keep: np.ndarray, family: Family, stack: ExitStack) -> None:
        site = layer.get_submodule(self.site(family))
        on = torch.tensor(keep).view(site.num_experts, -1)

        def silence(a: Tensor, routed: Routed) -> None:
            a *= on.to(a.device)[routed.expert]

        stack.callback(self.watch(site, silence, lambda *_: None).remove)


def width_key(config: Mapping[str, Any]) -> str:
    """Return the key of config.json that says how many neurons an expert has."""
    return next(key for key in EXPERT_WIDTHS if config.get(key))


STRUCTURE = ExpertNeurons()
