"""Log-likelihoods of continuations: what those of one context have in common is computed once."""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from pruning.evaluation.generation import common_prefix, device_of, last, new_cache, padded

Tokens = Sequence[int]


def grouped(pairs: Sequence[tuple[Tokens, Tokens]], size: int) -> Iterator[list[list[int]]]:
    """Numbers of (context, continuation) pairs, in groups of one context, in batches of about `size` pairs of like
    lengths, the longest first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (context, _) in enumerate(pairs):
        groups.setdefault(tuple(context), []).append(number)
    parts = [own[start : start + size] for own in groups.values() for start in range(0, len(own), size)]
    parts.sort(key=lambda part: max(len(pairs[n][0]) + len(pairs[n][1]) for n in part), reverse=True)
    batch: list[list[int]] = []
    for part in parts:
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
    whether greedy decoding would give it. The softmax is taken in float32, whatever the model computes in.

    One pass for the contexts, each with what its continuations have in common, and one for the rest of these."""
    device = device_of(model)
    shared = [common_prefix(own) for own in continuations]
    begun = [list(c) + list(own[0][:n]) for c, own, n in zip(contexts, continuations, shared, strict=True)]
    kept = max(shared) + 1  # the last tokens, after which something is asked for
    ids, real = padded(begun, pad, device), padded([[1] * len(c) for c in begun], 0, device)
    positions = (real.cumsum(1) - 1).clamp_min(0)
    cache = new_cache(model)
    where = {"attention_mask": real, "position_ids": positions, "cache": cache}
    first = model(input_ids=ids, **where, logits_to_keep=last(kept, device)).logits
    owner = [number for number, own in enumerate(continuations) for _ in own]
    rows = [list(tokens) for own in continuations for tokens in own]
    rests = [row[shared[number] :] for number, row in zip(owner, rows, strict=True)]
    more = max(map(len, rests)) - 1
    second = None
    if more:
        index = torch.tensor(owner, device=device)
        cache.batch_select_indices(index.cpu())  # layers may be on several GPUs
        ids = torch.tensor([rest[:-1] + [pad] * (more + 1 - len(rest)) for rest in rests], device=device)
        real = torch.cat([real[index], torch.ones_like(ids)], dim=1)  # padding on the right is never looked back at
        positions = positions[index, -1:] + torch.arange(1, more + 1, device=device)
        second = model(input_ids=ids, attention_mask=real, position_ids=positions, cache=cache).logits
    scores: list[list[tuple[float, bool]]] = [[] for _ in contexts]
    for place, (number, row, rest) in enumerate(zip(owner, rows, rests, strict=True)):
        logits = first[number, kept - 1 - shared[number] :]
        if second is not None:
            logits = torch.cat([logits, second[place, : len(rest) - 1]])
        log_p, wanted = logits.float().log_softmax(-1), torch.tensor(row, device=logits.device)
        total = log_p.gather(1, wanted.unsqueeze(1)).sum().item()
        scores[number].append((total, bool((log_p.argmax(-1) == wanted).all())))
    return scores
