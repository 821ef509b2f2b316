"""One decoder layer after the other over all micro-batches, on hidden states kept between them, as in SparseGPT
(Frantar & Alistarh 2023, arXiv 2301.00774): what a layer needs is in memory for one layer at a time.

The model itself so makes each layer's masks and positions, which differ between layers in some families.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from pruning.calibration.prepare import Batch
from pruning.core.errors import InputError
from pruning.models import families


def check(model: nn.Module) -> None:
    """Raises InputError if layers use each other's keys and values."""
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        raise InputError(
            f"compensate: ridge runs layers one by one; those of {type(model).__name__} share keys and values"
        )


@torch.inference_mode()
def run(
    model: nn.Module,
    layer: nn.Module,
    batch: Batch,
    hidden: Tensor | None,
    looks: Mapping[nn.Module, Callable[[Tensor, Tensor], None]] | None = None,
) -> Tensor:
    """Hidden states [B, T, d] after the layer, on the CPU; before it they are `hidden`, or the embeddings (None).

    looks: linear modules of the layer, and what is called with the input and the output of each, [B, T, ...]."""
    with ExitStack() as hooks:
        for site, look in (looks or {}).items():
            hooks.enter_context(site.register_forward_hook(lambda _, args, output, look=look: look(args[0], output)))
        return forward(model, layer, batch, hidden).cpu()


def forward(model: nn.Module, layer: nn.Module, batch: Batch, hidden: Tensor | None) -> Tensor:
    """As `run`, but with gradients where they are asked for, and where the layer leaves it."""
    others = [other for other in families.decoder_layers(model) if other is not layer]
    return _resumed(model, layer, [*others, families.final_norm(model)], batch, hidden)


@torch.inference_mode()
def rest(model: nn.Module, index: int, batch: Batch, hidden: Tensor | None) -> Tensor:
    """What the head gets [B, T, d], on the CPU, where before layer number `index` the hidden states are `hidden`, or
    the embeddings (None)."""
    layers = families.decoder_layers(model)
    return _resumed(model, layers[index], layers[:index], batch, hidden).cpu()


def _resumed(
    model: nn.Module, layer: nn.Module, idling: Sequence[nn.Module], batch: Batch, hidden: Tensor | None
) -> Tensor:
    """What a forward pass ends with in which these modules idle and this layer gets `hidden`, where there is some."""

    def resume(_, args: tuple):
        return None if hidden is None else (hidden.to(args[0].device), *args[1:])

    device = model.get_input_embeddings().weight.device
    with layer.register_forward_pre_hook(resume), idle(idling):
        mask = batch.counted.to(device).long()
        return model.base_model(input_ids=batch.ids.to(device), attention_mask=mask, use_cache=False)[0]


def hand_on(hidden_states: Tensor, *_, **__) -> Tensor:
    return hidden_states


def nothing(hidden_states: Tensor, *_, **__) -> Tensor:
    return torch.zeros_like(hidden_states)


@contextmanager
def idle(modules: Sequence[nn.Module], instead: Callable[..., Tensor] = hand_on) -> Iterator[None]:
    """These decoder layers, or norms, hand on what they get, so that a forward pass runs the others alone. instead:
    what else they do."""
    own = [vars(module).get("forward") for module in modules]  # accelerate's, in a model spread over GPUs
    for module in modules:
        module.forward = instead
    try:
        yield
    finally:
        for module, forward in zip(modules, own, strict=True):
            del module.forward
            if forward:
                module.forward = forward
