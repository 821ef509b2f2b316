"""Paths, and a copy of the workflow to run in."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

WORKFLOW = ["Snakefile", "rules", "scripts", "config", "profiles"]


class Workspace:
    """A copy of the workflow in a folder of its own, with a model of two layers to prune."""

    def __init__(self, path: Path):
        self.path = path
        for name in WORKFLOW:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, path / name)
        shutil.copytree(ROOT / "resources/paper", path / "resources/paper")
        shutil.copy(ROOT / "tests/pipeline/config.yaml", path / "test.yaml")

    def snakemake(
        self, *arguments: str, check: bool = True, configfile: str = "test.yaml"
    ) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--configfile", configfile]
        done = subprocess.run(command, cwd=self.path, capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"snakemake failed:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
        return done


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    import tiny

    tiny.save(tiny.qwen2(), tmp_path / "resources/model")
    return Workspace(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Workspace:
    """A workspace in which Table 1 has been made. Tests may plan in it, or add to it, but not change what is there."""
    import tiny

    path = tmp_path_factory.mktemp("finished")
    tiny.save(tiny.qwen2(), path / "resources/model")
    made = Workspace(path)
    made.snakemake("results/table1.csv")
    return made
