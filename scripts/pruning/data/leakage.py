"""Test items that occur in the text a model was calibrated or tuned on."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WORD = re.compile(r"[a-z]+|\d")


def words(text: str) -> list[str]:
    """Lower-case words and single digits: case, punctuation and spacing do not hide a copy."""
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
