"""What a table or figure is made from, as the rule that makes it says on the command line."""

from collections.abc import Iterable
from pathlib import Path

from pruning.core.errors import InputError


class Files:
    """Files by name. Where there are many, one template stands for them, with names in braces.

    Raises InputError for an argument that is not NAME=PATH."""

    def __init__(self, arguments: Iterable[str]):
        self.named: dict[str, list[str]] = {}
        for argument in arguments:
            name, _, path = argument.partition("=")
            if not name or not path:
                raise InputError(f"--file {argument}: expected NAME=PATH")
            self.named.setdefault(name, []).append(path)

    def all(self, name: str) -> list[Path]:
        return [Path(path) for path in self.named.get(name, [])]

    def one(self, name: str) -> Path | None:
        """None where there is none of this name."""
        return next(iter(self.all(name)), None)

    def at(self, name: str, **wildcards: object) -> Path:
        """The file of a template that these names mean."""
        return Path(self.named[name][0].format(**wildcards))
