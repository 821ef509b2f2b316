"""Broken files of a user's model, and a disk that takes no more, in snakemake itself: one line before any job."""

import resource
from pathlib import Path

import pytest

from workspace import Workspace, in_fork


def started(workspace: Workspace) -> list[str]:
    """The error lines of a start that fails without a traceback."""
    status, output = in_fork(workspace.path, ["--cores", "2", "results/table1.csv", "--configfile", "test.yaml"])
    assert status != 0 and "Traceback" not in output and not (workspace.path / "results/data").exists()
    return [line for line in output.splitlines() if "error: " in line]


def in_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


BROKEN = {
    "config.json": lambda path: path.write_text("[" * 100_000),
    "tokenizer.json": lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
    "tokenizer_config.json": lambda path: path.write_text("null"),
    "tokenizer": in_folder,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_of_the_model_is_named(workspace: Workspace, name: str):
    BROKEN[name](workspace.path / "resources/model" / name)
    (line,) = started(workspace)
    assert line.startswith(f"error: models.tiny-reasoner.source.path: resources/model/{name}: ")


def test_a_disk_that_takes_no_more(workspace: Workspace):
    """A limit on the size of files stands for it: a real error of writing, that needs no disk of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        (line,) = started(workspace)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert line.startswith("error: .snakemake/live: File too large; ") and line.endswith("run the same command again")
