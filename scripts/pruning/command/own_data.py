"""A user's JSON Lines as prompts and completions, in three parts, and as questions whose answers are judged."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import yaml
from jinja2 import TemplateError
from lm_eval.filters.extraction import RegexFilter

from pruning.core.errors import InputError
from pruning.core.names import DATA

PAIRS = (("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("input", "output"))
WITH_INPUT = ("instruction", "output")
"""A pair whose question may go on in `input`."""
IN_CHAT = ("question", "instruction")
"""Fields that are asked in the model's chat format, where it has one; a `prompt` or an `input` is asked as it is."""
PARTS = {"train": "calibrate", "validation": "choose", "test": "test"}
TESTED, VALIDATED = 0.2, 0.15
"""Shares of the records that numbers are reported on, and that choices are made on; the rest is calibrated on."""

NUMBER = r"(?<![A-Za-z0-9_])-?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
AFTER_NUMBER = r"[\s.%$*)\]}]*"  # what may follow an answer's last number
SAME_NUMBERS = [",", r"\.0+$", r"(?<=\.[0-9])0+$", r"(?<=\.[0-9]{2})0+$"]  # left out before numbers are compared
SAME_TEXTS = [r"\s+", r"\.$"]
ANSWERS, METRIC = "own_answers", "exact_match,judged"
ASKING = {"test": ANSWERS, "validation": f"{ANSWERS}_validation", "train": f"{ANSWERS}_train"}
"""Tasks of the questions of each part, and what is measured of them."""
LEAST_TOKENS = 256
"""Of a generated answer, at most, however short the reference answers are; twice their 95th percentile, if more."""


class Judge(NamedTuple):
    """What of an answer is compared with the same of the reference answer."""

    name: str  # as --answer has it
    pattern: str | None = None  # regular expression; None: the whole text
    which: int = 0  # of its matches: 0 the first, -1 the last

    def found(self, text: str) -> str | None:
        """What lm-eval's filter finds in a text; None where it finds nothing."""
        if self.pattern is None:
            return text.strip() or None
        [[one]] = RegexFilter(self.pattern, self.which, fallback="").apply([[text]], [])
        return one or None


def judge(text: str) -> Judge:
    """--answer: `number`, `exact` or `regex:PATTERN`. Raises InputError for anything else."""
    kind, _, pattern = text.partition(":")
    if text == "number":
        return Judge(text, NUMBER, -1)
    if text == "exact":
        return Judge(text)
    if kind != "regex" or not pattern:
        raise InputError(f"--answer {text}: give number, exact, or regex:PATTERN, whose first group is the answer")
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(f"--answer {text}: no regular expression: {error}") from None
    return Judge(text, pattern)


class Answers(NamedTuple):
    """Questions whose generated answers are judged."""

    judge: Judge
    records: dict[str, list[dict[str, str]]]
    """`prompt`, `question` (the same without the chat format), `target` and `answer` of each part."""
    tokens: int  # of a generated answer, at most
    until: list[str]  # what a next record begins with, which ends an answer
    notes: list[str]  # what is to be said of records that are left out

    def definition(self, split: str) -> str:
        """lm-eval's task of the questions of one part, as YAML."""
        ignored = SAME_NUMBERS if self.judge.name == "number" else SAME_TEXTS
        pattern = {"function": "regex", "regex_pattern": self.judge.pattern, "group_select": self.judge.which}
        steps = [pattern] if self.judge.pattern else []
        metric, _, filtered = METRIC.partition(",")
        judged = {"metric": metric, "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
        content = {
            **{"task": ASKING[split], "dataset_path": "parquet"},
            "dataset_kwargs": {"data_files": {split: DATA.format(dataset=ANSWERS, split=split)}},
            **{"test_split": split, "output_type": "generate_until"},
            **{"doc_to_text": "prompt", "doc_to_target": "target"},  # fields, not templates
            "generation_kwargs": {"until": self.until, "max_gen_toks": self.tokens, "do_sample": False},
            "filter_list": [{"name": filtered, "filter": [*steps, {"function": "take_first"}]}],
            "metric_list": [judged | {"regexes_to_ignore": ignored}],
        }
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def texts(records: Sequence[Mapping[str, Any]], tokenizer: Any, given: str) -> list[dict[str, str]]:
    """Return `prompt` and `completion` of each record: of `messages`, the last answer and all before it in the model's
    own chat format; of a pair of fields (PAIRS), these; of `text`, no prompt. Of all but `text` also `asked`,
    `question` and `answer`: what the model is given to answer itself, what of it the user wrote last, and the reference
    answer.

    given: how errors begin, as `--data mine.jsonl`. Raises InputError, naming the fields found, where there is none of
    these."""
    names = fields(records[0], given)
    make = _conversation if names == ("messages",) else partial(_pair, names=names)
    return [make(record, tokenizer=tokenizer, given=given, number=number) for number, record in enumerate(records, 1)]


def fields(first: Mapping[str, Any], given: str) -> tuple[str, ...]:
    """Return the names of what is read of records like the first, but for the `input` of an `instruction`.

    Raises InputError as `texts` does."""
    kinds = (("messages",), *PAIRS, ("text",))
    if found := [names for names in kinds if set(names) <= set(first)]:
        return found[0]
    wanted = ", ".join(" and ".join(f"`{name}`" for name in names) for names in kinds)
    raise InputError(f"{given}: its records have {', '.join(sorted(first))}; one of these is needed: {wanted}")


def in_chat(first: Mapping[str, Any], tokenizer: Any) -> bool:
    """Whether records like this one are asked in the model's chat format."""
    read = fields(first, "")
    return read == ("messages",) or bool(tokenizer.chat_template) and read[0] in IN_CHAT


def split(pairs: Sequence[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """The parts, by the prompt's hash: equal prompts are in one part, and adding records moves no other.

    Raises InputError where one of them has no record."""
    parts: dict[str, list[dict[str, str]]] = {name: [] for name in PARTS}
    for pair in pairs:
        share = _digest(pair)[0] / 256
        parts["test" if share < TESTED else "validation" if share < TESTED + VALIDATED else "train"].append(pair)
    if empty := [name for name in PARTS if not parts[name]]:
        raise InputError(
            f"--data: no records of {len(pairs)} are left to {PARTS[empty[0]]} on, the part `{empty[0]}` is empty: "
            f"{1 - TESTED - VALIDATED:.0%} are to calibrate on, {VALIDATED:.0%} to choose on, {TESTED:.0%} to test on, "
            "and records with equal prompts stay together: give 50 or more with different prompts"
        )
    return parts


def answers(
    parts: Mapping[str, Sequence[dict[str, str]]],
    asked: str | None,
    most: Mapping[str, int],
    tokenizer: Any,
    context: int,
    chat: bool = False,
) -> Answers | None:
    """Return the questions of the parts that `most` names, at most so many; None where answers are not judged.

    asked: --answer; None: `number`, if every reference answer ends in one, else nothing. context: tokens that the
    model reads at once. chat: as `in_chat` has it. Raises InputError where no reference answer has what is judged, or
    no question fits the context."""
    everything = [pair for part in parts.values() for pair in part]
    if "answer" not in everything[0]:
        if asked:
            raise InputError(f"--answer {asked}: the records hold `text`, no questions with answers")
        return None
    ends = re.compile(f"{NUMBER}{AFTER_NUMBER}\\Z")
    if not asked and not all(ends.search(pair["answer"]) for pair in everything):
        return None
    own = judge(asked or "number")
    targets = {pair["answer"]: own.found(pair["answer"]) for pair in everything}
    missed = [pair["answer"] for pair in everything if targets[pair["answer"]] is None]
    if len(missed) == len(everything):
        raise InputError(f"--answer {own.name}: no reference answer has it, the first is {_short(missed[0])}")
    lost = f"{len(missed)} of {len(everything)} reference answers do not have it and are not asked"
    notes = [f"--answer {own.name}: {lost}, as {_short(missed[0])}."] if missed else []
    has = {name: [pair for pair in parts[name] if targets[pair["answer"]] is not None] for name in most}
    kept = {name: sorted(has[name], key=_digest)[:count] for name, count in most.items()}
    lengths = sorted(len(tokenizer(pair["answer"])["input_ids"]) for part in has.values() for pair in part)
    usual = lengths[int(0.95 * (len(lengths) - 1))] if lengths else 0
    tokens = min(max(LEAST_TOKENS, 2 * usual), context // 2)
    found = {
        name: [
            {key: pair[key] for key in ("question", "answer")}
            | {"prompt": pair["asked"], "target": targets[pair["answer"]]}
            for pair in part
            if len(tokenizer(pair["asked"])["input_ids"]) + tokens <= context
        ]
        for name, part in kept.items()
    }
    if not found["test"]:
        said = f"no test question of {len(parts['test'])} has it and fits the context of {context} tokens"
        if asked:
            raise InputError(f"--answer {asked}: {said}")
        return None
    return Answers(own, found, tokens, [] if chat else _until(everything), notes)


def _until(pairs: Sequence[Mapping[str, str]]) -> list[str]:
    """Strings that end an answer, of those that are in no reference answer: the end of a line, an empty line, and what
    all prompts begin with. A model that was not made for conversations goes on to a next question."""
    begun = os.path.commonprefix([pair["asked"] for pair in pairs]).strip()
    found = ["\n", "\n\n", *([begun] if len(begun) > 3 else [])]
    return [text for text in found if not any(text in pair["answer"] for pair in pairs)]


def _digest(pair: Mapping[str, str]) -> bytes:
    return hashlib.sha256((pair["prompt"] or pair["completion"]).encode()).digest()


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"…{text[-79:]}")


def _conversation(record: Mapping[str, Any], tokenizer: Any, given: str, number: int) -> dict[str, str]:
    messages = record.get("messages")
    if not tokenizer.chat_template:
        remedy = "give prompt and completion"
        raise InputError(f"{given}: `messages`, but the model's tokenizer has no chat format; {remedy}")
    listed = isinstance(messages, list) and messages and all(isinstance(each, dict) for each in messages)
    if not listed or messages[-1].get("role") != "assistant":
        raise InputError(f"{given}: record {number}: `messages` must end in an answer (role assistant)")
    if not all(isinstance(each.get("content"), str) and each["content"].strip() for each in messages[-2:]):
        raise InputError(f"{given}: record {number}: the last two of `messages` must have text as `content`")
    try:
        before = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:  # roles that do not alternate, content that is no text
        raise InputError(f"{given}: record {number}: the model's chat format refuses it: {error}") from None
    question = messages[-2]["content"] if len(messages) > 1 else before
    answered = {"asked": before, "question": question, "answer": messages[-1]["content"].strip()}
    if not whole.startswith(before):  # some formats rewrite earlier turns
        return {"prompt": "", "completion": whole, **answered}
    return {"prompt": before, "completion": whole[len(before) :], **answered}


def _pair(record: Mapping[str, Any], tokenizer: Any, given: str, number: int, names: tuple[str, ...]) -> dict[str, str]:
    """names: of the fields of question and answer, or of a text."""
    for name in names:
        if not isinstance(record.get(name), str) or not record[name].strip():
            value = record.get(name)
            quoted = f", but {value}: put it in quotes" if isinstance(value, int | float) else ""
            raise InputError(f"{given}: record {number} has no text in `{name}`{quoted}")
    if len(names) == 1:
        return {"prompt": "", "completion": record[names[0]]}
    question, answer = (record[name].strip() for name in names)
    if names == WITH_INPUT and (more := str(record.get("input") or "").strip()):
        question = f"{question}\n\n{more}"
    asked = prompt = f"{question}\n"
    if names == PAIRS[0] and (record["prompt"][-1].isspace() or record["completion"][0].isspace()):
        asked, prompt, answer = record["prompt"], record["prompt"], record["completion"]  # made to be joined
    if names[0] in IN_CHAT and tokenizer.chat_template:
        turn = [{"role": "user", "content": question}]
        asked = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return {"prompt": prompt, "completion": answer, "asked": asked, "question": question, "answer": answer.strip()}
