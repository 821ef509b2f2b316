"""What the sections of the configuration share: the strict model, types, and checks of names."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

LIBRARY = Path(__file__).parents[1]
Alias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
Percent = Annotated[int, Field(gt=0, lt=100)]
Removed = Annotated[int, Field(ge=0, lt=100)]
Revision = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|main)$")]
Positive = Annotated[int, Field(gt=0)]
Dtype = Literal["float32", "bfloat16", "float16"]
Item = TypeVar("Item")
NonEmpty = Annotated[list[Item], Field(min_length=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Raises ValueError for values that contradict each other."""


@dataclass(frozen=True)
class Of:
    """Marks a field that holds names: a section of the configuration declares them (references.py checks it)."""

    section: str


def choices(folder: str) -> tuple[str, ...]:
    """The plug-ins of a library folder: one file each."""
    return tuple(sorted(path.stem for path in (LIBRARY / folder).glob("*.py") if path.stem != "__init__"))


def fields_of(template: str) -> list[str]:
    """Names in braces of a text template, "" for empty ones. Raises ValueError where a brace has no other."""
    found = [(name, form) for _, name, form, _ in Formatter().parse(template) if name is not None]
    return [name for outer, form in found for name in (outer, *fields_of(form))]


def keywords(function: Callable[..., Any], given: Iterable[str]) -> set[str]:
    """Return the names of a function's options, its arguments after the first; of one that takes any, what is given."""
    own = [*inspect.signature(function).parameters.values()][1:]
    return {*given} if any(each.kind is each.VAR_KEYWORD for each in own) else {each.name for each in own}


def known(key: str, names: Iterable[str], declared: Any) -> None:
    """Raises ValueError for a name that is not declared, with the nearest ones where there are too many to list."""
    for name in names:
        if name not in declared:
            many = len(declared) > 30
            listed = get_close_matches(name, list(declared), cutoff=0.5) if many else sorted(declared)
            which = "nearest" if many else "declared"
            raise ValueError(f"{key}: unknown name {name!r}; {which}: {', '.join(listed) or 'none'}")
