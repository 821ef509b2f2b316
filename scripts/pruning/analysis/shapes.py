"""Models by their shape alone, for timing: a dense one with random weights, narrower ones in its memory, and the
operations of each. Speed needs no trained weights.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.configuration_utils import PretrainedConfig
from transformers.initialization import no_init_weights

from pruning.core.errors import InputError
from pruning.models import families, loading, structures, vocabulary
from pruning.models.structures import STRUCTURES, ffn

REQUIRED = ["model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
"""What a shape is made of: a missing one would silently be the default of another model."""


def configuration(raw: Mapping[str, Any]) -> PretrainedConfig:
    """Return the dense model's config, given its config.json.

    Raises InputError if the shape is not whole, or not a dense model's."""
    if missing := [key for key in REQUIRED if key not in raw]:
        raise InputError(f"latency: the architecture has no {', '.join(missing)}: give a gated-FFN decoder's config")
    if families.WIDTHS in raw:
        raise InputError("latency: the architecture has `ffn_widths`: give the dense model's config.json")
    try:
        return AutoConfig.for_model(**raw)
    except (ValueError, StrictDataclassError) as error:
        raise InputError(f"latency: transformers cannot build this architecture: {error}") from None


def unpruned(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json of the stock model that is as wide everywhere as the widest layer of a pruned one."""
    own = {*structures.keys(), "auto_map"}
    return {key: value for key, value in raw.items() if key not in own}


@torch.no_grad()
def build(config: PretrainedConfig, dtype: str, device: str = "cpu") -> PreTrainedModel:
    """Return the dense model, on the device, with small normal weights and norms around one: activations stay ordinary
    numbers, as those of a trained model. Raises InputError if its FFNs are not gated ones."""
    model_class = loading.stock_class(config, "latency")
    with no_init_weights(), torch.device(device):
        model = model_class._from_config(config, dtype=getattr(torch, dtype))
    model.tie_weights()  # which no_init_weights left out
    ffn.sites(model)  # refuses what has none
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float("norm" in name), std=0.02)
    return model.eval().requires_grad_(False)


def narrowed(
    dense: PreTrainedModel, units: Mapping[str, Sequence[int]], biased: bool = False, tokens: int | None = None
) -> PreTrainedModel:
    """Return a model with these units, in the dense model's memory.

    units: structure -> units of each layer; of a structure that is not there all stay. biased: down projections have a
    bias, a new one where the dense model's have none. tokens: how many are in the vocabulary; None: all. Narrow weights
    are the beginnings of the dense ones (random either way), contiguous; others are these."""
    shared = {id(tensor): tensor for tensor in (*dense.parameters(), *dense.buffers())}
    model = copy.deepcopy(dense, shared)
    family, layers = families.of(model), families.pruned_layers(model)
    with no_init_weights():
        for name, counts in units.items():
            whole = STRUCTURES[name].counts(dense)  # of a model that was pruned before, each layer's own
            for layer, count in enumerate(counts):  # one after the other, so that little memory is taken meanwhile
                keep = np.arange(whole[layer]) < count
                STRUCTURES[name].shrink(layers[layer], layer, {layer: keep}, family)
                _lend(dense, model)
    if biased and ffn.sites(model)[0].bias is None:
        ffn.add_down_bias(model)
    if tokens:
        vocabulary.shrink(model, slice(tokens))
    return model.eval().requires_grad_(False)


def _lend(dense: PreTrainedModel, model: PreTrainedModel) -> None:
    """Let parameters that are not the dense model's be in its memory."""
    for parameter, whole in zip(model.parameters(), dense.parameters(), strict=True):
        if parameter is not whole:
            parameter.data = whole.data.flatten()[: parameter.numel()].view_as(parameter)


def prefill_flops(model: PreTrainedModel, tokens: int) -> int:
    """Return the FLOPs of the matrix products of a prefill of `tokens` tokens, the LM head on the last position alone.

    A product of [a, b] and [b, c] counts 2abc. Of the attention scores only the causal ones, T(T+1)/2, count, whatever
    a kernel computes beside them: the ratio of two variants' FLOPs, in which attention weighs as little as it can, then
    bounds the speed-up of a compute-bound prefill."""
    layers, attention_out = families.decoder_layers(model), families.of(model).attention_out
    linear = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
    outputs = (dict(layer.named_modules()).get(attention_out) for layer in layers)  # none, where a hybrid has another
    channels = sum(own.in_features for own in outputs if own is not None)
    scores = channels * tokens * (tokens + 1)  # QK' and its product with V
    projected = tokens * sum(module.weight.numel() for module in linear)
    return 2 * (projected + scores + model.get_output_embeddings().weight.numel())
