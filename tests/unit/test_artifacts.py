"""Artefacts: whole or absent, of a known kind, and the same bytes from the same input."""

import hashlib
import json
import time

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


# atomic writes


def test_an_exception_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(Killed), atomic(path) as temporary:
        temporary.write_text("half")
        raise Killed
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # the same file system, so that renaming is atomic
    assert path.read_text() == "new"
    with atomic(path) as temporary:
        temporary.write_text("newer")
        assert path.read_text() == "new"
    assert path.read_text() == "newer"


def test_an_exception_leaves_the_old_directory_and_no_temporary_one(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(Killed), atomic_directory(path) as temporary:
        (temporary / "new").touch()
        raise Killed
    assert [p.name for p in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_replaces_the_earlier_one_whole(tmp_path):
    path = tmp_path / "results" / "model"
    path.mkdir(parents=True)
    (path / "old").touch()
    with atomic_directory(path) as temporary:
        (temporary / "new").touch()
        assert [p.name for p in path.iterdir()] == ["old"]
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o755


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
    write_parquet(tmp_path / "a.parquet", FRAME, "scores", SETTINGS)
    pd.testing.assert_frame_equal(read_parquet(tmp_path / "a.parquet", "scores"), FRAME, check_exact=True)
    table = pa.table({"activation": pa.array([[1.0, 2.0], []], pa.list_(pa.float32()))})
    write_parquet(tmp_path / "b.parquet", table, "activations", {})
    assert read_table(tmp_path / "b.parquet", "activations").to_pydict() == {"activation": [[1, 2], []]}


def test_a_frames_index_is_no_column(tmp_path):
    write_parquet(tmp_path / "a.parquet", FRAME.set_index(pd.Index([7, 1, 4])), "scores", {})
    assert read_table(tmp_path / "a.parquet", "scores").column_names == ["layer", "score"]


def test_json_comes_back_as_it_was(tmp_path):
    write_json(tmp_path / "a.json", {"widths": [1, 2], "text": "é"}, "compact", SETTINGS)
    content = read_json(tmp_path / "a.json", "compact")
    assert content.pop("provenance")["settings"] == SETTINGS
    assert content == {"widths": [1, 2], "text": "é"}


def test_an_artefact_says_where_it_comes_from(tmp_path):
    write_parquet(tmp_path / "a.parquet", FRAME, "scores", SETTINGS)
    found = artifacts.read_provenance(tmp_path / "a.parquet")
    assert (found["kind"], found["schema"], found["settings"]) == ("scores", artifacts.SCHEMA, SETTINGS)
    assert found["versions"]["pandas"] == pd.__version__
    assert found["versions"]["pyarrow"] == pa.__version__
    own = {"kind", "schema", "settings", "threads", "versions", "place", "digest", "lineage", "inputs"}
    assert found.keys() == own  # and not when, nor on which machine


def test_equal_input_makes_equal_bytes(tmp_path, monkeypatch):
    for name, clock in (("a", 0.0), ("b", 1e9)):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        write_parquet(tmp_path / f"{name}.parquet", FRAME.copy(), "scores", dict(SETTINGS))
        write_json(tmp_path / f"{name}.json", {"x": 0.1}, "compact", dict(SETTINGS))
    for suffix in ("parquet", "json"):
        first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert first == second
        assert str(tmp_path).encode() not in first


def test_other_settings_make_other_bytes(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        write_parquet(tmp_path / name, FRAME, "scores", {"seed": seed})
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


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


def test_a_parquet_of_another_kind_is_named(tmp_path):
    write_parquet(tmp_path / "a.parquet", FRAME, "mask", {})
    message = error_of(read_parquet, tmp_path / "a.parquet")
    assert "kind='mask'" in message
    assert "expected kind='scores'" in message


def test_a_parquet_of_another_schema_version_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "SCHEMA", artifacts.SCHEMA + 1)
    write_parquet(tmp_path / "a.parquet", FRAME, "scores", {})
    monkeypatch.undo()
    assert f"schema={artifacts.SCHEMA + 1}, expected" in error_of(read_parquet, tmp_path / "a.parquet")


def test_a_parquet_that_others_made_is_named(tmp_path):
    FRAME.to_parquet(tmp_path / "pandas.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "arrow.parquet")
    for name in ("pandas", "arrow"):
        assert "not made by this pipeline" in error_of(read_parquet, tmp_path / f"{name}.parquet")


@pytest.mark.parametrize("text", ["", '{"provenance": {"kind": "sco', "\x00"])
def test_a_truncated_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert "broken JSON" in error_of(read_json, tmp_path / "a.json")


@pytest.mark.parametrize("content", [{}, {"provenance": {"kind": "mask"}}, {"provenance": "a friend"}])
def test_a_json_that_others_made_is_named(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert "not a scores artefact" in error_of(read_json, tmp_path / "a.json")


# hashes


def test_hashes_are_sha256_of_all_files_but_the_manifest(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "manifest.json").write_bytes(b"{}")
    expected = {"a": hashlib.sha256(b"one").hexdigest(), "sub/b": hashlib.sha256(b"two").hexdigest()}
    assert artifacts.directory_hashes(tmp_path) == expected
    assert artifacts.file_hash(tmp_path / "a") == expected["a"]
