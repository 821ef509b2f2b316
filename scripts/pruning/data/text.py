"""Records to text, text to token sequences."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

import pandas as pd

from pruning.core import artifacts
from pruning.core.errors import InputError

Sequences = Sequence[tuple[list[int], list[bool]]]
"""Token ids, each with a flag that says whether it belongs to an answer."""
MARK = "0a1b2c"
"""Stands for a question and its answer, in a chat format."""


def documents(data: Path, prompt: str, completion: str) -> list[tuple[str, str]]:
    """(prompt, completion) of every record of a dataset's parquet.

    Raises InputError where a template names a field that a record has not, or has no value in."""
    found: list[tuple[str, str]] = []
    for record in artifacts.read_table(data, "dataset").to_pylist():
        given = {field: value for field, value in record.items() if value is not None}
        try:
            found.append((prompt.format_map(given), completion.format_map(given)))
        except KeyError as field:
            number = len(found) + 1
            raise InputError(f"{data}: the text needs a field {field}; record {number} has {sorted(given)}") from None
    return found


def own_answers(samples: pd.DataFrame, task: str, metric: str, which: str = "right") -> pd.DataFrame:
    """`item`, `prompt` and `completion` of the questions that a model answered right, and to the end: what it generates
    itself is the text that it must be able to generate when it is pruned (RESP, arXiv 2512.02185).

    samples: of one evaluation (docs/artefacts.md). which: `right`, or `all` answers. Raises InputError where no answer
    is right, or where nothing was generated."""
    asked = samples[samples["metric"] == metric]
    if asked["response"].isna().all():
        raise InputError(f"tasks.{task}: its options are scored, nothing is generated: name another task as `answers`")
    ended = ~asked["finish_reason"].isin(["length", "loop"])
    right = asked if which == "all" else asked[(asked["value"] == 1) & ended]
    if right.empty:
        raise InputError(
            f"tasks.{task}: the model answers none of {len(asked)} questions right and to the end ({metric}): "
            "use the dataset's own text (leave `answers` out), or an easier task"
        )
    return right[["item", "prompt", "response"]].rename(columns={"response": "completion"})


def tokens(prompt: str, completion: str, tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of its completion with its end: `answer_end`, or else the end of the text."""
    started = bool(tokenizer.bos_token) and prompt.startswith(tokenizer.bos_token)  # by a chat format
    asked = tokenizer(prompt, add_special_tokens=not started)["input_ids"]
    end = answer_end(prompt, tokenizer)
    said = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return asked, [*said, tokenizer.eos_token_id if end is None else end]


def answer_end(prompt: str, tokenizer) -> int | None:
    """The token that ends the answer to a prompt in the model's chat format, as Gemma's <end_of_turn>; None for another
    prompt."""
    opening, end = _turn(tokenizer, str(getattr(tokenizer, "chat_template", None) or ""))  # or several, by their names
    return end if opening and prompt.endswith(opening) else None


@lru_cache(maxsize=8)
def _turn(tokenizer, template: str) -> tuple[str, int]:
    """What a chat format puts between a question and its answer, and the token that it ends the answer with; ("", 0)
    where there is none that can be rendered."""
    if not template:
        return "", 0
    asked = [{"role": "user", "content": MARK}]
    answered = [*asked, {"role": "assistant", "content": MARK}]
    try:
        before = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        after = tokenizer.apply_chat_template(answered, tokenize=False)
    except InputError:
        return "", 0
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    ids = tokenizer(after.rpartition(MARK)[2], add_special_tokens=False)["input_ids"]
    return before.rpartition(MARK)[2], next((each for each in ids if each in special), tokenizer.eos_token_id)


def token_samples(
    documents: Iterable[tuple[str, str]], tokenizer, *, samples: int, sequence_length: int, packing: str, seed: int
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
        asked, answered = tokens(prompt, completion, tokenizer)
        ids += asked + answered
        answer += [False] * len(asked) + [True] * len(answered)
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
        f"calibration data holds {have}; {samples} of {sequence_length} tokens are needed: lower `samples` or "
        "`sequence_length`, or use a bigger split"
    )
