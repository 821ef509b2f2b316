"""Cached responses of one (model, task) evaluation on disk, so that a killed job goes on where it stopped.

Append-only JSON Lines, each with a checksum: a line is written whole or, after a kill, is the broken last one and is
dropped. (lm-eval's own cache pickles into SQLite, keyed by the request alone: another model's answers would be served.)
"""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import normalize_gen_kwargs

from pruning.core.artifacts import key_of
from pruning.core.errors import InputError
from pruning.core.out_of_memory import is_out_of_memory

ANSWERS = 4  # what a line holds; raise it when that changes: it is part of the files' names, older ones are not read
KINDS = ("generate_until", "loglikelihood", "loglikelihood_rolling")
"""Of requests, by lm-eval's names."""


class AnswerFile(dict[str, dict[str, Any]]):
    """Maps a request's key, `key_of(kind, arguments)`, to its record {response, tokens?, finish?}, JSON-like.

    The last part of the path's stem must be unique to the model, the task and the library versions
    (`artifacts.key_of` makes such names): each line's checksum covers it. `others` are files of the same, of tasks that
    ask fewer or more questions: they are read, never written. Lines that are broken, no longer what was written, or
    another model's are not believed: one printed line per file counts them."""

    def __init__(self, path: Path, others: Iterable[Path] = ()):
        super().__init__()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        for other in others:
            self._take(other)
        whole = self._take(path)
        self.file = path.open("r+b" if path.exists() else "w+b")
        self.file.truncate(whole)
        self.file.seek(whole)

    def _take(self, path: Path) -> int:
        """Take over the records of a file; return how many bytes its whole lines are."""
        raw = path.read_bytes() if path.exists() else b""
        whole = raw.rfind(b"\n") + 1
        lines = [_read(line, path) for line in raw[:whole].split(b"\n")[:-1]]
        self.update(line for line in lines if line)
        if bad := lines.count(None):
            told = f"{bad} of {len(lines)} lines broken, altered or foreign"
            print(f"{path}: {told}; what no sound line answers is asked again")
        return whole

    def add(self, key: str, record: dict[str, Any]) -> None:
        """On disk when it returns, but for a crash of the machine; a later record of the same key replaces this one."""
        record = self[key] = plain(record)
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


class CachingLM:
    """A model of lm-eval that is asked only for what is not on record; as lm-eval's own class of this name.

    All but the responses is the inner model's own. What that reports to its cache hook is recorded at once, with the
    details that it has of it (backends/__init__.py); what it only returns is recorded when it returns. Requests that
    are equal are asked once."""

    def __init__(self, lm: LM, answers: AnswerFile):
        """Raises ValueError for a model of several processes: they would be asked for different numbers of requests,
        and write to one file."""
        if lm.world_size > 1:
            raise ValueError(f"responses of a model of {lm.world_size} processes cannot be cached")
        self.lm, self.answers = lm, answers
        self.asked: set[str] = set()  # keys of the requests that the model is answering
        lm.set_cache_hook(self)

    def __getattr__(self, name: str) -> Any:
        return partial(self._respond, name) if name in KINDS else getattr(self.lm, name)

    def add_partial(self, kind: str, arguments: Any, response: Any) -> None:
        """What the model calls for every response, as its cache hook."""
        details = self.lm.details.popleft() if getattr(self.lm, "details", None) else {}
        if (key := key_of(kind, arguments)) in self.asked:
            self.answers.add(key, {"response": response, **details})

    def _respond(self, kind: str, requests: list[Instance], **options: Any) -> list:
        """Responses in the order of the requests. Each time that memory runs out, what is missing is asked again with
        half the batch, if the model has a `batch_size_per_gpu`.

        Raises InputError when memory does not suffice for a batch of one, and if sampling is asked for: the same
        request would have several responses."""
        if kind == "generate_until" and any(normalize_gen_kwargs(request.args[1])["do_sample"] for request in requests):
            raise InputError("generation_kwargs: only greedy answers can be cached: set `do_sample: false`")
        keys = [key_of(kind, request.args) for request in requests]
        tried = []
        while missing := {key: own for key, own in zip(keys, requests, strict=True) if key not in self.answers}:
            self.asked = set(missing)
            tried.append(getattr(self.lm, "batch_size_per_gpu", None))
            try:
                responses = getattr(self.lm, kind)(list(missing.values()), **options)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or tried[-1] is None:
                    raise
                if tried[-1] == 1:
                    said = f"out of memory, batch sizes tried: {tried}; give the job more memory or GPUs"
                    raise InputError(said) from None
                self.lm.batch_size_per_gpu //= 2
            else:
                for key, response in zip(missing, responses, strict=True):
                    if key not in self.answers or self.answers[key]["response"] != plain(response):
                        self.answers.add(key, {**self.answers.get(key, {}), "response": response})
            torch.cuda.empty_cache()  # an error's traceback, which held tensors, is freed here
        responses = [self.answers[key]["response"] for key in keys]
        return [tuple(response) if isinstance(response, list) else response for response in responses]
