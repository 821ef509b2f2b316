"""The configuration as stacked by Snakemake, checked: one line a mistake, which names its key."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pruning.config.schema import Config
from pruning.core import strict_yaml
from pruning.core.errors import InputError


def validate(raw: dict[str, Any], files: Sequence[str | Path] = ()) -> Config:
    """Raises InputError with one line a mistake, naming the key. files: what it is read from, whose text is checked."""
    for file in files:
        strict_yaml.check(Path(file))
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise InputError("\n".join(dict.fromkeys(_line(mistake, raw) for mistake in error.errors()))) from None
    if turned := sorted(_turned(raw, config.model_dump())):
        said = "a number is needed, and YAML reads yes, no, on, off, true and false as none"
        raise InputError("\n".join(f"config: {key.removeprefix('.')}: {said}" for key in turned))
    return config


def _turned(raw: Any, read: Any, key: str = "") -> Iterator[str]:
    """Keys whose yes or no pydantic has taken for 1 or 0."""
    if isinstance(raw, bool):
        if not isinstance(read, bool):
            yield key
    elif isinstance(raw, dict) and isinstance(read, dict):
        for name in raw.keys() & read.keys():
            yield from _turned(raw[name], read[name], f"{key}.{name}")
    elif isinstance(raw, list) and isinstance(read, list | tuple):
        for number, (mine, its) in enumerate(zip(raw, read, strict=False)):
            yield from _turned(mine, its, f"{key}.{number}")


def _line(mistake: dict[str, Any], raw: Any) -> str:
    key = ".".join(map(str, _keys(mistake["loc"], raw)))
    given = mistake["input"]
    text = repr(given)
    shown = "" if isinstance(given, (dict, list)) else f" (given: {text[:100] + '…' if len(text) > 100 else text})"
    message = mistake["msg"].removeprefix("Value error, ")
    if "[a-z0-9_-]+" in message:
        two = ", and one / between two of them" if "/" in message else ""
        message = f"names may hold only a-z, 0-9, _ and -{two}"
    if mistake["type"] == "extra_forbidden":
        message, shown = "unknown key", ""
    if mistake["type"] == "too_short":
        message = "needs {min_length} or more entries, has {actual_length}".format(**mistake["ctx"])
    return f"config: {key + ': ' if key else ''}{message}{shown}"


def _keys(location: tuple[str | int, ...], raw: Any) -> Iterator[str | int]:
    """The keys that lead to a mistake: pydantic's location less what is no key.

    That is, of a section with a `kind`, this kind, which pydantic puts before the section's keys; and `[key]` after a
    key that is itself the mistake."""
    within_kind = False
    for part in location:
        if isinstance(raw, dict) and raw.get("kind") == part and not within_kind:
            within_kind = True
        elif part != "[key]" or isinstance(raw, dict) and part in raw:
            yield part
            within_kind = False
            try:
                raw = raw[part]
            except (KeyError, IndexError, TypeError):
                raw = None
