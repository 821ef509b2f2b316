"""A run of the workflow in a process of its own, its events as they come, and why a job of it failed."""

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from pruning.core import names
from pruning.core.errors import InputError

PLUGINS = names.HOME / "scripts/pruning/core/plugins"
LAST = 20  # lines, of a job that ended in no error of ours
BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
"""Where a statement holds others."""


@cache
def imported(text: str) -> frozenset[str]:
    """Return the dotted names that a Python file imports, wherever in it: of `from a import b`, a.b."""
    found, nodes = set(), [ast.parse(text)]
    for node in nodes:  # statements alone, as every start of Snakemake reads all files: expressions are most of a tree
        nodes += [inner for block in BLOCKS for inner in getattr(node, block, ())]
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def events(arguments: Sequence[str], messages: TextIO) -> Iterator[dict[str, Any]]:
    """Run Snakemake with these arguments and yield its events (core/plugins) as they come.

    messages: a file, open for reading and writing, which gets Snakemake's own words. Raises InputError with the last
    error that these tell of, or with their last line, if the run fails. Whoever stops reading stops the run with its
    jobs: all are told to end, and killed after half a minute. So does the death of this process."""
    reading, writing = os.pipe()
    added = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(PLUGINS)}
    before = {key: [os.environ[key]] if os.environ.get(key) else [] for key in added}
    environment = {key: os.pathsep.join([folder, *before[key]]) for key, folder in added.items()}
    command = [sys.executable, "-P", "-m", "snakemake"]
    command += ["--logger", "pruning", "--logger-pruning-events", f"/dev/fd/{writing}", *arguments]
    start = messages.seek(0, os.SEEK_END)
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=messages,
        stderr=messages,
        pass_fds=[writing],
        start_new_session=True,  # a group of its own, so that a signal reaches the jobs: Snakemake hands none on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    os.close(writing)
    with open(reading, encoding="utf-8") as stream:
        try:
            yield from map(json.loads, stream)
        except BaseException:
            os.killpg(process.pid, signal.SIGINT)  # on SIGTERM Snakemake would let the jobs at work go on to their end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if process.wait():
        messages.seek(start)
        lines = [line.strip() for line in messages if line.strip()]
        said = [line for line in lines if line.startswith("error: ")] or lines[-1:] or ["it said nothing"]
        raise InputError(said[-1].removeprefix("error: "))


def progress_of(logs: Collection[Path]) -> str:
    """Return the progress bar (tqdm's) that a job's log ends with, after a colon; nothing where it ends otherwise."""
    text = "".join(log.read_text(encoding="utf-8", errors="replace") for log in logs if log.is_file())
    last = text.rstrip().rpartition("\n")[2]  # a carriage return is read as a newline
    return f": {last}" if "%|" in last else ""


def words_of(logs: Collection[Path]) -> str:
    """Why a job failed: its logs from `error:` on, as stages end on bad input; otherwise their last lines."""
    found = [log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines() for log in logs if log.is_file()]
    lines = [line for log in found for line in log]
    full = any(os.statvfs(log.parent).f_bavail == 0 for log in logs if log.parent.is_dir())
    nothing = "it wrote nothing" + ("; the disk is full: make space there, then run the same command again" * full)
    start = next((number for number, line in enumerate(lines) if line.startswith("error: ")), -LAST)
    return "\n".join(lines[start:]) or nothing
