"""Answered requests of one (model, task) evaluation on disk, so that a killed job goes on where it stopped.

Append-only JSON Lines: a line is written whole or, after a kill, is the broken last one and is dropped. (lm-eval's
own cache pickles into SQLite, keyed by the request alone: another model's answers would be served.)
"""

import json
from pathlib import Path
from typing import Any

from pruning.core.artifacts import key_of


class ResponseCache:
    """Maps a request (its kind and arguments) to a response record {response, tokens?, finish?}.

    The path must be unique to the model, the task and the library versions: `artifacts.key_of` names such a file."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records: dict[str, dict[str, Any]] = {}
        whole = 0
        if path.exists():
            raw = path.read_bytes()
            whole = raw.rfind(b"\n") + 1
            for line in raw[:whole].splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # a damaged line is a request not yet answered
                self.records[record.pop("key")] = record
        self.file = path.open("r+b" if path.exists() else "w+b")
        self.file.truncate(whole)
        self.file.seek(whole)

    @staticmethod
    def key(kind: str, arguments: Any) -> str:
        return key_of(kind, arguments)

    def __contains__(self, key: str) -> bool:
        return key in self.records

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.records[key]

    def add(self, key: str, record: dict[str, Any]) -> None:
        self.records[key] = record
        self.file.write(json.dumps({"key": key, **record}).encode() + b"\n")
        self.file.flush()
