"""A copy of the workflow to run in."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pyarrow.parquet as pq
import yaml

from planned_jobs import Dag
from pruning.core import columns

ROOT = Path(__file__).parent.parent
FORKING: list[str] = []
"""Folder of a `python` whose processes are forks (zygote.py), where there is one."""
WORKFLOW = ["Snakefile", "rules", "scripts", "config", "profiles", "envs", "report"]
OF_THE_RUN = {"logs", "benchmarks", "cache"}
"""Folders of results that differ from run to run."""


def set_keys(content: dict, changes: Mapping[str | tuple, Any], between: str = "|") -> dict:
    """A configuration with other values at keys, their parts divided by bars, or given one by one. Sections that are
    missing or null are made."""
    for key, value in changes.items():
        *parents, last = key.split(between) if isinstance(key, str) else key
        section = content
        for parent in parents:
            if isinstance(section, dict) and section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
        section[last] = value
    return content


def python() -> str:
    """What runs a stage or Snakemake: as a fork, where there is a server of them."""
    return f"{FORKING[0]}/python" if FORKING else sys.executable


def run(folder: Path, *command: str | Path, before: Sequence[str] = (), **variables: str) -> CompletedProcess:
    """Run a command there, and wait for all that it has started, which has its output: also where it is killed.

    `before`: folders to put first in PATH; `variables`: of the environment.
    """
    path = os.pathsep.join([*before, *FORKING, os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


class Workspace:
    """A copy of the workflow in a folder of its own, with a model of two layers to prune."""

    def __init__(self, path: Path):
        self.path = path
        for name in WORKFLOW:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, path / name)
        shutil.copytree(ROOT / "resources/paper", path / "resources/paper")
        shutil.copy(ROOT / "tests/pipeline/config.yaml", path / "test.yaml")

    @classmethod
    def at(cls, path: Path) -> "Workspace":
        """One that is there already."""
        made = cls.__new__(cls)
        made.path = path
        return made

    @property
    def config(self) -> dict[str, Any]:
        """What its configuration file holds."""
        return yaml.safe_load((self.path / "test.yaml").read_text())

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change the configuration file at dotted keys."""
        content = set_keys(self.config, changes, ".")
        (self.path / "test.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    @contextmanager
    def configured(self, changes: Mapping[str, Any]) -> Iterator[None]:
        """As `configure`, for as long as this lasts."""
        with changed(self.path / "test.yaml", (self.path / "test.yaml").read_text()):
            self.configure(changes)
            yield

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs of a dry-run; empty when there is nothing to be done."""
        output = self.snakemake("-n", *arguments)
        output = output.stdout + output.stderr
        stats = re.search(r"^job +count\n[- ]+\n(.*?)\ntotal", output, re.S | re.M)
        rows = [line.split() for line in stats[1].splitlines()] if stats else []
        assert rows or "Nothing to be done" in output, output
        return {rule: int(count) for rule, count in rows}

    def dag(self, *arguments: str) -> Dag:
        """The jobs of a target, as one start of Snakemake plans them."""
        with tempfile.NamedTemporaryFile() as file:
            command = [ROOT / "tests/planned_jobs.py", file.name, "-n", "--quiet", "--cores", "2"]
            done = run(self.path, python(), *command, *with_config(arguments))
            assert done.returncode == 0, done.stderr[-8000:]
            return Dag(file.name)

    def snakemake(
        self,
        *arguments: str,
        check: bool = True,
        forking: bool = True,
        before: Sequence[str] = (),
        **variables: str,
    ) -> CompletedProcess:
        """Run it. `before`: folders to put first in PATH; `variables`: of the environment."""
        cores = [] if "--report" in arguments else ["--cores", "2"]
        command = ["-m", "snakemake", *cores, *with_config(arguments)]
        if forking:
            done = run(self.path, python(), *command, before=before, **variables)
        else:
            done = run(self.path, sys.executable, *command, PATH=os.environ["PATH"])
        if check and done.returncode:
            raise AssertionError(f"snakemake failed:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
        return done

    def artefacts(self) -> dict[str, bytes]:
        """Result -> content, of all that is the same in every run of the same settings."""
        found = [path for path in (self.path / "results").rglob("*") if path.is_file() and path.name[0] != "."]
        names = {str(path.relative_to(self.path)): path for path in found}
        return {name: path.read_bytes() for name, path in names.items() if not OF_THE_RUN & set(Path(name).parts)}

    def unlike(self, other: "Workspace") -> list[str]:
        """Results that the other one has not, or not so."""
        theirs = other.artefacts()
        return [name for name, content in self.artefacts().items() if theirs.get(name) != content]


def undescribed(workspace: Workspace) -> list[str]:
    """What is wrong with the columns of the parquet and CSV files there, and which of these no page describes."""
    results, said = workspace.path / "results", []
    for file in sorted(p for p in results.rglob("[!.]*") if p.suffix in (".parquet", ".csv")):
        path = str(file.relative_to(results))
        found = (
            columns.of_csv(file) if file.suffix == ".csv" else columns.of_table(pq.read_table(file, partitioning=None))
        )
        entry = columns.entry_of(path)
        said += [f"{path}: {mistake}" for mistake in (entry.mistakes(found) if entry else ["not described"])]
    return said


def with_config(arguments: Sequence[str]) -> list[str]:
    """Arguments of snakemake, which name a configfile or take a workspace's."""
    return [*arguments, *([] if "--configfile" in arguments else ["--configfile", "test.yaml"])]


@contextmanager
def changed(path: Path, text: str):
    """A file with other content, put back with its time stamp afterwards."""
    before, stat = path.read_bytes(), path.stat()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def verified(workspace: Workspace, status: int) -> str:
    """What `make verify` says there, which ends with this status."""
    done = run(workspace.path, python(), "scripts/verify.py")
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def code_below(page: str, heading: str) -> list[str]:
    """The code blocks below a heading of the documentation, in order."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", (ROOT / page).read_text(), re.M | re.S)[1]
    return re.findall(r"```\w+\n(.*?)```", section, re.S)
