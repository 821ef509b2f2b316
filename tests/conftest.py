"""Fixtures that tests of several folders share."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # `make test` runs a test a core: more threads would wait for each other
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads of jobs that take all cores, as clocks do, sleep then

import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import tiny
import zygote
from pruning.core import chain
from workspace import FORKING, Workspace, python


def pytest_collection_finish() -> None:
    """What has been imported is never garbage, and a collection that looks at all of it takes 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_inputs_of_others():
    """A stage records what its process has read; tests run many in one."""
    chain.inputs.clear()
    chain.parents.clear()
    chain.lineage = None


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    tiny.save(tiny.qwen2(), tmp_path / "resources/model")
    return Workspace(tmp_path)


def shared(tmp_path_factory) -> Path:
    """A folder of all test processes."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture(scope="session")
def forking(tmp_path_factory) -> Iterator[None]:
    """What `workspace.python()` runs is a fork of one process, which all test processes share."""
    owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    FORKING.append(str(zygote.serving(shared(tmp_path_factory) / "zygote", owner)))
    yield
    FORKING.clear()


@pytest.fixture
def forks(forking, monkeypatch) -> None:
    """What this process starts as `sys.executable` is a fork as well."""
    monkeypatch.setattr(sys, "executable", python())


def made_once(tmp_path_factory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one of the test processes makes, as a copy of each process's own."""
    root = shared(tmp_path_factory)
    with FileLock(root / f"{name}.lock"):
        if not (root / f"{name}.made").exists():
            make(root / name)
            (root / f"{name}.made").touch()
    own = tmp_path_factory.mktemp("own") / name
    shutil.copytree(root / name, own)
    return own


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Workspace:
    """A workspace in which Table 1 has been made. Tests may plan in it, or add to it, but not change what is there."""

    def make(path: Path) -> None:
        tiny.save(tiny.qwen2(), path / "resources/model")
        Workspace(path).snakemake("results/table1.csv")

    return Workspace.at(made_once(tmp_path_factory, "finished", make))


@pytest.fixture(scope="session")
def paper(finished: Workspace, tmp_path_factory) -> Workspace:
    """Another one, in which every table and figure has been made as well."""

    def make(path: Path) -> None:
        shutil.copytree(finished.path, path)
        Workspace.at(path).snakemake("paper", LOADED=str(path / "loaded"))

    return Workspace.at(made_once(tmp_path_factory, "paper", make))
