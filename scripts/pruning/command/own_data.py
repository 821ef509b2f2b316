"""A user's JSON Lines as prompts and completions."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from pruning.core.errors import InputError

PAIRS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("input", "output"))
TESTED = 0.2  # share of the records that nothing is calibrated or tuned on


def texts(records: Sequence[Mapping[str, Any]], tokenizer: Any, path: Path) -> list[dict[str, str]]:
    """Return `prompt` and `completion` of each record: of `messages`, the last answer and all before it in the model's
    own chat format; of a pair of fields (PAIRS), these; of `text`, no prompt.

    Raises InputError, naming the fields found, where there is none of these."""
    first = records[0]
    if "messages" in first:
        return [_conversation(record, tokenizer, path, number) for number, record in enumerate(records, 1)]
    if not (found := [names for names in (*PAIRS, ("text",)) if set(names) <= set(first)]):
        wanted = ", ".join(["`messages`", *(f"`{a}` and `{b}`" for a, b in PAIRS), "`text`"])
        shown = ", ".join(sorted(first))
        raise InputError(f"--data {path}: its records have {shown}; one of these is needed: {wanted}")
    return [_pair(record, found[0], path, number) for number, record in enumerate(records, 1)]


def split(pairs: Sequence[dict[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Train and test, by the prompt's hash: equal prompts are on one side, and adding records moves no other.

    Raises InputError where one of them has no record."""
    train, test = [], []
    for pair in pairs:
        key = hashlib.sha256((pair["prompt"] or pair["completion"]).encode()).digest()
        (test if key[0] < 256 * TESTED else train).append(pair)
    if not train or not test:
        raise InputError(
            f"--data: none of its {len(pairs)} records is left to {'test' if train else 'calibrate'} on, since records "
            "with equal prompts stay together: give more records with different prompts"
        )
    return train, test


def _conversation(record: Mapping[str, Any], tokenizer: Any, path: Path, number: int) -> dict[str, str]:
    messages = record.get("messages")
    if not tokenizer.chat_template:
        raise InputError(
            f"--data {path}: `messages`, but the model's tokenizer has no chat format; give prompt and completion"
        )
    listed = isinstance(messages, list) and messages and all(isinstance(each, dict) for each in messages)
    if not listed or messages[-1].get("role") != "assistant":
        raise InputError(f"--data {path}: record {number}: `messages` must end in an answer (role assistant)")
    try:
        before = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:  # roles that do not alternate, content that is no text
        raise InputError(f"--data {path}: record {number}: the model's chat format refuses it: {error}") from None
    if not whole.startswith(before):  # some formats rewrite earlier turns
        return {"prompt": "", "completion": whole}
    return {"prompt": before, "completion": whole[len(before) :]}


def _pair(record: Mapping[str, Any], names: tuple[str, ...], path: Path, number: int) -> dict[str, str]:
    """names: of the fields of question and answer, or of a text."""
    for name in names:
        if not isinstance(record.get(name), str) or not record[name].strip():
            raise InputError(f"--data {path}: record {number} has no text in `{name}`")
    if len(names) == 1:
        return {"prompt": "", "completion": record[names[0]]}
    return {"prompt": record[names[0]].strip() + "\n", "completion": record[names[1]].strip()}
