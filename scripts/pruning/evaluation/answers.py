"""Answered requests of one (model, task) evaluation on disk, so that a killed job goes on where it stopped.

Append-only JSON Lines, each with a checksum: a line is written whole or, after a kill, is the broken last one and is
dropped. (lm-eval's own cache pickles into SQLite, keyed by the request alone: another model's answers would be served.)
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from pruning.core.artifacts import key_of
from pruning.core.errors import InputError

ANSWERS = 4  # what a line holds; raise it when that changes: it is part of the files' names, older ones are not read


class AnswerFile:
    """Maps a request's key to its record {response, tokens?, finish?}, JSON-like throughout.

    The last part of the path's stem must be unique to the model, the task, its data and the library versions
    (`artifacts.key_of` makes such names): each line's checksum covers it. `others` are files of the same, of tasks that
    ask fewer or more questions: they are read, never written. Lines that are broken, no longer what was written, or
    another model's are not believed: one printed line per file counts them."""

    def __init__(self, path: Path, others: Iterable[Path] = ()):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        for other in others:
            self._take(other)
        whole = self._take(path)
        self.file = path.open("r+b" if path.exists() else "w+b")
        self.file.truncate(whole)
        self.file.seek(whole)

    def _take(self, path: Path) -> int:
        """The records of a file; how many bytes its whole lines are."""
        raw = path.read_bytes() if path.exists() else b""
        whole = raw.rfind(b"\n") + 1
        lines = [_read(line, path) for line in raw[:whole].split(b"\n")[:-1]]
        self.records.update(line for line in lines if line)
        if bad := lines.count(None):
            told = f"{bad} of {len(lines)} lines broken, altered or foreign"
            print(f"{path}: {told}; what no sound line answers is asked again")
        return whole

    @staticmethod
    def key(kind: str, arguments: Any) -> str:
        """Of a request: its kind (`generate_until`, …) and its arguments, as lm-eval gives them to a model."""
        return key_of(kind, arguments)

    def __contains__(self, key: str) -> bool:
        return key in self.records

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.records[key]

    def add(self, key: str, record: dict[str, Any]) -> None:
        """On disk when it returns, but for a crash of the machine; a later record of the same key replaces this one."""
        record = self.records[key] = plain(record)
        line = {"key": key, **record, "checksum": _checksum(self.path, key, record)}
        self.file.write(json.dumps(line).encode() + b"\n")
        self.file.flush()


def _read(line: bytes, path: Path) -> tuple[str, dict[str, Any]] | None:
    """Key and record of a line as it was written to this file; None for any other."""
    try:
        record = json.loads(line)
        key, checksum = record.pop("key"), record.pop("checksum")
    except (ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return None
    whole = isinstance(key, str) and "response" in record and checksum == _checksum(path, key, record)
    return (key, record) if whole else None


def _checksum(path: Path, key: str, record: dict[str, Any]) -> str:
    return key_of(path.stem.rpartition(".")[2], key, record)


def plain(value: Any) -> Any:
    """The value as JSON brings it back: tuples are lists, numbers of numpy and torch Python's own."""
    return json.loads(json.dumps(value, default=lambda number: number.item()))


def _of_inner(name: str) -> property:
    return property(lambda self: getattr(self.inner, name))


class RememberedLM(LM):
    """Any model of lm-eval, asked only for what is not on record. All but the answers is the inner model's own.

    What it reports to its cache hook is recorded at once, with its `details` if it has any (backends/__init__.py); what
    it only returns is recorded when it returns. Requests that are equal are asked once."""

    device, rank, world_size = map(_of_inner, ("device", "rank", "world_size"))
    all_gather, gather_object, barrier = map(_of_inner, ("all_gather", "gather_object", "barrier"))
    tokenizer_name, chat_template = map(_of_inner, ("tokenizer_name", "chat_template"))
    apply_chat_template = _of_inner("apply_chat_template")

    def __init__(self, inner: LM, answers: AnswerFile):
        """Raises ValueError for a model of several processes: they would be asked for different numbers of requests,
        and write to one file."""
        super().__init__()
        if inner.world_size > 1:
            raise ValueError(f"a model of {inner.world_size} processes cannot be remembered")
        self.inner, self.answers = inner, answers
        self.asked: set[str] = set()  # keys of the requests that the inner model is answering
        inner.set_cache_hook(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["inner"], name)

    def add_partial(self, kind: str, arguments: Any, response: Any) -> None:
        """The inner model's cache hook."""
        key = self.answers.key(kind, arguments)
        if key in self.asked:
            self.answers.add(key, {"response": response, **getattr(self.inner, "details", {})})
        self.cache_hook.add_partial(kind, arguments, response)

    def loglikelihood(self, requests: list[Instance], **options: Any) -> list[tuple[float, bool]]:
        return self._answer("loglikelihood", requests, options)

    def loglikelihood_rolling(self, requests: list[Instance], **options: Any) -> list[float]:
        return self._answer("loglikelihood_rolling", requests, options)

    def generate_until(self, requests: list[Instance], **options: Any) -> list[str]:
        """Raises InputError if sampling is asked for: the same request would have several answers."""
        if any(_sampled(request.args[1]) for request in requests):
            raise InputError("generation_kwargs: only greedy answers can be remembered: set `do_sample: false`")
        return self._answer("generate_until", requests, options)

    def _answer(self, kind: str, requests: list[Instance], options: dict[str, Any]) -> list:
        """Responses in the order of the requests."""
        keys = [self.answers.key(kind, request.args) for request in requests]
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in self.answers}
        if missing:
            self.asked = set(missing)
            responses = getattr(self.inner, kind)(list(missing.values()), **options)
            for key, response in zip(missing, responses, strict=True):
                if key not in self.answers or self.answers[key]["response"] != plain(response):
                    self.answers.add(key, {**self.answers.records.get(key, {}), "response": response})
            self.asked = set()
        responses = [self.answers[key]["response"] for key in keys]
        return [tuple(response) if isinstance(response, list) else response for response in responses]


def _sampled(asked: dict[str, Any]) -> bool:
    """Whether generation arguments ask for sampling, by lm-eval's rule: without `do_sample`, a temperature does."""
    do_sample = asked.get("do_sample")
    return float(asked.get("temperature", 0)) > 0 if do_sample is None else bool(do_sample)
