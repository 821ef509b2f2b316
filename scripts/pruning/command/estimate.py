"""What a run would take, before anything starts: jobs, loads of a model, memory, disk and hours a stage.

    python -m pruning.command.estimate paper --configfile config/qwen2_5-7b.yaml

Memory is the weights and what a rehearsal of each stage's code holds at once beside them (models/rehearsal.py), without
the libraries themselves (about 0.4 GB, on a GPU as much again) and the allocator's fragments. Hours on a card are those
of tokens through the model (command/work.py) at a share of what its data sheet promises, and reading the weights for
each load. Hours here are what finished jobs of the same stage, model and tasks took (results/benchmarks).
"""

import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, NamedTuple, TextIO

import typer

from pruning.analysis import costs
from pruning.command import cards, work
from pruning.command.config_file import whole
from pruning.core import names, workflow
from pruning.core.errors import one_line

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


def planned(arguments: Sequence[str], messages: TextIO) -> list[tuple[str, dict[str, str]]]:
    """(stage, wildcards) of the jobs that snakemake would run; `task` of an evaluation: all of its tasks, with commas.

    messages: a file for snakemake's own words. Raises InputError with them if it refuses."""
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
        expected = [likely(own, of, start) for own, of in zip(took, counted, strict=True)]
        sums = [sum(each) if None not in each else None for each in (counted, took)]
        memory = max((job.memory for job in jobs if job.memory), default=None)
        written = sum(job.written or 0 for job in jobs)
        made.append(Stage(name, len(jobs), len(jobs) if loads else 0, memory, written, *sums, sum(expected)))
    return made


def likely(took: float | None, counted: float | None, start: float) -> float:
    """Return the seconds that a job may take: as long as others of its stage took, unless what is counted of this one
    says that these were smaller or larger. start: what is not counted."""
    guess = start + (counted or 0)
    return took if took is not None and (counted is None or guess / 2 <= took <= 2 * guess) else guess


app = typer.Typer(add_completion=False)


@app.command(context_settings={"ignore_unknown_options": True})
def estimate(
    arguments: Annotated[list[str], typer.Argument(help="as for snakemake: targets, --configfile, --config, …")],
    card: Annotated[Literal[*cards.CARDS], typer.Option(help="hours on which")] = "rtx4090",
) -> None:
    warnings.simplefilter("ignore")  # transformers' own, about its own
    from rich.console import Console
    from rich.table import Column, Table
    from snakemake.cli import get_argument_parser, parse_config
    from snakemake.common.configfile import load_configfile

    given = get_argument_parser().parse_args(arguments)
    with tempfile.TemporaryFile("w+") as messages:
        jobs = planned(arguments, messages)
    if not jobs:
        print("Nothing to be done.")
        return
    settings = whole(*map(load_configfile, given.configfile or []), parse_config(given.config or []))
    found = stages(work.Run(settings, cards.CARDS[card]), jobs)
    heads = ("jobs", "loads", "memory, GB", "written, GB", f"hours, {card}", "hours, here")
    title = f"{sum(stage.jobs for stage in found):,} jobs"
    table = Table("stage", *(Column(head, justify="right") for head in heads), title=title)
    for stage in found:
        known = [(stage.loads, ",d"), (stage.memory, ".1f"), (stage.written, ",.1f"), (hours(stage.counted), ".2f")]
        cells = [format(value, how) if value else "" for value, how in known]
        here = "not measured" if stage.measured is None else f"{hours(stage.measured):.2f}"
        table.add_row(stage.name, f"{stage.jobs:,}", *cells, here)
    total, unknown = sum(hours(stage.measured) for stage in found), sum(stage.measured is None for stage in found)
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    known = f"{total:.1f} hours here, one after another" if unknown < len(found) else "no time is known here"
    loads = sum(stage.loads for stage in found)
    print(f"{loads:,} loads of a model; {known}{f'; {unknown} stages never ran here' if unknown else ''}")
    if on_card := sum(hours(stage.counted) for stage in found):
        share, reading = cards.CARDS[card].share, work.READING / 1e9
        print(f"{on_card:.1f} hours of a {card}, at {share:.0%} of its data sheet and {reading:.0f} GB/s to load")


def hours(seconds: float | None) -> float:
    return (seconds or 0) / 3600


if __name__ == "__main__":
    with one_line():
        app()
