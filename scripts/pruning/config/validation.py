"""The configuration as stacked by Snakemake, checked: a line a mistake."""

import re
from typing import Any

from pydantic import ValidationError

from pruning.config.schema import Config
from pruning.core.errors import InputError


def validate(raw: dict[str, Any]) -> Config:
    """The configuration as stacked by Snakemake. Raises InputError with one line a mistake, naming the key."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = []
        for mistake in error.errors():
            key = ".".join(str(part) for part in mistake["loc"] if part not in {"lm_eval", "gguf", "function-after"})
            given = mistake["input"]
            shown = "" if isinstance(given, (dict, list)) else f" (given: {given!r})"
            message = re.sub(r"^Value error, ", "", mistake["msg"])
            if "[a-z0-9_-]+" in message:
                message = "names may hold only a-z, 0-9, _ and -"
            if mistake["type"] == "extra_forbidden":
                message, shown = "unknown key", ""
            lines.append(f"config: {key + ': ' if key else ''}{message}{shown}")
        raise InputError("\n".join(dict.fromkeys(lines))) from None
