"""The configuration as stacked by Snakemake, checked: one line a mistake, which names its key."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pruning.config.schema import Config
from pruning.core.errors import InputError


def validate(raw: dict[str, Any]) -> Config:
    """Raises InputError with one line a mistake, naming the key."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise InputError("\n".join(dict.fromkeys(map(_line, error.errors())))) from None


def check_syntax(path: Path) -> None:
    """Raises InputError, naming file and line, for a file that is no YAML: Snakemake's own message names neither."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise InputError(f"{path}:{mark.line + 1}:{mark.column + 1}: {_problem(error)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: no keys at its top level")


def _problem(error: yaml.MarkedYAMLError) -> str:
    hint = "; indent with spaces, not tabs" if "'\\t'" in str(error.problem) else ""
    begun = f" {error.context} of line {error.context_mark.line + 1}" if error.context_mark else ""
    return f"{error.problem}{begun}{hint}"


def _line(mistake: dict[str, Any]) -> str:
    key = ".".join(map(str, keys(mistake["loc"])))
    given = mistake["input"]
    shown = "" if isinstance(given, (dict, list)) else f" (given: {given!r})"
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
