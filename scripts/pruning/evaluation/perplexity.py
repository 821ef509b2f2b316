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


def negative_log_likelihoods(model: nn.Module, windows: Tensor, batch_size: int) -> Iterator[float]:
    """Summed negative log-likelihood in nats of each window's seqlen - 1 predicted tokens."""
    for batch in windows.split(batch_size):
        [nll] = _summed(model, batch)
        yield from nll.tolist()


def divergences(model: nn.Module, dense: nn.Module, windows: Tensor, batch_size: int) -> Iterator[tuple[float, float]]:
    """Of each window, what `negative_log_likelihoods` gives, and the summed KL divergence in nats of the model's next
    tokens from the dense model's, over the whole vocabulary and in float32, for the same seqlen - 1 tokens."""
    for batch in windows.split(batch_size):
        yield from zip(*(each.tolist() for each in _summed(model, batch, dense)), strict=True)


@torch.inference_mode()
def _summed(model: nn.Module, windows: Tensor, dense: nn.Module | None = None) -> list[Tensor]:
    """Of each window of a batch: the negative log-likelihood, and, with a dense model, the divergence from it."""
    ids = windows.to(model.get_input_embeddings().weight.device)
    hidden = head.hidden_states(model, ids)
    found = [head.token_losses(model, hidden, ids)]
    if dense is not None:
        wanted = head.hidden_states(dense, windows.to(dense.get_input_embeddings().weight.device))
        found.append(head.token_divergences(model, hidden, dense, wanted))
    return [each.sum(1, dtype=torch.float64) for each in found]


def taken(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Taken:
    """What a batch of windows takes, with the dense model's part. settings: a task's."""
    ids = torch.zeros(settings["batch_size"], settings["seqlen"], dtype=torch.long)
    return rehearsal.rehearsed(network, lambda: _summed(network, ids, network if settings.get("divergence") else None))


STAGE = rehearsal.Stage("perplexity", "tasks", taken, {"batch_size": 1})
