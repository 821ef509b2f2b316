"""A copy of the workflow to run in."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
FORKING: list[str] = []
"""Folder of a `python` whose jobs are forks (zygote.py), where there is one."""
WORKFLOW = ["Snakefile", "rules", "scripts", "config", "profiles", "envs", "report"]


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
        command = [sys.executable, "-m", "snakemake", *cores, *with_config(arguments, configfile)]
        path = os.pathsep.join([*before, *(FORKING if forking else []), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, **variables}
        done = subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"snakemake failed:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
        return done


def with_config(arguments: Sequence[str], configfile: str) -> list[str]:
    """Arguments of snakemake, which name a configfile or take this one."""
    return [*arguments, *([] if "--configfile" in arguments else ["--configfile", configfile])]


def in_fork(folder: Path, arguments: list[str]) -> tuple[int, str]:
    """Status and words of snakemake there, in a process of its own without its start and imports; where no job runs."""
    import snakemake.cli

    with tempfile.TemporaryFile("w+") as output:
        if (child := os.fork()) == 0:
            code = 1
            try:
                os.chdir(folder)
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
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
        output.seek(0)
        printed = output.read()
    return status, printed


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
