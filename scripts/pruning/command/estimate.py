"""What a run would take, before anything starts: jobs, loads of a model, memory, disk and hours a stage.

    python -m pruning.command.estimate paper --configfile config/qwen2_5-7b.yaml

Memory is the weights and what a rehearsal of each stage's code holds at once beside them (models/rehearsal.py), without
the libraries themselves (about 0.4 GB, on a GPU as much again) and the allocator's fragments. Hours on a card are those
of tokens through the model (command/work.py) at a share of what its data sheet promises, and reading the weights for
each load. Hours here are what finished jobs of the same stage, model and tasks took (results/benchmarks).
"""

import shutil
import sys
import warnings
from typing import Annotated

import typer

from pruning.command import cards, plan, work
from pruning.command.config_file import whole
from pruning.core.errors import InputError, one_line


def estimate(
    targets: Annotated[list[str] | None, typer.Argument(help="as for snakemake")] = None,
    configfile: Annotated[list[str] | None, typer.Option(help="as for snakemake")] = None,
    config: Annotated[list[str] | None, typer.Option(help="as for snakemake: KEY=VALUE; repeat")] = None,
    card: Annotated[str, typer.Option(help=f"hours on which: {', '.join(cards.CARDS)}")] = "rtx4090",
) -> None:
    warnings.simplefilter("ignore")  # transformers' own, about its own
    from rich.console import Console
    from rich.table import Table
    from snakemake.cli import parse_config
    from snakemake.common.configfile import load_configfile

    if card not in cards.CARDS:
        raise InputError(f"--card {card}: known are {', '.join(cards.CARDS)}")
    options = [*(["--configfile", *configfile] if configfile else []), *(["--config", *config] if config else [])]
    jobs = plan.planned([*(targets or ["paper"]), *options])
    if not jobs:
        print("Nothing to be done.")
        return
    settings = whole(*map(load_configfile, configfile or []), parse_config(config or []))
    stages = plan.stages(work.Run(settings, cards.CARDS[card]), jobs)
    table = Table(title=f"{sum(stage.jobs for stage in stages):,} jobs")
    for column in ("stage", "jobs", "loads", "memory, GB", "written, GB", f"hours, {card}", "hours, here"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in stages:
        known = [(stage.loads, ",d"), (stage.memory, ".1f"), (stage.written, ",.1f"), (hours(stage.counted), ".2f")]
        cells = [format(value, how) if value else "" for value, how in known]
        here = "not measured" if stage.measured is None else f"{hours(stage.measured):.2f}"
        table.add_row(stage.name, f"{stage.jobs:,}", *cells, here)
    total, unknown = sum(hours(stage.measured) for stage in stages), sum(stage.measured is None for stage in stages)
    Console(width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 110).print(table)
    known = f"{total:.1f} hours here, one after another" if unknown < len(stages) else "no time is known here"
    loads = sum(stage.loads for stage in stages)
    print(f"{loads:,} loads of a model; {known}{f'; {unknown} stages never ran here' if unknown else ''}")
    if on_card := sum(hours(stage.counted) for stage in stages):
        share, reading = cards.CARDS[card].share, work.READING / 1e9
        print(f"{on_card:.1f} hours of a {card}, at {share:.0%} of its data sheet and {reading:.0f} GB/s to load")


def hours(seconds: float | None) -> float:
    return (seconds or 0) / 3600


if __name__ == "__main__":
    with one_line():
        typer.run(estimate)
