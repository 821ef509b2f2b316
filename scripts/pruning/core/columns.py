"""Columns of the parquet and CSV files below results/, as report/columns.yaml describes them, and their check."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import yaml

from pruning.core import names

FILE = names.HOME / "report/columns.yaml"
ANY = {"boolean", "integer", "number", "text"}


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    unit: str
    meaning: str
    needed: bool

    @property
    def pattern(self) -> str:
        """A regular expression of the names that it stands for: `<any>_sum` for all that end so."""
        return "".join("[A-Za-z0-9_-]+" if part[0] == "<" else part for part in re.findall(r"<\w+>|[^<]+", self.name))


@dataclass(frozen=True)
class Entry:
    """A kind of file."""

    path: str
    section: str  # heading that it is below
    row: str
    about: str
    columns: tuple[Column, ...]

    def is_of(self, path: str) -> bool:
        """Whether a path below results/ is such a file's."""
        folder = "" if self.path.startswith("{model}/") else "(?:[^/]+/)?"  # an experiment's name
        return bool(re.fullmatch(folder + names.pattern_of(self.path).pattern, path))

    def mistakes(self, found: Mapping[str, set[str]]) -> list[str]:
        """Return what is wrong with the columns of such a file: name -> the types that it can be described as."""
        said = []
        for name, types in found.items():
            own = next((column for column in self.columns if re.fullmatch(column.pattern, name)), None)
            if own is None:
                said.append(f"column {name} is not described")
            elif own.type not in types | {"any"}:
                said.append(f"column {name} is {' or '.join(sorted(types))}, not {own.type}")
        lacking = [column.name for column in self.columns if column.needed and column.name not in found]
        return said + [f"column {name} is missing" for name in lacking]


@cache
def entries() -> tuple[Entry, ...]:
    """Return all kinds of files, in the order in which a path is to be looked up."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    common = {key.rstrip("?"): value for key, value in content["common"].items()}
    found, section = [], ""
    for path, own in content["files"].items():
        section = own.get("section", section)
        made = (
            Column(key.rstrip("?"), *(given or common[key.rstrip("?")]), not re.search(r"[<?]", key))
            for keys, given in own["columns"].items()
            for key in keys.split(", ")
        )
        found.append(Entry(path, section, own["row"], own.get("about", ""), tuple(made)))
    return tuple(found)


def entry_of(path: str) -> Entry | None:
    """Return the kind of a file below results/; None for one that no entry describes."""
    return next((entry for entry in entries() if entry.is_of(path)), None)


def of_table(table: pa.Table) -> dict[str, set[str]]:
    """Return the types that each column of a parquet file can be described as."""
    return {field.name: _types(field.type) for field in table.schema}


def _types(kind: pa.DataType) -> set[str]:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return {f"list of {inner}" for inner in _types(kind.value_type)}
    if pa.types.is_integer(kind):
        return {"integer", "number"}
    found = {"boolean": pa.types.is_boolean(kind), "number": pa.types.is_floating(kind)}
    found["text"] = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return ANY if pa.types.is_null(kind) else {name for name, holds in found.items() if holds} or {str(kind)}


def of_csv(path: Path) -> dict[str, set[str]]:
    """Return the types that each column of a CSV can be described as, by its values: any text may look like another."""
    frame = pd.read_csv(path, low_memory=False).convert_dtypes()
    kinds = {"b": {"boolean"}, "i": {"integer", "number"}, "f": {"number"}}
    return {
        name: ANY if values.isna().all() else kinds.get(values.dtype.kind, set()) | {"text"}
        for name, values in frame.items()
    }
