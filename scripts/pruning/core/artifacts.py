"""Reading and writing of artefacts: whole or absent, and telling where they come from.

Every file is written under a temporary name and renamed, so a killed job never leaves half an
artefact under its real name. Every parquet file and JSON carries its provenance: kind, schema
version, the settings of the job, the versions of the libraries that made it, its place, its content's
digest and those of the artefacts that its stage had read (core/chain.py), and is checked when read.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pruning.core import chain, files
from pruning.core.chain import file_hash
from pruning.core.errors import InputError

SCHEMA = 4
LIBRARIES = ("torch", "transformers", "datasets", "lm_eval", "numpy", "pandas", "pyarrow", "reasoning-gym")


@cache
def versions() -> dict[str, str]:
    """Of the libraries that are installed here, which takes longer to find out than writing a small file."""
    found = {}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def provenance(path: Path, digest: str, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What an artefact says of its origin. No time stamps: equal runs make equal bytes."""
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    made = {"kind": kind, "schema": SCHEMA, "settings": settings, "threads": threads, "versions": dict(versions())}
    own = chain.place(path)
    made |= {"place": own, "digest": digest, "lineage": chain.lineage}
    return {**made, "inputs": dict(sorted(chain.inputs.items()))}


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.writing(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """The same for a directory, which replaces any earlier one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        with files.writing(path):
            yield temporary
            temporary.chmod(0o755)
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_parquet(path: Path, frame: pd.DataFrame | pa.Table, kind: str, settings: dict[str, Any]) -> None:
    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
    origin = provenance(path, chain.digest(table), kind, settings)
    metadata = {**(table.schema.metadata or {}), "provenance": json.dumps(origin)}
    with atomic(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary)


def read_parquet(path: Path, kind: str) -> pd.DataFrame:
    """An artefact as a data frame. Raises InputError if it is missing, broken, foreign, changed or misplaced."""
    return read_table(path, kind).to_pandas()


def read_table(path: Path, kind: str) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run snakemake to make it") from None
    except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a whole parquet file ({reason}); {files.REMAKE}") from None
    with files.reading(path, files.REMAKE):
        found = dict(json.loads((table.schema.metadata or {}).get(b"provenance", b"{}")))
    if (found.get("kind"), found.get("schema")) != (kind, SCHEMA):
        raise InputError(
            f"{path}: holds kind={found.get('kind')!r} schema={found.get('schema')!r}, expected kind={kind!r} "
            f"schema={SCHEMA}: not made by this pipeline's version; delete it and run again"
        )
    chain.check(path, found, chain.digest(table))
    return table


def read_provenance(path: Path) -> dict[str, Any]:
    return json.loads(pq.read_schema(path).metadata[b"provenance"])


def write_json(path: Path, content: dict[str, Any], kind: str, settings: dict[str, Any]) -> None:
    digest = chain.digest_of_json(json.loads(json.dumps(content, default=str)))
    with atomic(path) as temporary:
        whole = {"provenance": provenance(path, digest, kind, settings), **content}
        temporary.write_text(json.dumps(whole, indent=2, default=str) + "\n", encoding="utf-8")


def read_json(path: Path, *kinds: str) -> dict[str, Any]:
    if not path.exists():
        raise InputError(f"{path}: no such file; run snakemake to make it")
    content = files.read_object(path, files.REMAKE)
    origin = content.get("provenance")
    if not isinstance(origin, dict) or origin.get("kind") not in kinds or origin.get("schema") != SCHEMA:
        what = f"{' or '.join(kinds)} artefact of this version of the pipeline"
        raise InputError(f"{path}: not a {what}; delete it and run again")
    held = {key: value for key, value in content.items() if key != "provenance"}
    chain.check(path, origin, chain.digest_of_json(held))
    return content


def lineage_of(path: Path) -> str | None:
    """The lineage that an artefact says it has; None of what says nothing, like a page or a broken file."""
    try:
        if path.suffix == ".parquet":
            return read_provenance(path)["lineage"]
        path = record_of(path) if path.suffix == ".csv" else path
        return json.loads(path.read_text(encoding="utf-8"))["provenance"]["lineage"] if path.suffix == ".json" else None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def of_earlier_versions(results: Path) -> list[Path]:
    """Manifests of models that an earlier version of the pipeline wrote, whose results are all made again."""
    found = []
    for path in results.glob("*/base/manifest.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found += [path] if json.loads(path.read_text())["provenance"]["schema"] < SCHEMA else []
    return found


def write_csv(path: Path, frame: pd.DataFrame, settings: dict[str, Any], beside: Sequence[Path] = ()) -> None:
    """A table as CSV, numbers of six significant digits, and its record {name}.csv.json: provenance, and sha256.

    The record is no output of a rule's: it is written first, so that a CSV that is there was written after its own.
    `beside`: files made with it, that the record tells of as well."""
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
        files = {path.name: file_hash(temporary), **{file.name: file_hash(file) for file in beside}}
        write_json(record_of(path), {"files": files}, "csv", settings)


def read_csv(path: Path) -> pd.DataFrame:
    """The table. Raises InputError as `check_recorded` does."""
    check_recorded(path, record_of(path))
    return pd.read_csv(path)


def read_beside(path: Path) -> str:
    """A text that was written with the CSV of its name. Raises InputError as `check_recorded` does."""
    check_recorded(path, record_of(path.with_suffix(".csv")))
    return path.read_text(encoding="utf-8")


def check_recorded(path: Path, record: Path) -> None:
    """Raise InputError unless a file is there and as a CSV's record says."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run snakemake to make it")
    if not record.is_file():
        raise InputError(f"{path}: lacks {record.name}, which says how it was made; delete it and run again")
    if file_hash(path) != read_json(record, "csv")["files"].get(path.name):
        raise InputError(f"{path}: was changed after it was made; delete it and run again, so that it is remade")


def record_of(path: Path) -> Path:
    """Where it is said of a CSV how it was made."""
    return path.with_name(f"{path.name}.json")


def check_model(directory: Path) -> None:
    """Hold a directory of weights against its manifest, where it has one: in it (a dense model's, an adapter's) or
    beside it (compact).

    Raises InputError if a file was changed, is missing, or is not recorded: libraries read more than they are told."""
    of_kinds = {"manifest.json": ("base", "export"), "recovery.json": ("recovery",), "../manifest.json": ("compact",)}
    for name, kinds in of_kinds.items():
        path = Path(os.path.normpath(directory / name))
        if path.is_file() and "provenance" in files.read_object(path):  # else another program's
            content = read_json(path, *kinds)
            chain.check_files(directory, path, content)
            for file in sorted(directory.glob("[!.]*")):
                if file != path and file.is_file() and file.name not in content["files"]:
                    raise InputError(f"{file}: {path} does not record it; libraries might read it: move it away")
            return


def directory_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file below a directory but hidden ones: what a manifest holds and dependants are compared by."""
    found = sorted(p for p in directory.rglob("[!.]*") if p.is_file() and p.name != "manifest.json")
    return {str(p.relative_to(directory)): file_hash(p) for p in found}


def key_of(*parts: Any) -> str:
    """A stable hash of JSON-like values, 32 hexadecimal digits; tuples are as lists, the order of a dict is none."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def unfinished(output: Path, settings: dict[str, Any], *made_from: Path) -> Path:
    """Return where a job keeps what a run after a kill goes on from. It is named after all that the job depends on, so
    that one of other settings, code, data or libraries starts anew. Removes what such others have left."""
    identity = key_of(chain.lineage, versions(), *map(file_hash, made_from), settings)
    own = output.with_name(f".{output.name}.{identity}.unfinished")
    for other in output.parent.glob(f".{output.name}.*.unfinished"):
        if other != own:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    return own
