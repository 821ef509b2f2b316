"""Test items that occur in the text a model was calibrated or tuned on."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WORD = re.compile(r"[a-z]+|\d")


def words(text: str) -> list[str]:
    """Lower-case words and single digits: case, punctuation and spacing do not hide a copy."""
    return WORD.findall(text.lower())


def text_of(record: Mapping[str, Any]) -> str:
    """All text of a record, in the order of its fields."""
    parts = []
    for value in record.values():
        parts += [value] if isinstance(value, str) else [v for v in _items(value) if isinstance(v, str)]
    return " ".join(parts)


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


def _items(value: Any) -> list:
    if isinstance(value, Mapping):
        return [inner for entry in value.values() for inner in _items(entry)]
    return list(value) if isinstance(value, (list, tuple)) else []
