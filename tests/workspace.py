"""A copy of the workflow to run in."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FORKING: list[str] = []
"""Folder of a `python` whose jobs are forks (zygote.py), where there is one."""
WORKFLOW = ["Snakefile", "rules", "scripts", "config", "profiles", "envs", "report"]


@dataclass
class Job:
    """A job of a DAG. Paths are relative to the folder that the workflow runs in; jobs are named by Snakemake's ids."""

    rule: str
    inputs: dict[str, bool]
    """Input file -> whether it is ancient: no reason to run again."""
    makers: dict[str, list[str]]
    """Job that this one depends on -> its outputs that are inputs here."""
    missing: list[str]
    """Inputs that are not there, as temporary ones."""


class Dag(dict[str, Job]):
    """All jobs of a target, whether they are to be run or not."""

    def after_editing(self, file: str) -> dict[str, int]:
        """Rule -> number of jobs to be run after an edit of this file, where nothing was to be done before.

        As Snakemake finds them (`DAG.update_needrun`): it looks for edits upstream first, and at no job downstream of
        one with some; from there it goes to the jobs that depend on one, unless all that they take from it is ancient,
        and to those that make what it misses.
        """
        edited = {name for name, job in self.items() if job.inputs.get(file) is False}
        below = self.reached(edited, lambda name: {user for user, job in self.items() if name in job.makers})
        return dict(Counter(self[name].rule for name in self.reached(edited - below, self.run_with) | (edited - below)))

    def run_with(self, name: str) -> set[str]:
        """Jobs that run because this one does."""
        own = self[name]
        needed = {maker for maker, files in own.makers.items() if not set(own.missing).isdisjoint(files)}
        users = {user: job.makers.get(name, []) for user, job in self.items()}
        return needed | {user for user, files in users.items() if any(not self[user].inputs[file] for file in files)}

    def reached(self, names: set[str], following: Callable[[str], set[str]]) -> set[str]:
        """Jobs that are reached from these in one or more steps."""
        found, queue = set(), list(names)
        while queue:
            new = following(queue.pop()) - found
            found |= new
            queue.extend(new)
        return found


def set_keys(content: dict, changes: dict[str | tuple, Any]) -> dict:
    """A configuration with other values at keys, their parts divided by bars, or given one by one."""
    for key, value in changes.items():
        *parents, last = key.split("|") if isinstance(key, str) else key
        section = content
        for parent in parents:
            section = section.setdefault(parent, {}) if isinstance(section, dict) else section[parent]
        section[last] = value
    return content


def python() -> str:
    """What runs a stage: as a fork, where there is a server of them."""
    return f"{FORKING[0]}/python" if FORKING else sys.executable


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

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs of a dry-run; empty when there is nothing to be done."""
        status, output = in_fork(self.path, ["-n", "--cores", "2", *with_config(arguments, "test.yaml")])
        assert status == 0, f"snakemake failed:\n{output[-8000:]}"
        stats = re.search(r"^job +count\n[- ]+\n(.*?)\ntotal", output, re.S | re.M)
        rows = [line.split() for line in stats[1].splitlines()] if stats else []
        assert rows or "Nothing to be done" in output, output
        return {rule: int(count) for rule, count in rows}

    def dag(self, *arguments: str) -> Dag:
        """The jobs of a target, as one start of Snakemake plans them."""
        with tempfile.NamedTemporaryFile() as file:
            planning = ["-n", "--quiet", "--cores", "2", *with_config(arguments, "test.yaml")]
            status, output = in_fork(self.path, planning, lambda: write_jobs(file.name))
            assert status == 0, f"snakemake failed:\n{output[-8000:]}"
            return Dag({name: Job(**job) for name, job in json.loads(Path(file.name).read_text()).items()})

    def snakemake(
        self,
        *arguments: str,
        check: bool = True,
        configfile: str = "test.yaml",
        forking: bool = True,
        before: Sequence[str] = (),
        **variables: str,
    ) -> subprocess.CompletedProcess:
        """Run it. `before`: folders to put first in PATH; `variables`: of the environment."""
        cores = [] if "--report" in arguments else ["--cores", "2"]
        arguments = [*cores, *with_config(arguments, configfile)]
        variables["PATH"] = os.pathsep.join([*before, *(FORKING if forking else []), os.environ["PATH"]])
        if forking:
            done = forked(self.path, arguments, lambda: os.environ.update(variables))
        else:
            command = [sys.executable, "-m", "snakemake", *arguments]
            environment = {**os.environ, **variables}
            done = subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"snakemake failed:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
        return done


def with_config(arguments: Sequence[str], configfile: str) -> list[str]:
    """Arguments of snakemake, which name a configfile or take this one."""
    return [*arguments, *([] if "--configfile" in arguments else ["--configfile", configfile])]


def write_jobs(path: str) -> None:
    """Have this process write the jobs of the DAG that it builds."""
    from snakemake.workflow import Workflow

    build = Workflow._build_dag

    def build_and_write(workflow: Workflow) -> None:
        build(workflow)
        dag, rows = workflow.dag, {}
        for job in dag.jobs:
            rows[dag.jobid(job)] = {
                "rule": job.rule.name,
                "inputs": {str(file): file.is_ancient for file in job.input},
                "makers": {dag.jobid(maker): list(files) for maker, files in dag.dependencies[job].items()},
                "missing": [file for file in job.input if not os.path.exists(file)],
            }
        Path(path).write_text(json.dumps(rows))

    Workflow._build_dag = build_and_write


def in_fork(folder: Path, arguments: list[str], prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Status and words of snakemake there: see `forked`."""
    done = forked(folder, arguments, prepare)
    return done.returncode, done.stdout + done.stderr


def forked(folder: Path, arguments: list[str], prepare: Callable[[], None]) -> subprocess.CompletedProcess:
    """Run snakemake there, in a process of its own that is spared start and imports; it calls `prepare` first."""
    import pandas  # noqa: F401 (and what else a start of the workflow loads)
    import requests  # noqa: F401
    import smart_open  # noqa: F401
    import snakemake.cli
    import snakemake.report.html_reporter  # noqa: F401
    import yte  # noqa: F401

    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        if (child := os.fork()) == 0:
            code = 1
            try:
                prepare()
                os.chdir(folder)
                for stream, file in ((1, output), (2, errors)):
                    os.dup2(file.fileno(), stream)
                sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
                for name in [name for name in sys.modules if name.split(".")[0] == "pruning"]:
                    del sys.modules[name]  # the folder has its own, which may be edited
                sys.path = [path for path in sys.path if Path(path) != ROOT / "scripts"]
                sys.argv = ["snakemake", *arguments]
                snakemake.cli.main(arguments)
            except SystemExit as end:
                code = int(end.code or 0) if not isinstance(end.code, str) else 1
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        printed = [file.seek(0) or file.read() for file in (output, errors)]
    return subprocess.CompletedProcess(arguments, os.waitstatus_to_exitcode(status), *printed)


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
