"""A run before it starts: its jobs, stage by stage, and what they take."""

import tempfile
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple, TextIO

from pruning.analysis import costs
from pruning.command import work
from pruning.core import names, workflow

STARTING = 6.0  # seconds of a job that loads a model, before it computes: Python's libraries, above all
SHORT = 3.0  # the same of other jobs, which are over then


class Stage(NamedTuple):
    """Jobs of one rule. What is not known is None."""

    name: str
    jobs: int
    loads: int  # jobs that load a model, to compute with it
    memory: float | None  # gigabytes that the largest holds at once, weights included
    written: float  # gigabytes of models, moments and refits that they write, whether they are kept or not
    counted: float | None  # seconds on the card, by the operations that are counted
    measured: float | None  # seconds here, by finished jobs of the same stage, model and tasks
    expected: float  # seconds here, of each job the measured ones, or else those counted and its start


def planned(arguments: Sequence[str], messages: TextIO | None = None) -> list[tuple[str, dict[str, str]]]:
    """(stage, wildcards) of the jobs that snakemake would run; `task` of an evaluation: all of its tasks, with commas.

    messages: a file for snakemake's own words. Raises InputError with them if it refuses."""
    if messages is None:
        with tempfile.TemporaryFile("w+") as messages:
            return planned(arguments, messages)
    jobs = []
    for event in workflow.events(["-n", "--cores", "1", *arguments], messages):
        if event["event"] == "job_info":
            if tasks := [sample[2] for sample in map(names.sample_of, event["output"]) if sample]:
                event["wildcards"]["task"] = ",".join(tasks)
            jobs.append((costs.stage_of(event["rule_name"]), event["wildcards"]))
    return jobs


def tasks_of(stage: str, job: dict[str, str]) -> str:
    """What an evaluation's time depends on most, as its benchmark file is named: its tasks."""
    return names.joined(job["task"].split(",")) if stage == "evaluate" else ""


def measured(models: Collection[str]) -> dict[tuple[str, str, str], float]:
    """Median seconds of finished jobs, by stage, model ("" where none is involved) and, of evaluations, tasks."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for path in Path(names.BENCHMARKS).rglob("*.tsv"):
        job, folder = costs.job(path), path.relative_to(names.BENCHMARKS).parts[0]
        tasks = path.stem if job["stage"] == "evaluate" else ""
        found[job["stage"], folder if folder in models else "", tasks].append(job["seconds"])
    return {key: median(seconds) for key, seconds in found.items()}


def stages(run: work.Run, plan: Sequence[tuple[str, dict[str, str]]]) -> list[Stage]:
    """Return what planned jobs take, the stages with the most jobs first."""
    seconds, by_stage = measured(run.config.models), defaultdict(list)
    for stage, wildcards in plan:
        if stage not in ("paper", "all"):  # which run nothing themselves
            by_stage[stage].append(work.Job(run, stage, wildcards))
    made = []
    for name, jobs in sorted(by_stage.items(), key=lambda item: (-len(item[1]), item[0])):
        took = [seconds.get((name, job.model, tasks_of(name, job.wildcards))) for job in jobs]
        counted, loads = [job.seconds for job in jobs], jobs[0].loads
        start = STARTING if loads else SHORT
        expected = [own if own is not None else start + (of or 0) for own, of in zip(took, counted, strict=True)]
        sums = [sum(each) if None not in each else None for each in (counted, took)]
        memory = max((job.memory for job in jobs if job.memory), default=None)
        written = sum(job.written or 0 for job in jobs)
        made.append(Stage(name, len(jobs), len(jobs) if loads else 0, memory, written, *sums, sum(expected)))
    return made
