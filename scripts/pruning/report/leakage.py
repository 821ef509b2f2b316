"""Test items that are also in the data that a model was calibrated or tuned on."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pruning.core import artifacts
from pruning.report.files import Files

WORD = re.compile(r"[^\W\d_]+|\d")


def write(_: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write one row per text and task: source, task, items, identical, overlapping, n.

    Settings: `sources` (alias of a calibration or tuning -> {`path`, `first`, `limit`} of its records); `tasks` (task
    -> the same of its items); `n`. Records without words, as WikiText's empty lines, are no items."""

    def texts(path: str, first: int, limit: int | None) -> list[str]:
        records = artifacts.read_table(Path(path), "dataset").to_pylist()[first:][:limit]
        return [text for text in map(text_of, records) if words(text)]

    rows, n = [], settings["n"]
    tasks = {name: texts(**task) for name, task in settings["tasks"].items()}
    for source, own in settings["sources"].items():
        text = texts(**own)
        for task, items in tasks.items():
            identical, overlapping = overlap(text, items, n)
            row = {"source": source, "task": task, "items": len(items), "identical": identical}
            rows.append({**row, "overlapping": overlapping, "n": n})
    artifacts.write_csv(outputs[0], pd.DataFrame(rows), dict(settings))


def words(text: str) -> list[str]:
    """Lower-case words, of any script, and single digits: case, punctuation and spacing do not hide a copy."""
    return WORD.findall(text.lower())


def text_of(value: Any) -> str:
    """All text of a record, or of a field of it, in the order of its fields."""
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        return " ".join(filter(None, map(text_of, value)))
    return value if isinstance(value, str) else ""


def ngrams(text: Sequence[str], n: int) -> set[tuple[str, ...]]:
    """The n-grams of a text; a shorter text is one of its own length."""
    return {tuple(text[i : i + n]) for i in range(max(1, len(text) - n + 1))}


def overlap(source: Iterable[str], items: Iterable[str], n: int) -> tuple[int, int]:
    """(identical, overlapping): items equal to a text of the source, and items with at least half of their word
    n-grams somewhere in it (Brown et al. 2020, arXiv 2005.14165, appendix C, counts any shared 13-gram)."""
    whole, grams = set(), set()
    for text in source:
        found = words(text)
        whole.add(tuple(found))
        grams |= ngrams(found, n)
    identical = overlapping = 0
    for text in items:
        found = words(text)
        own = ngrams(found, n)
        identical += tuple(found) in whole
        overlapping += 2 * len(own & grams) >= len(own)
    return identical, overlapping
