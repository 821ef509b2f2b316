"""Token-level perplexity over concatenated text in windows (the GPTQ/Wanda convention)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.models import head, rehearsal


def windows(ids: Sequence[int], seqlen: int, limit: int | None) -> Tensor:
    """int64 [W, seqlen]: the text cut into whole windows, the rest dropped; at most `limit` tokens.

    Raises InputError if the text is shorter than one window."""
    usable = min(len(ids), limit or len(ids)) // seqlen
    if not usable:
        raise InputError(
            f"perplexity: {min(len(ids), limit or len(ids))} tokens are less than one window of seqlen {seqlen}"
        )
    return torch.tensor(ids[: usable * seqlen]).view(usable, seqlen)


@torch.inference_mode()
def negative_log_likelihoods(model: nn.Module, windows: Tensor, batch_size: int) -> Iterator[float]:
    """Summed negative log-likelihood in nats of each window's seqlen - 1 predicted tokens."""
    device = model.get_input_embeddings().weight.device
    for batch in windows.split(batch_size):
        ids = batch.to(device)
        losses = head.token_losses(model, head.hidden_states(model, ids), ids)
        yield from losses.sum(1, dtype=torch.float64).tolist()


@torch.inference_mode()
def divergences(model: nn.Module, dense: nn.Module, windows: Tensor, batch_size: int) -> Iterator[tuple[float, float]]:
    """Of each window, what `negative_log_likelihoods` gives, and the summed KL divergence in nats of the model's next
    tokens from the dense model's, over the whole vocabulary and in float32, for the same seqlen - 1 tokens."""
    devices = [each.get_input_embeddings().weight.device for each in (model, dense)]
    for batch in windows.split(batch_size):
        ids = batch.to(devices[0])
        hidden, wanted = head.hidden_states(model, ids), head.hidden_states(dense, batch.to(devices[1]))
        found = head.token_losses(model, hidden, ids), head.token_divergences(model, hidden, dense, wanted)
        yield from zip(*(each.sum(1, dtype=torch.float64).tolist() for each in found), strict=True)


def taken(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Taken:
    """What a batch of windows takes. settings: a task's."""
    ids = torch.zeros(settings["batch_size"], settings["seqlen"], dtype=torch.long)

    def score() -> None:
        on_device = ids.to(network.get_input_embeddings().weight.device)
        if settings.get("divergence"):
            list(divergences(network, network, on_device, len(ids)))
        else:
            list(negative_log_likelihoods(network, on_device, len(ids)))

    return rehearsal.rehearsed(network, score)


STAGE = rehearsal.Stage("perplexity", "tasks", taken, {"batch_size": 1})
