"""The configuration as stacked by Snakemake, checked: one line a mistake, which names its key."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

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
        raise InputError("\n".join(dict.fromkeys(map(_line, error.errors())))) from None
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


def _line(mistake: dict[str, Any]) -> str:
    key = ".".join(map(str, keys(mistake["loc"])))
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


def keys(location: tuple[str | int, ...], kind: Any = Config, discriminator: str | None = None) -> list[str | int]:
    """The keys that lead to a mistake: pydantic's location less what is no key.

    That is the tag after a discriminated union, and `[key]` after a key that is itself the mistake. Both are told by
    their place in the type, since a key may have any name."""
    if not location:
        return []
    first, rest = location[0], location[1:]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        tags = [info.discriminator for info in arguments[1:] if isinstance(info, FieldInfo)]
        return keys(location, arguments[0], next(filter(None, tags), discriminator))
    if origin in (Union, UnionType):
        members = [member for member in arguments if member is not NoneType]
        if discriminator:
            members = [m for m in members if first in get_args(m.model_fields[discriminator].annotation)]
        if len(members) == 1:
            return keys(rest if discriminator else location, members[0])
    if isinstance(kind, type) and issubclass(kind, BaseModel) and first in kind.model_fields:
        field = kind.model_fields[first]
        return [first, *keys(rest, field.annotation, field.discriminator)]
    if origin is dict:
        return [first, *(() if rest == ("[key]",) else keys(rest, arguments[1]))]
    if origin in (list, tuple):
        return [first, *keys(rest, arguments[0])]
    return list(location)
