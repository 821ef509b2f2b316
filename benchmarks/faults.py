"""What SIGKILL at random moments costs: wrong artefacts, finished jobs done again, tracebacks.

A small grid (a random model of two layers, three methods, two sparsities) is made once undisturbed, then again and
again while processes are killed: one job alone, or the whole tree with snakemake. After each kill the same command is
run again; whenever a grid is whole, its artefacts are compared with the undisturbed ones, byte by byte.

    python benchmarks/faults.py --kills 100
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import common  # noqa: F401 (finds the library, and tests/)
import psutil
import typer


def start(folder: Path, log: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "results/table1.csv", "--configfile", "test.yaml"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # jobs call `python`
    own = {"cwd": folder, "env": {**os.environ, "PATH": path}, "start_new_session": True}
    with log.open("w") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, **own)


def jobs_of(run: subprocess.Popen) -> list[psutil.Process]:
    """Processes of the jobs that are at work."""
    found = []
    for process in psutil.Process(run.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if "scripts/" in str(process.cmdline()):
                found.append(process)
    return found


def jobs_finished(log: Path) -> list[str]:
    """Rule and wildcards of the jobs that a run finished."""
    text = log.read_text()
    names = {}
    for rule, body in re.findall(r"^(?:local)?rule (\w+):\n((?:^ +\S.*\n)*)", text, re.M):
        if number := re.search(r"jobid: (\d+)", body):
            wildcards = re.search(r"wildcards: (.*)", body)
            names[number[1]] = f"{rule} {wildcards[1] if wildcards else ''}"
    return [names[number] for number in re.findall(r"^Finished jobid: (\d+)", text, re.M) if number in names]


def main(
    kills: Annotated[int, typer.Option(help="so many in all")] = 100,
    seed: int = 0,
    longest: Annotated[float, typer.Option(help="seconds until a kill, at most")] = 25.0,
) -> None:
    import tiny
    from workspace import Workspace

    rng, counts = random.Random(seed), Counter()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    tiny.save(tiny.qwen2(), folder / "resources/model")
    workspace = Workspace(folder)
    log = folder / "run.log"
    began = time.monotonic()
    if start(folder, log).wait():
        sys.exit(f"error: undisturbed, it fails:\n{log.read_text()[-2000:]}")
    expected = workspace.artefacts()
    print(f"undisturbed: {len(jobs_finished(log))} jobs, {len(expected)} artefacts", flush=True)
    print(f"{time.monotonic() - began:.0f} s", flush=True)

    while counts["kills"] < kills:
        shutil.rmtree(folder / "results")
        finished: Counter[str] = Counter()
        while True:
            run = start(folder, log)
            if counts["kills"] < kills:
                try:
                    run.wait(timeout=rng.uniform(1, longest))
                except subprocess.TimeoutExpired:
                    counts["kills"] += 1
                    jobs = jobs_of(run)
                    if jobs and rng.random() < 0.5:
                        counts["of one job"] += 1
                        with suppress(psutil.Error):
                            rng.choice(jobs).kill()
                    else:
                        os.killpg(run.pid, signal.SIGKILL)
                        for job in jobs:  # in sessions of their own, if any
                            if job.is_running():
                                job.kill()
            run.wait()
            finished.update(jobs_finished(log))
            counts["tracebacks"] += log.read_text().count("Traceback")
            if run.returncode == 0:
                break
        counts["finished jobs done again"] += sum(number - 1 for number in finished.values())
        counts["grids"] += 1
        found = workspace.artefacts()
        counts["missing artefacts"] += len(expected.keys() - found.keys())
        for name in [name for name in found.keys() & expected.keys() if found[name] != expected[name]]:
            counts["wrong artefacts"] += 1
            print("wrong:", name, flush=True)
        counts["artefacts too many"] += len(found.keys() - expected.keys())
        print(dict(counts), f"{time.monotonic() - began:.0f} s", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
