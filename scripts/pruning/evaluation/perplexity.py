"""Token-level perplexity over concatenated text in windows (the GPTQ/Wanda convention)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pruning.core.errors import InputError
from pruning.models import head


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
