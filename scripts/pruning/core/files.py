"""Reading files that may hold anything, writing to disks that may be full: errors become a line that names the file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError, disk_trouble

LARGEST = 256 * 2**20  # bytes of a JSON file beside a model's weights; the largest tokenizers have 40 MB
REMAKE = "delete it and run again, so that it is remade"
REPLACE = "fetch it again, or correct it"


@contextmanager
def reading(path: Path, remedy: str = REPLACE, what: str = "cannot be read") -> Iterator[None]:
    """For a parser's call: whatever it raises is about what this file, or folder, holds. Raises InputError for it."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # parsers have no common base, and some fall over what they do not expect
        if said := disk_trouble(error):
            raise InputError(said) from None
        reason = f"{type(error).__name__}: {str(error).strip() or 'no reason given'}"
        raise InputError(f"{path}: {what} ({reason.splitlines()[0][:300]}); {remedy}") from None


def read_object(path: Path, remedy: str = REPLACE) -> dict[str, Any]:
    """A JSON file that holds one object. Raises InputError for any other."""
    with reading(path, remedy, "broken JSON"):
        if (size := path.stat().st_size) > LARGEST:
            raise InputError(f"{path}: {size:,} bytes, at most {LARGEST:,} are read; {remedy}")
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}; {remedy}")
    return content


def weight_files(directory: Path) -> list[Path]:
    """The safetensors of a model's folder that transformers reads, and none beside them (as Mistral's
    consolidated.safetensors). Raises InputError for an index that cannot be read."""
    whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return sorted(directory.glob("*.safetensors"))
    shards = read_object(index)
    with reading(index):
        return sorted(directory / name for name in {*shards["weight_map"].values()})


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises InputError, naming the file, where the disk is full or may not be written to."""
    try:
        yield
    except Exception as error:
        if said := disk_trouble(error, path):
            raise InputError(said) from None
        raise
