"""What the stages of methods/ take that measure or refit with a model, nothing being removed yet."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pruning.calibration import layerwise, output_gradients, second_moments
from pruning.calibration.prepare import blank
from pruning.models import families, head
from pruning.models.rehearsal import Stage, Taken, rehearsed
from pruning.models.structures import ffn


def _refit(network: nn.Module, settings: Mapping[str, Any]) -> Taken:
    """The first layer: sums as of the second moments, and the least squares. Where the scheme `trains` the layer also
    what methods/training.py says, in its widest one; of the six copies two are on the CPU."""
    taken = second_moments.taken(network, settings).plus(_solving(network), spared=_solving(network))
    if not settings.get("trains"):
        return taken
    layers = families.decoder_layers(network)
    copy = 4 * max(sum(own.numel() for own in layer.parameters()) for layer in layers)
    return taken.plus(6 * copy, spared=2 * copy)


def _rounds(network: nn.Module, settings: Mapping[str, Any]) -> Taken:
    """The most that a pass takes: the curvature; the second moments, with what surgeon.py says of itself and a copy;
    the refit."""
    site = _widest(network)
    ranking = 8 * (6 * site.in_features**2 + 2 * site.in_features * site.out_features)
    ranked = second_moments.taken(network, settings).plus(ranking)
    passes = [_refit(network, settings), ranked, output_gradients.taken(network, settings)]
    return max(passes)._replace(spared=max(passes).bytes - max(each.bytes - each.spared for each in passes))


def _sensitivity(network: nn.Module, settings: Mapping[str, Any]) -> Taken:
    """One cut of the first layer; besides, the hidden states that are kept, a down_proj for every cut at hand, and its
    fit."""
    site, layers, greedy = _widest(network), len(ffn.sites(network)), settings.get("search", "greedy") == "greedy"

    @torch.inference_mode()
    def cut() -> None:
        end = layerwise.rest(network, 0, blank(settings)[0], None).to(site.weight.device)
        head.token_divergences(network, end, network, end)

    state = settings["probed"] * settings["sequence_length"] * site.out_features * site.weight.element_size()
    on_the_cpu = (layers + 2 if greedy else 3) * state + _solving(network)
    return rehearsed(network, cut).plus((layers if greedy else 1) * site.weight.nbytes + on_the_cpu, spared=on_the_cpu)


def _solving(network: nn.Module) -> int:
    """Bytes of the widest layer's least squares, on the CPU also where there is a GPU: three [n, n] and six [d, n]."""
    site = _widest(network)
    return 8 * (3 * site.in_features**2 + 6 * site.in_features * site.out_features)


def _widest(network: nn.Module) -> nn.Linear:
    return max(ffn.sites(network), key=lambda site: site.in_features)


REFIT = Stage("refit", "calibrations", _refit, {"micro_batch": 1})
ROUNDS = Stage("rounds", "calibrations", _rounds, {"gradient_checkpointing": True, "micro_batch": 1})
SENSITIVITY = Stage("sensitivity", "calibrations", _sensitivity, {"micro_batch": 1, "probed": 16})
