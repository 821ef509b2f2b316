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

AT_ONCE = 8  # Cuts of a layer whose divergences are taken together: the dense model's logits are made once for all


def _refit(network: nn.Module, settings: Mapping[str, Any]) -> Taken:
    """The first layer: sums as of the second moments, what of all tokens is kept between passes (residual streams, and
    without `on_gpus` inputs of down_proj), and the least squares; and, where the scheme has a plan for `training`, a
    step on the widest layer."""
    site, tokens = _widest(network), settings["samples"] * settings["sequence_length"]
    kept = 5 * site.out_features + (0 if settings.get("on_gpus") else site.in_features)
    on_the_cpu = tokens * site.weight.element_size() * kept + _solving(network)
    taken = second_moments.taken(network, settings).plus(on_the_cpu, spared=on_the_cpu)
    return taken.plus(*_training(network, settings)) if settings.get("training") else taken


def _training(network: nn.Module, settings: Mapping[str, Any]) -> Taken:
    """What methods/training.py says of itself, of the six copies two on the CPU, and the layer's activations of a
    micro-batch with gradients, as if they were float32."""
    layer = max(families.decoder_layers(network), key=lambda own: sum(each.numel() for each in own.parameters()))
    weights, [batch] = [own for own in layer.parameters() if own.dim() == 2], blank(settings)
    narrow, copy = weights[0].dtype, 4 * sum(own.numel() for own in weights)

    def step() -> None:
        for own in weights:
            own.requires_grad_(True)
        layerwise.forward(network, layer, batch, None).float().square().sum().backward()

    network.float()
    activations = rehearsed(network, step).bytes - copy  # without the gradients
    for own in weights:
        own.requires_grad_(False).grad = None
    network.to(narrow)
    return Taken(6 * copy + activations, spared=2 * copy)


def _rounds(network: nn.Module, settings: Mapping[str, Any]) -> Taken:
    """The most that a pass takes: the curvature; the second moments, with what surgeon.py says of itself and a copy;
    the refit."""
    site = _widest(network)
    ranking = 8 * (6 * site.in_features**2 + 2 * site.in_features * site.out_features)
    ranked = second_moments.taken(network, settings).plus(ranking)
    passes = [_refit(network, settings), ranked, output_gradients.taken(network, settings)]
    return max(passes)._replace(spared=max(passes).bytes - max(each.bytes - each.spared for each in passes))


def _sensitivity(network: nn.Module, settings: Mapping[str, Any]) -> Taken:
    """One cut of the first layer; besides, the hidden states that are kept (of `layers` before a layer and after, and
    at the end dense and of its cuts), a down_proj for every cut at hand, and its fit."""
    site, layers, greedy = _widest(network), len(ffn.sites(network)), settings.get("search", "greedy") == "greedy"

    @torch.inference_mode()
    def cut() -> None:
        end = layerwise.rest(network, 0, blank(settings)[0], None).flatten(0, 1)
        head.divergences_of(network, [end], end)

    state = settings["probed"] * settings["sequence_length"] * site.out_features * site.weight.element_size()
    on_the_cpu = (layers + 2 if greedy else 3 + AT_ONCE) * state + _solving(network)
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
