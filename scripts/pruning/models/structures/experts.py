"""Experts of mixtures: an FFN of its own each, and a row of the router. A token is sent to the `num_experts_per_tok`
that the router gives most; shared experts, which every token passes, stay. Every layer keeps as many, so config.json
stays a stock one, and how weights are renormalised is the family's own code, which sees a smaller router.

Together a layer's experts are one wide FFN: its neurons' activations carry the router's weight, and are zero where a
token is not sent to their expert. So it is measured, a channel a neuron, and the scores of FFN neurons hold as they
are; that of an expert is the sum over its neurons.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.core.errors import InputError
from pruning.models import families
from pruning.models.families import EXPERTS, TOP_K, Family
from pruning.models.structures.base import Main, Place

PROJECTIONS = ("gate", "up", "down")
CORRECTION = "e_score_correction_bias"
"""Of DeepSeek-V3's router: numbers that are added to scores where experts are chosen, not where they are weighted."""
NUMBERED = re.compile(r"\.experts\.(\d{1,9})\.")


class Part(NamedTuple):
    """What a tensor is of a mixture."""

    layer: int
    expert: int | None
    """None: it holds all of them, the first axis."""
    projections: tuple[str, ...]
    """None of the router."""
    kind: str
    """`weight`, `bias`, or of a router CORRECTION."""


class Routed(NamedTuple):
    """Which token, and which expert, a row of activations is of: a token has a row for each of its experts."""

    token: Tensor  # int64 [rows], in [samples, length] flattened
    expert: Tensor  # int64 [rows], ascending
    experts: int

    def counts(self) -> list[int]:
        """Return the rows of each expert; in a rehearsal, which has no values, all are the first's."""
        if self.expert.is_meta:
            return [len(self.expert), *[0] * (self.experts - 1)]
        return torch.bincount(self.expert, minlength=self.experts).tolist()

    def summed(self, values: Tensor, counted: Tensor) -> Tensor:
        """Return sums over the counted tokens, bool [B, T], of each sample: values [rows, n] -> [B, experts * n]."""
        samples, length = counted.shape
        place = self.token // length * self.experts + self.expert
        own = values * counted.flatten()[self.token].unsqueeze(1)
        return own.new_zeros(samples * self.experts, own.shape[1]).index_add(0, place, own).reshape(samples, -1)


class Experts(Main):
    """A mixture's experts. A stock model has as many in every layer."""

    name = "experts"
    key = "experts_kept"
    title = "experts"

    # What they are called ----------------------------------------------------------------------------------------

    def modules(self, family: Family) -> dict[str, tuple[int, int]]:
        if not family.mixture:
            raise InputError("experts are removed from mixtures of experts, and a model of this family is none")
        return {f"{family.ffn}.experts": (0, 1), f"{family.ffn}.{family.mixture.router}": (0, 1)}

    def site(self, family: Family) -> str:
        return f"{family.ffn}.experts"

    def whole(self, config: Mapping[str, Any]) -> int:
        if not (found := [config[key] for key in EXPERTS if config.get(key)]):
            raise InputError(f"{config.get('model_type')} model: no mixture of experts, so no {self.title} to cut")
        return found[0]

    def listed(self, config: Mapping[str, Any]) -> list[int]:
        return []

    def part(self, name: str, family: Family) -> Part | None:
        """Return what a tensor of this name is, on disk or in memory; None for one of no expert and no router."""
        if not family.mixture or not (found := pattern(family).match(name)):
            return None
        layer = int(found["layer"]) - family.first  # no layer before the first has experts or a router
        if found["expert"]:
            projection = PROJECTIONS[family.mixture.matrices.index(found["matrix"])]
            return Part(layer, int(found["expert"]), (projection,), "weight")
        if found["all"]:
            held = ("gate", "up") if found["all"] == "gate_up_proj" else ("down",)
            return Part(layer, None, held, "bias" if found["bias"] else "weight")
        return Part(layer, None, (), found["kind"])

    def named(self, names: Sequence[str], family: Family) -> dict[tuple[int, str, str], list[str]]:
        parts = [(part, name) for name in names if (part := self.part(name, family))]
        made: dict[tuple[int, str, str], list[str]] = {}
        for part, name in sorted(parts, key=lambda own: own[0].expert or 0):
            for projection in part.projections:
                made.setdefault((part.layer, projection, part.kind), []).append(name)
        return made

    def whole_in(self, names: Sequence[str], config: Mapping[str, Any]) -> bool:
        numbers = [int(found[1]) for name in names if (found := NUMBERED.search(name))]
        return numbers == list(range(self.whole(config))) if numbers else len(names) == 1

    def looked_for(self, family: Family) -> str:
        own = family.mixture
        return f"{', '.join(own.matrices)} of every expert in {own.stored} of every layer (experts are numbered from 0)"

    def place(self, name: str, family: Family) -> Place | None:
        part = self.part(name, family)
        return Place(part.layer, 0, unit=part.expert) if part else None

    def matrix(self, tensors: Sequence[Tensor], projection: str, family: Family) -> Tensor:
        if tensors[0].dim() == 2:  # one an expert
            return torch.cat(list(tensors), int(projection == "down"))
        [both], interleaved = tensors, family.mixture.interleaved
        if interleaved:
            both = both.mT  # [experts, outputs, inputs], as elsewhere
        if projection == "down":
            return both.transpose(0, 1).flatten(1)
        at = PROJECTIONS.index(projection)
        return (both[:, at::2] if interleaved else both.chunk(2, 1)[at]).flatten(0, 1)

    # Cutting -----------------------------------------------------------------------------------------------------

    def renamed(self, name: str, keeps: Sequence[np.ndarray], family: Family) -> str | None:
        place = self.place(name, family)
        if place is None or place.unit is None:
            return name
        keep = keeps[place.layer]
        return NUMBERED.sub(f".experts.{int(keep[: place.unit].sum())}.", name) if keep[place.unit] else None

    def settle(self, layer: nn.Module, family: Family, units: int) -> None:
        for place in self.modules(family):
            layer.get_submodule(place).num_experts = units

    def compact_config(self, config: Mapping[str, Any], units: Sequence[int]) -> dict[str, Any]:
        families.check_routed(self.whole(config), config[TOP_K], self.alike(units))
        return {**config, **{key: units[0] for key in EXPERTS if config.get(key)}}

    def alike(self, units: Sequence[int]) -> int:
        """Return how many every layer has. Raises InputError if they differ."""
        if len(set(units)) > 1:
            raise InputError(
                f"{self.title}: layers keep {', '.join(map(str, units))}: transformers has as many in every layer: use "
                "`allocate: uniform`"
            )
        return units[0]

    # Measuring ---------------------------------------------------------------------------------------------------

    def counts(self, model: nn.Module) -> list[int]:
        return [site.num_experts for site in self.sites(model)]

    def channels(self, site: nn.Module) -> int:
        *_, rows, columns = site.down_proj.shape
        return site.num_experts * (rows if site.is_transposed else columns)

    def watch(self, site: nn.Module, look: Callable[..., None], after: Callable[[Tensor, Any], None]) -> "Watched":
        """Let each forward pass call look(a, routed) with the neurons' activations, times the router's weight, a
        [rows, neurons of an expert], and after(out, routed) with what experts add to the FFN's output [rows, d]."""
        return Watched(site, look, after)

    def silence(self, layer: nn.Module, keep: np.ndarray, family: Family, stack: ExitStack) -> None:
        router, gone = layer.get_submodule(f"{family.ffn}.{family.mixture.router}"), torch.tensor(~keep)
        unreachable = Unreachable(gone)
        stack.callback(router.register_forward_pre_hook(unreachable.begin).remove)
        stack.callback(router.register_forward_hook(unreachable.end, always_call=True).remove)
        if (correction := getattr(router, CORRECTION, None)) is not None:
            setattr(router, CORRECTION, correction.masked_fill(gone.to(correction.device), -torch.inf))
            stack.callback(setattr, router, CORRECTION, correction)


class Unreachable(TorchFunctionMode):
    """Within a router's forward pass, its scores of the experts that are gone, bool [experts], are -inf."""

    def __init__(self, gone: Tensor) -> None:
        super().__init__()
        self.gone = gone

    def begin(self, *_: Any) -> None:
        self.__enter__()

    def end(self, *_: Any) -> None:
        self.__exit__(None, None, None)

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = function(*args, **(kwargs or {}))
        return made.masked_fill(self.gone.to(made.device), -torch.inf) if function is nn.functional.linear else made


class Watched:
    """Experts that compute what they do expert by expert, and show it, until `remove`."""

    def __init__(self, experts: nn.Module, look: Callable[..., None], after: Callable[[Tensor, Any], None]) -> None:
        self.experts, self.look, self.after = experts, look, after
        self.place = "_old_forward" if hasattr(experts, "_old_forward") else "forward"  # within accelerate's, if any
        self.usual = vars(experts).get(self.place)
        setattr(experts, self.place, self)

    def remove(self) -> None:
        delattr(self.experts, self.place)
        if self.usual:
            setattr(self.experts, self.place, self.usual)

    def __call__(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Return the FFN's output [tokens, d], of its input, and of each token's experts and their weights [tokens,
        k]: as each family's own `forward`, of which this is the loop written out."""
        own, order = self.experts, chosen.flatten().argsort(stable=True)
        routed = Routed(order // chosen.shape[1], chosen.flatten()[order], own.num_experts)
        counts, bias = routed.counts(), own.has_bias
        made = [linear(own, "gate_up_proj", *each, bias) for each in by_expert(hidden[routed.token], counts)]
        weight = weights.flatten()[order].unsqueeze(1)
        a = (own._apply_gate(torch.cat(made)) * weight).to(hidden.dtype)
        self.look(a, routed)
        out = torch.cat([linear(own, "down_proj", *each, False) for each in by_expert(a, counts)])
        if bias:
            out = out + own.down_proj_bias[routed.expert] * weight
        self.after(out, routed)
        return torch.zeros_like(hidden).index_add(0, routed.token, out.to(hidden.dtype))


def by_expert(rows: Tensor, counts: Sequence[int]) -> list[tuple[int, Tensor]]:
    """Return (expert, its rows) of those that have some."""
    return [(expert, own) for expert, own in enumerate(rows.split(counts)) if len(own)]


def linear(experts: nn.Module, name: str, expert: int, rows: Tensor, biased: bool) -> Tensor:
    weight = getattr(experts, name)[expert]
    bias = getattr(experts, f"{name}_bias")[expert] if biased else None
    return nn.functional.linear(rows, weight.mT if experts.is_transposed else weight, bias)


@cache
def pattern(family: Family) -> re.Pattern[str]:
    own, last = family.mixture, family.layers.rpartition(".")[2]
    matrices = "|".join(map(re.escape, own.matrices))
    return re.compile(
        rf"^.*\b{last}\.(?P<layer>\d{{1,9}})\.(?:{own.stored}|{family.ffn})\.(?:"
        rf"experts\.(?P<expert>\d{{1,9}})\.(?P<matrix>{matrices})\.weight|"
        rf"experts\.(?P<all>gate_up_proj|down_proj)(?P<bias>_bias)?|"
        rf"{own.router}\.(?P<kind>weight|bias|{CORRECTION}))$"
    )


STRUCTURE = Experts()
