"""Checks of what a program gives to the functions of api.py. Each raises InputError, which names the argument."""

import math
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from typing import Any

from pruning.core.errors import InputError


def known(argument: str, given: Iterable[str], names: Collection[str]) -> None:
    """Names of these alone, in a list."""
    if isinstance(given, str):
        raise InputError(f"{argument}: give a list, as [{given!r}]")
    if unknown := [name for name in given if name not in {*names}]:
        raise InputError(f"{argument}: unknown {', '.join(map(repr, unknown))}; known: {', '.join(sorted(names))}")


def columns(argument: str, given: Any, names: Iterable[str], source: str) -> None:
    """A data frame with these columns, as the function `source` returns it."""
    if lacking := [name for name in names if name not in getattr(given, "columns", ())]:
        raise InputError(f"{argument}: lacks the columns {', '.join(lacking)}: give what `{source}` returns")


def returned(argument: str, given: Any, kind: type, source: str) -> None:
    """What the function `source` returns."""
    if not isinstance(given, kind):
        raise InputError(f"{argument}: a {type(given).__name__}: give what `{source}` returns")


def finite(argument: str, column: Any) -> None:
    """Numbers, none of them NaN or infinite."""
    if column.dtype.kind not in "fiu" or not column.abs().lt(math.inf).all():
        raise InputError(f"{argument}: NaN, Inf, or no number in `{column.name}`")


def flags(argument: str, column: Any) -> None:
    """Truth values, or 0 and 1."""
    if column.dtype.kind not in "bi" or not column.isin([0, 1]).all():
        raise InputError(f"{argument}: `{column.name}` is not of true and false")


def share(argument: str, given: Any) -> None:
    """A number from 0 to 1."""
    if not isinstance(given, Real) or not 0 <= given <= 1:
        raise InputError(f"{argument}: {given} is not from 0 to 1")


def count(argument: str, given: Any) -> None:
    """A whole number, 1 or more."""
    if not isinstance(given, Integral) or given < 1:
        raise InputError(f"{argument}: {given}: give a whole number, 1 or more")


def token_ids(batches: Iterable[Any], rows: int) -> None:
    """Numbers of rows of an embedding, in every batch of calibration/prepare.py."""
    for number, batch in enumerate(batches):
        least, most = int(batch.ids.min()), int(batch.ids.max())
        if least < 0 or most >= rows:
            raise InputError(f"batch {number}: token ids from {least} to {most}, and the model has 0 to {rows - 1}")
