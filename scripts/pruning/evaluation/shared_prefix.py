"""Attention over a beginning that all rows of a batch share, whose keys and values are there once.

Worked examples are most of a prompt. Repeated for every row they would be most of the cache, too: most of what limits
the batch, and of what is read for every token. Scores against them are one product for all rows; one softmax is taken
over these and a row's own, so that the result is ordinary attention up to rounding (as Hydragen, arXiv 2402.05099).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import eager_mask

NAME = "shared_prefix"
SCORES = 2**26  # numbers at once


@contextmanager
def attending(model: PreTrainedModel, prefix: DynamicCache | None) -> Iterator[None]:
    """While it is entered, the model's queries see the prefix ([1, heads, P, d] a layer) before their own keys.

    Masks are asked for all of both (layers say so by their length); keys and values are given without the prefix."""
    if prefix is None:
        yield
        return

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **options
    ) -> tuple[Tensor, None]:
        layer = layers[module.layer_idx]
        shared = (layer.keys[0].to(key), layer.values[0].to(value))
        return attend(query, key, value, *shared, mask, scaling, options.get("softcap")), None

    layers, before = list(prefix.layers), model.config._attn_implementation
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, eager_mask)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        layers.clear()  # transformers holds on to the function


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    shared_key: Tensor,
    shared_value: Tensor,
    mask: Tensor,
    scaling: float,
    softcap: float | None = None,
) -> Tensor:
    """query [B, H, T, d]; key, value [B, G, S, d]; shared_key, shared_value [G, P, d]; mask [B, 1, T, P + S], added to
    the scores. Returns [B, T, H, d]."""
    rows = max(SCORES // (query.shape[1] * query.shape[2] * mask.shape[3]), 1)
    if len(query) > rows:
        parts = zip(*(tensor.split(rows) for tensor in (query, key, value, mask)), strict=True)
        return torch.cat([attend(*own[:3], shared_key, shared_value, own[3], scaling, softcap) for own in parts])
    if key.device.type == "cpu":  # or torch's product in bfloat16 copies a part of a buffer number by number
        key = key.contiguous()
    batch, heads, length, size = query.shape
    groups, before = key.shape[1], shared_key.shape[1]
    # Heads of a group stand side by side: they have one key.
    own = query.reshape(batch, groups, -1, size)
    together = own.transpose(0, 1).reshape(groups, -1, size)
    of_shared = (together @ shared_key.mT).view(groups, batch, -1, before).transpose(0, 1)
    scores = scaling * torch.cat([of_shared, own @ key.mT], dim=-1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.view(batch, heads, length, -1) + mask
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype).view(batch, groups, heads // groups * length, -1)
    on_shared = weights[..., :before].transpose(0, 1).reshape(groups, -1, before)
    found = (on_shared @ shared_value).view(groups, batch, -1, size).transpose(0, 1)
    found = found + weights[..., before:] @ value
    return found.reshape(batch, heads, length, size).transpose(1, 2).contiguous()
