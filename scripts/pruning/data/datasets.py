"""Datasets as lists of records: generated here, read from a local folder, or fetched from the hub.

All three end in the same fields, those of the hub's own copy, so that lm-eval's tasks read any of them.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pruning.core import chain
from pruning.core.errors import InputError

Record = dict[str, Any]
ONE_A_LINE = "JSON Lines hold one JSON object per line"


def read_jsonl(path: Path) -> list[Record]:
    """Records of a JSON Lines file. Raises InputError naming file and line."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; give a JSON Lines file")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; check `data_folder` and the dataset's `path` in the config"
        ) from None
    records = []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
            if rb"\ud" in line.lower():
                json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(f"{path}:{number}: half of a character (\\ud800 to \\udfff); write both halves") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
        except RecursionError:
            raise InputError(f"{path}:{number}: JSON nested too deeply to be read") from None
        except ValueError as error:
            raise InputError(f"{path}:{number}: broken JSON ({error}); {ONE_A_LINE}") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}:{number}: expected a JSON object, found {type(record).__name__}; {ONE_A_LINE}")
        records.append(record)
    if not records:
        raise InputError(f"{path}: holds no records")
    return records


def adapt(records: Sequence[Record], adapter: str | None, fields: Sequence[str] | None, origin: str) -> list[Record]:
    """Records in the wanted fields, or in all. Raises InputError naming the record and the field it lacks, or where the
    adapter cannot read a value."""
    convert = importlib.import_module(f"pruning.data.adapters.{adapter}").adapt if adapter else dict
    adapted = []
    for number, record in enumerate(records, start=1):
        try:
            new = convert(record)
            adapted.append({field: new[field] for field in fields or new})
        except KeyError as error:
            have = ", ".join(record)
            raise InputError(f"{origin}: record {number} lacks the field {error} (it has: {have})") from None
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            raise InputError(f"{origin}: record {number}: {adapter} cannot read a value of it ({said})") from None
    return adapted


def table(records: Sequence[Record], origin: str) -> pd.DataFrame:
    """Records as a table. Raises InputError naming a field with values of kinds that no column of parquet holds."""
    found = pd.DataFrame(records)
    for field, values in found.items():
        given = [record.get(field) for record in records]
        if values.dtype.kind == "f" and {*map(type, given)} <= {int, type(None)}:
            found[field] = pd.array(given, dtype="Int64")  # pandas makes 1 beside null 1.0
        try:
            column = pa.table({field: pa.array(values, from_pandas=True)})
            chain.digest(column)
            pq.write_table(column, pa.BufferOutputStream())
        except (pa.ArrowException, OverflowError) as error:
            said = f"{error}; give values of one kind in all records, or leave the field out"
            raise InputError(f"{origin}: field {field!r}: {said}") from None
    return found


def from_hub(
    repo: str, name: str | None, revision: str, split: str, data_files: Mapping[str, str] | None = None
) -> list[Record]:
    """A split of a hub dataset at a pinned revision, from some of its files only where `data_files` says so.

    Raises InputError if it cannot be had."""
    import datasets  # slow, and unneeded for the other sources

    try:
        files = dict(data_files) if data_files else None
        verified = "no_checks" if files else None  # a part of a split has not the number of records that is on record
        return list(
            datasets.load_dataset(
                repo, name, revision=revision, split=split, data_files=files, verification_mode=verified
            )
        )
    except Exception as error:  # the hub's errors have no common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"dataset {repo}@{revision} could not be fetched ({type(error).__name__}: {reason}); "
            "on a machine without internet, set `data_folder` to a folder with local copies (config/README.md)"
        ) from None


def generated(settings: Mapping[str, Any], split: str) -> list[Record]:
    """Records of a generated dataset, with GSM8K's fields `question` and `answer`.

    Word problems (word_problems.py) have `template` too; with options also `solutions` and `gold`."""
    if settings["content"] == "arithmetic":
        from pruning.data import arithmetic

        drawn = islice(arithmetic.questions(split, settings["seed"]), settings["size"])
        return [{"question": question, "answer": answer} for question, answer in drawn]
    from pruning.data import word_problems

    wanted = (settings["templates"], settings["size"], settings["seed"], settings["difficulty"])
    try:
        problems = word_problems.sample(split, *wanted)
    except (ValueError, KeyError) as error:
        raise InputError(f"datasets: generated {split}: {error}") from None
    records = []
    for problem in problems:
        record: Record = {"question": problem.question, "answer": problem.answer, "template": problem.template}
        if settings["with_options"]:
            record["solutions"], record["gold"] = word_problems.solutions(problem)
        records.append(record)
    return records
