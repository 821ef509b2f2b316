"""Calibration text as token samples: documents rendered, tokenised, packed or padded, and cut into micro-batches.

The micro-batch is the unit of sharding: a shard owns whole ones, so the same numbers go through the same kernels
whatever the shard count, and masks do not depend on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from pruning.core.errors import InputError


@dataclass(frozen=True)
class Batch:
    """One micro-batch, padded on the right to its longest sample."""

    samples: torch.Tensor  # int64 [B], sample numbers in the whole calibration set
    ids: torch.Tensor  # int64 [B, T]
    counted: torch.Tensor  # bool [B, T], real tokens (not padding): what activations are summed over
    objective: torch.Tensor  # bool [B, T], tokens that the objectives average over


def render(record: Mapping[str, Any], template: str) -> str:
    return template.format_map(record)


def token_samples(
    documents: Iterable[tuple[str, str]],
    tokenizer,
    *,
    samples: int,
    sequence_length: int,
    packing: str,
    seed: int,
) -> list[tuple[list[int], list[bool]]]:
    """`samples` token sequences, each with a flag a token that says whether it belongs to an answer.

    documents: (prompt, completion) pairs, shuffled with the seed. `concat` joins them, with the end-of-text token
    between, into one stream cut every `sequence_length` tokens; `document` makes one sample of each, cut there.

    Raises InputError if there is not enough text."""
    documents = list(documents)
    Random(seed).shuffle(documents)
    found: list[tuple[list[int], list[bool]]] = []
    ids: list[int] = []
    answer: list[bool] = []
    for prompt, completion in documents:
        p, c = tokenizer(prompt)["input_ids"], tokenizer(completion, add_special_tokens=False)["input_ids"]
        end = [tokenizer.eos_token_id]
        ids += p + c + end
        answer += [False] * len(p) + [True] * (len(c) + 1)
        if packing == "document":
            found.append((ids[:sequence_length], answer[:sequence_length]))
            ids, answer = [], []
        while len(ids) >= sequence_length:
            found.append((ids[:sequence_length], answer[:sequence_length]))
            ids, answer = ids[sequence_length:], answer[sequence_length:]
        if len(found) >= samples:
            return found[:samples]
    have = f"{len(found)} whole samples" if found else f"only {len(ids)} tokens, less than one sequence"
    raise InputError(
        f"calibration data holds {have}; {samples} of {sequence_length} tokens were asked: lower `samples` or "
        "`sequence_length`, or use a bigger split"
    )


def micro_batches(
    sequences: Sequence[tuple[list[int], list[bool]]],
    size: int,
    *,
    pad: int,
    token_mask: str,
) -> list[Batch]:
    """Micro-batches of `size` samples in order. `token_mask` says which tokens the objectives average over; every real
    token counts in the sums.

    Raises InputError if a sample has no token left for the objective."""
    batches = []
    for start in range(0, len(sequences), size):
        chunk = sequences[start : start + size]
        length = max(len(ids) for ids, _ in chunk)
        ids = torch.full((len(chunk), length), pad)
        counted = torch.zeros(len(chunk), length, dtype=torch.bool)
        objective = torch.zeros(len(chunk), length, dtype=torch.bool)
        for row, (tokens, answer) in enumerate(chunk):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            counted[row, : len(tokens)] = True
            objective[row, : len(tokens)] = torch.tensor(answer) if token_mask == "answer" else True
        if not objective[:, 1:].any(dim=1).all():
            row = start + int((~objective[:, 1:].any(dim=1)).nonzero()[0])
            raise InputError(
                f"calibration sample {row} has no token for the objective (token_mask: {token_mask}); "
                "raise `sequence_length`"
            )
        batches.append(Batch(torch.arange(start, start + len(chunk)), ids, counted, objective))
    return batches


def shard_of(batches: Sequence[Batch], shard: int, shards: int) -> Sequence[Batch]:
    """Contiguous whole micro-batches of shard 0 .. shards-1, as even as possible; may be empty."""
    return batches[len(batches) * shard // shards : len(batches) * (shard + 1) // shards]


def sampled_positions(batches: Sequence[Batch], tokens: int, seed: int) -> dict[int, list[int]]:
    """Which tokens' activations are kept: sample -> positions, drawn from all counted tokens of the whole set."""
    every = [
        (int(sample), int(position))
        for batch in batches
        for sample, row in zip(batch.samples, batch.counted, strict=True)
        for position in row.nonzero().flatten()
    ]
    chosen: dict[int, list[int]] = {}
    for sample, position in sorted(Random(seed).sample(every, min(tokens, len(every)))):
        chosen.setdefault(sample, []).append(position)
    return chosen
