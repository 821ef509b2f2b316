"""What a run through Slurm needs beside Snakemake's plugin: no job twice, no job forgotten."""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError

RUN = r"([A-Za-z0-9_-]+_)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # the plugin's name of all jobs of one run

SUBMITTED = ".snakemake/submitted_to_slurm"
"""In a run's folder: some run there was through Slurm."""


def live_jobs(folder: Path) -> list[str]:
    """Slurm's numbers of the jobs that runs in this folder have submitted and that have not ended.

    Raises InputError if Slurm does not say."""
    command = ["squeue", "--noheader", "--format=%A|%j|%Z"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise InputError(f"squeue does not answer ({reason}), so that jobs could be submitted twice") from None
    jobs = [line.split("|", 2) for line in asked.stdout.splitlines()]
    own, here = os.environ.get("SLURM_JOB_ID"), os.path.realpath(folder)
    ours = [n for n, name, place in jobs if n != own and re.fullmatch(RUN, name) and os.path.realpath(place) == here]
    return sorted(ours, key=int)


def refuse_twice(folder: Path, *, submits: bool) -> None:
    """Raises InputError if jobs of a run that was killed are still at work: they would be done once more.

    A run that submits nothing to Slurm looks as well where an earlier one did, but needs no answer. Elsewhere it does
    not ask: with Slurm installed and its controller away that would take nine seconds."""
    submitted = folder / SUBMITTED
    if submits:
        submitted.parent.mkdir(exist_ok=True)
        submitted.touch()
    elif not submitted.exists():
        return
    try:
        jobs = live_jobs(folder)
    except InputError:
        if submits:
            raise
        return
    if jobs:
        raise InputError(
            f"{len(jobs)} Slurm jobs of an earlier run are still active in {folder}: start again when they have "
            f"ended (squeue --me), nothing of theirs is lost; or stop them first: scancel {' '.join(jobs)}"
        )


def survive_outages(executor: Any, pause: float = 10) -> None:
    """Make the plugin's executor wait for a controller that is away: version 2.8 does not, as while slurmctld restarts.

    When every query of a round fails it forgets its jobs, and the run waits for ever; submissions fail after nine
    seconds (github.com/snakemake/snakemake-executor-plugin-slurm, issues 207, 313 and 320; a version that asks again
    needs none of this). Its option `slurm-status-attempts` does not help: all queries of a round use the program that
    was chosen when it began, and while the controller is away that is `sacct`, which needs a database of accounts."""
    ask, submit = executor.check_active_jobs, executor.run_job

    async def check_active_jobs(self, active_jobs):
        answered = self._status_query_calls
        async for job in ask(self, active_jobs):
            yield job
        if self._status_query_calls == answered:
            for job in active_jobs:
                yield job

    def run_job(self, job):
        while _away():
            time.sleep(pause)
        submit(self, job)

    executor.check_active_jobs, executor.run_job = check_active_jobs, run_job


def _away() -> bool:
    """Whether Slurm says that its controllers are down, all of them."""
    asked = subprocess.run(["scontrol", "ping"], capture_output=True, text=True)
    return " is DOWN" in asked.stdout and " is UP" not in asked.stdout
