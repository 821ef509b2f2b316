"""What a table or figure is made from: as the catalogue says, and as its maker reads it from the command line."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pruning.core import artifacts
from pruning.core.names import Variant


@dataclass(frozen=True)
class Entry:
    caption: str  # For someone who has not read the code
    files: Mapping[str, list[str]]  # By the names that the maker knows them by
    settings: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""  # Of a figure; a table's page has its own
    templates: Mapping[str, str] = field(default_factory=dict)
    """For files that the maker finds by what they are of, not by their order: how they are named."""
    maker: str = ""  # The module that makes it; the entry's own name where it is none other

    @property
    def inputs(self) -> list[str]:
        return sorted({file for files in self.files.values() for file in files})

    @property
    def options(self) -> list[str]:
        """The files on a command line."""
        named = {**self.files, **{name: [template] for name, template in self.templates.items()}}
        return [f"--file={name}={path}" for name, paths in named.items() for path in paths]


class Files:
    """Files by name, of NAME=PATH. Where there are many, one template stands for them, with names in braces."""

    def __init__(self, arguments: Iterable[str]):
        self.named: dict[str, list[str]] = {}
        for argument in arguments:
            name, path = argument.split("=", 1)
            self.named.setdefault(name, []).append(path)

    def all(self, name: str) -> list[Path]:
        return [Path(path) for path in self.named.get(name, [])]

    def one(self, name: str) -> Path | None:
        """None where there is none of this name."""
        return next(iter(self.all(name)), None)

    def at(self, name: str, **wildcards: object) -> Path:
        """The file of a template that these names mean."""
        return Path(self.named[name][0].format(**wildcards))

    def samples(self, model: str, variant: Variant, task: str) -> pd.DataFrame:
        """Outcomes of a model's variant on a task, of the template `samples`."""
        return artifacts.read_parquet(self.at("samples", model=model, variant=variant, task=task), "samples")
