"""What a run would take, before anything starts: jobs, loads of a model, memory, disk and hours a stage.

    python scripts/estimate.py paper --configfile config/qwen2_5-7b.yaml

Memory is the weights and what a rehearsal of each stage's code holds at once beside them (models/rehearsal.py), without
the libraries themselves (about 0.4 GB, on a GPU as much again) and the allocator's fragments. Hours on a card are the
work that is counted (there, and analysis/work.py) at a share of what its data sheet promises, and reading the weights
for each load. Hours here are what finished jobs of the same stage, model and tasks took (results/benchmarks).
"""

import shutil
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from pruning.analysis import costs, work
from pruning.command.config_file import whole
from pruning.core import names, workflow
from pruning.core.errors import InputError


def estimate(
    targets: Annotated[list[str] | None, typer.Argument(help="as for snakemake")] = None,
    configfile: Annotated[list[str] | None, typer.Option(help="as for snakemake")] = None,
    config: Annotated[list[str] | None, typer.Option(help="as for snakemake: KEY=VALUE; repeat")] = None,
    card: Annotated[str, typer.Option(help=f"hours on which: {', '.join(work.CARDS)}")] = "rtx4090",
    stops_from: Annotated[
        int,
        typer.Option(help="models of so many per cent and more stop early where a task lets them"),
    ] = 101,
) -> None:
    warnings.simplefilter("ignore")  # transformers' own, about its own
    from rich.console import Console
    from rich.table import Table
    from snakemake.cli import parse_config
    from snakemake.common.configfile import load_configfile

    if card not in work.CARDS:
        raise InputError(f"--card {card}: known are {', '.join(work.CARDS)}")
    options = [*(["--configfile", *configfile] if configfile else []), *(["--config", *config] if config else [])]
    plan = planned([*(targets or ["paper"]), *options])
    if not plan:
        print("Nothing to be done.")
        return
    settings = whole(*map(load_configfile, configfile or []), parse_config(config or []))
    run, seconds = work.Run(settings, work.CARDS[card], stops_from), measured(settings.models)
    by_stage: dict[str, list[work.Job]] = defaultdict(list)
    for stage, wildcards in plan:
        if stage != "paper":  # which runs nothing itself
            by_stage[stage].append(work.Job(run, stage, wildcards))
    table = Table(title=f"{sum(map(len, by_stage.values())):,} jobs")
    for column in ("stage", "jobs", "loads", "memory, GB", "written, GB", f"hours, {card}", "hours, here"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    total, unknown, loads, on_card = 0.0, 0, 0, 0.0
    for stage, jobs in sorted(by_stage.items(), key=lambda item: (-len(item[1]), item[0])):
        loaded = len(jobs) if jobs[0].cost.loads else 0
        took = [seconds.get((stage, job.model, tasks_of(stage, job.wildcards))) for job in jobs]
        hours = sum(took) / 3600 if None not in took else None
        card_s = [job.seconds for job in jobs]
        busy = sum(card_s) / 3600 if None not in card_s else None
        needed = max((job.memory for job in jobs if job.memory), default=None)
        disk = sum(job.written or 0 for job in jobs)
        loads, on_card = loads + loaded, on_card + (busy or 0)
        total, unknown = total + (hours or 0), unknown + (hours is None)
        known = [(loaded, ",d"), (needed, ".1f"), (disk, ",.1f"), (busy, ".2f")]
        cells = [format(value, how) if value else "" for value, how in known]
        table.add_row(stage, f"{len(jobs):,}", *cells, "not measured" if hours is None else f"{hours:.2f}")
    Console(width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 110).print(table)
    known = f"{total:.1f} hours here, one after another" if unknown < len(by_stage) else "no time is known here"
    print(f"{loads:,} loads of a model; {known}{f'; {unknown} stages never ran here' if unknown else ''}")
    if on_card:
        share, reading = work.CARDS[card].share, work.READING / 1e9
        print(f"{on_card:.1f} hours of a {card}, at {share:.0%} of its data sheet and {reading:.0f} GB/s to load")
        if stops_from <= 100:
            print(f"if all models of {stops_from}% and more, but for recovered ones, stop early")


def planned(arguments: list[str]) -> list[tuple[str, dict[str, str]]]:
    """(stage, wildcards) of the jobs that snakemake would run; `task` of an evaluation: all of its tasks, with commas.

    Raises InputError with snakemake's words if it refuses."""
    jobs = []
    with tempfile.TemporaryFile("w+") as messages:
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


if __name__ == "__main__":
    try:
        typer.run(estimate)
    except InputError as error:
        sys.exit(f"error: {error}")
