"""Artefacts: whole or absent, of a known kind, and the same bytes from the same input."""

import hashlib
import json
import re
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruning.core import artifacts
from pruning.core.artifacts import (
    atomic,
    atomic_directory,
    read_json,
    read_parquet,
    read_table,
    write_json,
    write_parquet,
)
from pruning.core.errors import InputError

FRAME = pd.DataFrame({"layer": [0, 0, 1], "score": [0.5, float("nan"), -1e-300]})
SETTINGS = {"seed": 0, "note": "ä", "options": {"reduction": "abs"}, "nothing": None}


class Killed(Exception):
    """What ends a job half way."""


# atomic writes: of a file, and of a directory with one file


def put(whole, text: str, path: Path) -> None:
    if whole is atomic_directory:
        path.mkdir(exist_ok=True)
        path = path / text
    path.write_text(text)


def content(whole, path: Path) -> str:
    return path.read_text() if whole is atomic else ", ".join(file.name for file in path.iterdir())


@pytest.mark.parametrize("whole", [atomic, atomic_directory])
def test_an_exception_leaves_what_was_there_and_nothing_temporary(tmp_path, whole):
    path = tmp_path / "artefact"
    put(whole, "old", path)
    with pytest.raises(Killed), whole(path) as temporary:
        put(whole, "half", temporary)
        raise Killed
    assert content(whole, path) == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("whole", [atomic, atomic_directory])
def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path, whole):
    path = tmp_path / "deep" / "er" / "artefact"
    with whole(path) as temporary:
        put(whole, "new", temporary)
        assert not path.exists()
        assert temporary.parent == path.parent  # the same file system, so that renaming is atomic
    assert content(whole, path) == "new"
    with whole(path) as temporary:
        put(whole, "newer", temporary)
        assert content(whole, path) == "new"
    assert content(whole, path) == "newer"
    assert list(path.parent.iterdir()) == [path]
    assert whole is atomic or path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("write", [write_parquet, write_json])
def test_writers_that_fail_leave_the_old_artefact(tmp_path, write):
    path = tmp_path / "artefact"
    path.write_text("old")
    bad = {("not", "text"): 1} if write is write_json else pa.table({"x": pa.array([1])})
    settings = {} if write is write_json else {"x": {1, 2}}  # neither is JSON
    with pytest.raises(TypeError):
        write(path, bad, "kind", settings)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# round trips


def test_parquet_comes_back_as_it_was(tmp_path):
    write_parquet(tmp_path / "a.parquet", FRAME.set_index(pd.Index([7, 1, 4])), "scores", SETTINGS)  # no column
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "a.parquet", "scores"), FRAME, check_exact=True)
    table = pa.table({"activation": pa.array([[1.0, 2.0], []], pa.list_(pa.float32()))})
    write_parquet(tmp_path / "b.parquet", table, "activations", {})
    assert read_table(tmp_path / "b.parquet", "activations").to_pydict() == {"activation": [[1, 2], []]}


def test_json_comes_back_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", {"widths": [1, 2], "text": "é"}, "compact", SETTINGS)
    found = read_json(tmp_path / "a.json", "compact")
    assert found.pop("provenance")["settings"] == SETTINGS
    assert found == {"widths": [1, 2], "text": "é"}


def test_an_artefact_says_where_it_comes_from(tmp_path):
    write_parquet(tmp_path / "a.parquet", FRAME, "scores", SETTINGS)
    found = artifacts.read_provenance(tmp_path / "a.parquet")
    assert (found["kind"], found["schema"], found["settings"]) == ("scores", artifacts.SCHEMA, SETTINGS)
    assert found["versions"]["pandas"] == pd.__version__
    assert found["versions"]["pyarrow"] == pa.__version__
    own = {"kind", "schema", "settings", "threads", "versions", "place", "digest", "lineage", "inputs"}
    assert found.keys() == own  # and not when, nor on which machine


def test_equal_input_makes_equal_bytes_and_other_settings_make_others(tmp_path, monkeypatch):
    made = {}
    for name, clock, settings in (("a", 0.0, SETTINGS), ("b", 1e9, SETTINGS), ("c", 0.0, {"seed": 1})):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        write_parquet(tmp_path / f"{name}.parquet", FRAME.copy(), "scores", dict(settings))
        write_json(tmp_path / f"{name}.json", {"x": 0.1}, "compact", dict(settings))
        made[name] = [(tmp_path / f"{name}.{suffix}").read_bytes() for suffix in ("parquet", "json")]
    assert made["a"] == made["b"]
    for own, other in zip(made["a"], made["c"], strict=True):
        assert own != other
        assert str(tmp_path).encode() not in own


# broken and foreign files


def error_of(read, path, kind="scores") -> str:
    with pytest.raises(InputError) as error:
        read(path, kind)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("read", [read_parquet, read_table, read_json])
def test_a_missing_file_is_named(tmp_path, read):
    assert "no such file; run snakemake" in error_of(read, tmp_path / "missing")


@pytest.mark.parametrize("left", [0, 3, 100, -1])
def test_a_truncated_parquet_is_named(tmp_path, left):
    path = tmp_path / "a.parquet"
    write_parquet(path, FRAME, "scores", {})
    path.write_bytes(path.read_bytes()[:left])
    assert "not a whole parquet file" in error_of(read_parquet, path)


def of_another_kind(path: Path, _) -> None:
    write_parquet(path, FRAME, "mask", {})


def of_another_schema(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(artifacts, "SCHEMA", artifacts.SCHEMA + 1)
    write_parquet(path, FRAME, "scores", {})
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (of_another_kind, f"holds kind='mask' schema={artifacts.SCHEMA}, expected kind='scores'"),
        (of_another_schema, f"schema={artifacts.SCHEMA + 1}, expected kind='scores' schema={artifacts.SCHEMA}"),
        (lambda path, _: FRAME.to_parquet(path), "not made by this pipeline"),
        (lambda path, _: pq.write_table(pa.table({"x": [1]}), path), "not made by this pipeline"),
    ],
    ids=["kind", "schema", "pandas", "arrow"],
)
def test_a_foreign_parquet_is_named(tmp_path, monkeypatch, write, said):
    write(tmp_path / "a.parquet", monkeypatch)
    assert said in error_of(read_parquet, tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "broken JSON") for text in ("", '{"provenance": {"kind": "sco', "\x00", "[" * 10**5)),
        *((text, "expected a JSON object, found") for text in ("null", "[1]", '"text"')),
        *((json.dumps(own), "not a scores artefact") for own in ({}, {"provenance": {"kind": "mask"}})),
        (json.dumps({"provenance": "a friend"}), "not a scores artefact"),
    ],
)
def test_a_truncated_or_foreign_json_is_named(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    found = error_of(read_json, tmp_path / "a.json")
    assert said in found and re.search("; delete it and run again(, so that it is remade)?$", found)


def test_hashes_are_sha256_of_all_files_but_the_manifest(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "manifest.json").write_bytes(b"{}")
    expected = {"a": hashlib.sha256(b"one").hexdigest(), "sub/b": hashlib.sha256(b"two").hexdigest()}
    assert artifacts.directory_hashes(tmp_path) == expected
    assert artifacts.file_hash(tmp_path / "a") == expected["a"]
