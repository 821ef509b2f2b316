"""What binds artefacts: each knows its place, its content's digest, and the digests of what it was made from.

So a file that was edited, or put in another's place, is refused by whoever reads it, and scripts/verify.py can walk
back from any result. Digests are of the content alone: where a stage makes the same again, what follows stays as it is.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pruning.core.errors import InputError

SOURCES = Path(".snakemake/sources.json")  # digests of users' files
LINEAGE = 10  # hexadecimal digits: a table's command line names those of thousands of jobs
LARGE = 10**6  # bytes of a file whose digest is worth a note there
TEMPORARY = re.compile(r"\.(.+)\.[^.]+\.tmp")  # as `artifacts.atomic` names what is not yet whole
inputs: dict[str, str] = {}
"""Place and digest of each artefact that this process has read; path and digest of each file of a user's."""
lineage: str | None = None
"""The digest of all that this process's results are made from (rules/lineage.smk); None where no workflow told it."""
parents: set[str] = set()  # the lineages of the jobs that make its inputs


def begin(told: str) -> None:
    """Take what the workflow says: the own lineage, then those of the inputs, one after another."""
    global lineage
    lineage, *others = (told[start : start + LINEAGE] for start in range(0, len(told), LINEAGE))
    parents.update(others)


def place(path: Path) -> str | None:
    """Where below `results` an artefact belongs; None where it lies elsewhere."""
    parts = [found[1] if (found := TEMPORARY.fullmatch(part)) else part for part in Path(os.path.abspath(path)).parts]
    if "results" not in parts:
        return None
    return "/".join(parts[len(parts) - 1 - parts[::-1].index("results") :])


def digest(table: pa.Table) -> str:
    """sha256 of a table's columns: their names and values, not how they are stored."""
    total = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        total.update(f"{name}\0".encode())
        _add(total, column.combine_chunks())
    return total.hexdigest()


def digest_of_json(content: Mapping[str, Any]) -> str:
    """sha256 of what a JSON file holds."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check(path: Path, origin: Mapping[str, Any], found: str) -> None:
    """Raise InputError unless the artefact has the digest and the place that it was written with; remember it as an
    input.

    Args: `origin`: its provenance; `found`: the digest of what it holds now."""
    if origin.get("digest") != found:
        raise InputError(f"{path}: was changed after it was made; delete it and run again, so that it is remade")
    here, own = place(path), origin.get("place")
    if here and own and here != own:
        raise InputError(f"{path}: is {own}, put in another's place; delete it and run again, so that it is remade")
    if lineage:
        check_lineage(path, origin.get("lineage"), parents)
    if here:
        inputs[here] = found


def check_lineage(path: Path, found: str | None, expected: set[str]) -> None:
    """Raise InputError if an artefact says that it was made from other settings, code or sources than those of now."""
    if found not in expected:
        remedy = "delete it (or all of results) and run again, so that it is remade"
        raise InputError(f"{path}: was made with other settings, code or data than those of this run; {remedy}")


def read_source(path: Path) -> None:
    """Remember a user's file as an input, by its content, so that scripts/verify.py can look at it again."""
    if found := content(path, SOURCES):
        inputs[str(path)] = found


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(path: Path, known: Path | None = None) -> str | None:
    """sha256 of a file, None if there is none.

    Args: `known`: a JSON of digests by path, size, times and inode, so that large files are not read every time."""
    if not path.is_file():
        return None
    looks, key = _looks(path), os.path.abspath(path)
    digests = _read_digests(known) if known else {}
    if digests.get(key, [None])[1:] != looks:
        digests[key] = [file_hash(path), *looks]
        if known and looks[0] > LARGE:
            _write(known, digests)
    return digests[key][0]


def check_files(directory: Path, manifest: Path, content: Mapping[str, Any], again: bool = False) -> None:
    """Raise InputError unless a directory's files are those of the manifest's `files`, by sha256.

    Files whose sizes, times and inodes are as they were when they were last found right are not read again, unless
    `again` says so."""
    if not again and _read_digests(_stamp(manifest)) == _state(directory, content["files"]):
        return
    for name, wanted in content["files"].items():
        file = directory / name
        if not file.is_file():
            raise InputError(f"{file}: no such file, but {manifest} records it; delete {manifest} and run again")
        if file_hash(file) != wanted:
            remedy = f"delete {manifest} and run again, so that both are remade"
            raise InputError(f"{file}: is not the file that {manifest} records; {remedy}")
    remember(directory, manifest, content["files"])


def remember(directory: Path, manifest: Path, files: Mapping[str, str]) -> None:
    """Note beside a manifest that these files, sha256 by name, are now known to be right."""
    _write(_stamp(manifest), _state(directory, files))


def _write(path: Path, content: Mapping[str, list]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content))
        os.replace(temporary, path)
    except OSError:
        pass  # a place that only others may write to: read again next time


def _read_digests(path: Path) -> dict[str, list]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _stamp(manifest: Path) -> Path:
    return manifest.with_name(f".{manifest.name}.checked")


def _state(directory: Path, files: Mapping[str, str]) -> dict[str, list]:
    return {name: [files[name], *_looks(directory / name)] for name in files if (directory / name).is_file()}


def _looks(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _add(total: "hashlib._Hash", array: pa.Array) -> None:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    total.update(array.is_valid().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        total.update(pc.binary_length(array).fill_null(0).cast(pa.int64()).to_numpy().tobytes())
        total.update("".join(array.drop_null().to_pylist()).encode())
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        total.update(pc.list_value_length(array).fill_null(0).cast(pa.int64()).to_numpy().tobytes())
        _add(total, array.flatten())
    elif pa.types.is_struct(array.type):
        for field in array.type:
            total.update(f"{field.name}\0".encode())
            _add(total, array.field(field.name))
    elif pa.types.is_null(array.type):
        total.update(str(len(array)).encode())
    else:
        total.update(array.fill_null(pa.scalar(0).cast(array.type)).to_numpy(zero_copy_only=False).tobytes())
