"""Token-level perplexity over concatenated text in windows (the GPTQ/Wanda convention); and bits per byte of pieces of
text, which models of different tokenizers can be compared by."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

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


def pieces(text: str, size: int, limit: int | None) -> list[str]:
    """The text cut into pieces of `size` bytes of UTF-8, or up to three less where a character would be cut, the rest
    dropped; of the first `limit` bytes. size: four or more.

    Raises InputError if the text is shorter than one piece."""
    data, found, start = text.encode(), [], 0
    usable = min(len(data), limit or len(data))
    while start + size <= usable:
        end = start + size
        while data[end : end + 1] and data[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        found.append(data[start:end].decode())
        start = end
    if not found:
        raise InputError(f"perplexity: {usable} bytes are less than one piece of seqlen {size}")
    return found


def likelihoods_of_texts(model: nn.Module, texts: Sequence[Sequence[int]], batch_size: int) -> Iterator[float]:
    """Summed negative log-likelihood in nats of all tokens of each text but the first, which nothing predicts."""
    for start in range(0, len(texts), batch_size):
        own = [torch.tensor(text) for text in texts[start : start + batch_size]]
        [nll] = _summed(model, pad_sequence(own, True), labels=pad_sequence(own, True, -100))
        yield from nll.tolist()


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
def _summed(
    model: nn.Module, windows: Tensor, dense: nn.Module | None = None, labels: Tensor | None = None
) -> list[Tensor]:
    """Of each window of a batch: the negative log-likelihood, and, with a dense model, the divergence from it. labels:
    -100 where there is no token, after the end of a window."""
    ids = windows.to(model.get_input_embeddings().weight.device)
    hidden = head.hidden_states(model, ids)
    found = [head.token_losses(model, hidden, ids if labels is None else labels.to(ids.device))]
    if dense is not None:
        wanted = head.hidden_states(dense, windows.to(dense.get_input_embeddings().weight.device))
        found.append(head.token_divergences(model, hidden, dense, wanted))
    return [each.sum(1, dtype=torch.float64) for each in found]


def taken(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Taken:
    """What a batch of windows takes, with the dense model's part. settings: a task's."""
    ids = torch.zeros(settings["batch_size"], settings["seqlen"], dtype=torch.long)
    return rehearsal.rehearsed(network, lambda: _summed(network, ids, network if settings.get("divergence") else None))


STAGE = rehearsal.Stage("perplexity", "tasks", taken, {"batch_size": 1})
