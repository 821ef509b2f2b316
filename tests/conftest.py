"""Fixtures that tests of several folders share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # `make test` runs a test a core: more threads would wait for each other

from pathlib import Path

import pytest

import tiny
from workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    tiny.save(tiny.qwen2(), tmp_path / "resources/model")
    return Workspace(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Workspace:
    """A workspace in which Table 1 has been made. Tests may plan in it, or add to it, but not change what is there."""
    path = tmp_path_factory.mktemp("finished")
    tiny.save(tiny.qwen2(), path / "resources/model")
    made = Workspace(path)
    made.snakemake("results/table1.csv")
    return made


@pytest.fixture(scope="session")
def paper(finished: Workspace) -> Workspace:
    """The same workspace after every table and figure has been made as well."""
    finished.snakemake("paper")
    return finished
