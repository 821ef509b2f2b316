"""Kinds of tasks: one file a kind (`kind` of a task in the config), so that one's code is no other's.

Each has `check_memory(model, task)`, called before the model of this folder is loaded, and
`ask(network, tokenizer, task, source, cache, dense) -> Outcome`: the task's settings, the file that it is made from,
where responses may be cached, and, where the task compares with the dense model, the manifest of what that one's head
gets on the text (evaluation/dense.py). `network` is the model, or what the task's backend has made of it (backends/).
To add one: a file here, and its settings in pruning/config/tasks.py.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Cache:
    """Where responses may be cached, and what they are responses of."""

    folder: Path
    name: str
    """Of the task."""
    model: list[Any]
    """What the model's weights are, JSON-like."""


@dataclass(frozen=True)
class Outcome:
    samples: pd.DataFrame
    """One row per item and metric, docs/artefacts.md."""
    result: dict[str, Any]
    """The whole result, JSON-like."""
    words: str
    """For the log."""
    origin: dict[str, Any] = field(default_factory=dict)
    """What the result depends on beside the settings, for its provenance."""
