"""FFN neurons: a row of gate, a row of up and a column of down each; measured at the input of down, act(gate) * up.

Sparsity is counted in them, and compensations refit `down`: every mask has them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.models import families
from pruning.models.families import Family
from pruning.models.structures.base import Main, parse

CONFIG_KEY = "intermediate_size"


class Neurons(Main):
    """The FFNs' neurons. A stock model has as many in every layer."""

    name = "ffn"
    key = families.WIDTHS
    title = "FFN neurons"

    def modules(self, family: Family) -> dict[str, tuple[int, int]]:
        if family.mixture:
            raise InputError(
                "this is for FFN neurons, and the model is a mixture of experts: see docs/howto/experts.md"
            )
        return {
            f"{family.ffn}.{module}": (int(held == ("down",)), len(held))
            for held, module in projections(family).items()
        }

    def site(self, family: Family) -> str:
        return f"{family.ffn}.{family.down}"

    def whole(self, config: Mapping[str, Any]) -> int:
        return config[CONFIG_KEY]

    def check(self, model: nn.Module) -> None:
        """Raise InputError, naming what was looked for, if a layer has no gated FFN."""
        self.modules(family := families.of(model))
        for index, layer in enumerate(families.decoder_layers(model)):
            for name in projections(family).values():
                if not isinstance(getattr(getattr(layer, family.ffn, None), name, None), nn.Linear):
                    place = f"{family.layers}.{index}.{family.ffn}.{name}"
                    raise InputError(f"{type(model).__name__}: no linear module {place}: not a gated FFN")

    def counts(self, model: nn.Module) -> list[int]:
        """Whatever config.json says: a model may have been cut in memory."""
        return [site.in_features for site in self.sites(model)]

    def named(self, names: Sequence[str], family: Family) -> dict[tuple[int, str, str], list[str]]:
        held = {f"{family.ffn}.{module}": held for held, module in projections(family).items()}
        found = {name: part for name in names if (part := parse(name, family, tuple(held)))}
        return {
            (layer, projection, kind): [name]
            for name, (layer, module, kind) in found.items()
            for projection in held[module]
        }

    def looked_for(self, family: Family) -> str:
        return f"{', '.join([*family.gate_up, family.down])} in {family.ffn} of every layer"

    def compact_config(self, config: Mapping[str, Any], units: Sequence[int]) -> dict[str, Any]:
        """Return config.json of a model with these widths, one per layer.

        Equal widths make a stock config. Different ones are listed, beside the widest as the global one;
        models/loading.py builds such models, and what models/remote_code.py writes."""
        made = {**config, CONFIG_KEY: max(units)}
        for key in (families.WIDTHS, "auto_map"):
            made.pop(key, None)  # of a model that was pruned before
        if len(set(units)) > 1:
            made[families.WIDTHS] = list(units)
        return made

    def matrix(self, tensors: Sequence[Tensor], projection: str, family: Family) -> Tensor:
        fused = ("gate", "up") if projection != "down" and len(family.gate_up) == 1 else (projection,)
        return tensors[0].chunk(len(fused))[fused.index(projection)]

    def settle(self, layer: nn.Module, family: Family, units: int) -> None:
        ffn = layer.get_submodule(family.ffn)
        if hasattr(ffn, CONFIG_KEY):
            setattr(ffn, CONFIG_KEY, units)


STRUCTURE = Neurons()
sites, shrink = STRUCTURE.sites, STRUCTURE.shrink


def projections(family: Family) -> dict[tuple[str, ...], str]:
    """Return what an FFN's module holds of `gate`, `up` and `down`, two where they are fused, -> its name."""
    rows = [("gate", "up")] if len(family.gate_up) == 1 else [("gate",), ("up",)]
    return {**dict(zip(rows, family.gate_up, strict=True)), ("down",): family.down}


def add_down_bias(model: nn.Module) -> None:
    """Give every down projection a bias, new, on the device and in the dtype of the weights, which stay."""
    for down in sites(model):
        down.bias = nn.Parameter(down.weight.new_zeros(down.out_features))
