"""Records to text, text to token sequences."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from pruning.core import artifacts
from pruning.core.errors import InputError

Sequences = Sequence[tuple[list[int], list[bool]]]
"""Token ids, each with a flag that says whether it belongs to an answer."""


def render(record: Mapping[str, Any], template: str) -> str:
    return template.format_map(record)


def documents(data: Path, prompt: str, completion: str) -> list[tuple[str, str]]:
    """(prompt, completion) of every record of a dataset's parquet.

    Raises InputError where a template names a field that it has not."""
    records = artifacts.read_table(data, "dataset").to_pylist()
    try:
        return [(render(record, prompt), render(record, completion)) for record in records]
    except KeyError as field:
        raise InputError(f"{data}: the text needs a field {field}; it has {sorted(records[0])}") from None


def token_samples(
    documents: Iterable[tuple[str, str]],
    tokenizer,
    *,
    samples: int,
    sequence_length: int,
    packing: str,
    seed: int,
) -> Sequences:
    """`samples` token sequences.

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
