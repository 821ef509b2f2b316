"""Log-likelihoods of continuations, those of one context scored together: the context is computed once."""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from pruning.generation import new_cache

Tokens = Sequence[int]


def grouped(pairs: Sequence[tuple[Tokens, Tokens]], size: int) -> Iterator[list[list[int]]]:
    """Numbers of (context, continuation) pairs, in groups of one context, in batches of about `size` pairs, the
    longest contexts first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (context, _) in enumerate(pairs):
        groups.setdefault(tuple(context), []).append(number)
    batch: list[list[int]] = []
    for context in sorted(groups, key=len, reverse=True):
        for start in range(0, len(groups[context]), size):
            part = groups[context][start : start + size]
            if batch and sum(map(len, batch)) + len(part) > size:
                yield batch
                batch = []
            batch.append(part)
    if batch:
        yield batch


@torch.inference_mode()
def score(
    model: PreTrainedModel, contexts: Sequence[Tokens], continuations: Sequence[Sequence[Tokens]], pad: int
) -> list[list[tuple[float, bool]]]:
    """For each context, and each of its continuations (token ids, none empty): the summed log-likelihood in nats, and
    whether greedy decoding would give it. The softmax is taken in float32, whatever the model computes in."""
    device = model.get_input_embeddings().weight.device
    width = max(map(len, contexts))
    ids = torch.tensor([[pad] * (width - len(c)) + list(c) for c in contexts], device=device)
    real = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts], device=device)
    positions = (real.cumsum(1) - 1).clamp_min(0)
    cache = new_cache(model)
    first = model(
        input_ids=ids, attention_mask=real, position_ids=positions, past_key_values=cache, logits_to_keep=1
    ).logits
    owner = [number for number, own in enumerate(continuations) for _ in own]
    rows = [list(tokens) for own in continuations for tokens in own]
    more = max(map(len, rows)) - 1
    rest = None
    if more:
        index = torch.tensor(owner, device=device)
        cache.batch_select_indices(index)
        ids = torch.tensor([row[:-1] + [pad] * (more + 1 - len(row)) for row in rows], device=device)
        real = torch.cat([real[index], torch.ones_like(ids)], dim=1)  # padding on the right is never looked back at
        positions = positions[index, -1:] + torch.arange(1, more + 1, device=device)
        rest = model(input_ids=ids, attention_mask=real, position_ids=positions, past_key_values=cache).logits
    scores: list[list[tuple[float, bool]]] = [[] for _ in contexts]
    for place, (number, row) in enumerate(zip(owner, rows, strict=True)):
        logits = first[number] if rest is None else torch.cat([first[number], rest[place, : len(row) - 1]])
        log_p, wanted = logits.float().log_softmax(-1), torch.tensor(row, device=logits.device)
        total = log_p.gather(1, wanted.unsqueeze(1)).sum().item()
        scores[number].append((total, bool((log_p.argmax(-1) == wanted).all())))
    return scores
