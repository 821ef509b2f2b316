"""The command line of `prune`: prune MODEL --data mine.jsonl."""

import inspect
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markdown import Markdown, TableElement
from rich.table import Column, Table

from pruning.command import running, take, wizard
from pruning.command.prune import TEST, expected, prune
from pruning.command.ready import ready
from pruning.command.request import Request, option
from pruning.command.running import CONFIG, EVENTS, LOG, PAGE, one_at_a_time
from pruning.core import memory
from pruning.core.errors import InputError, one_line

if TYPE_CHECKING:
    from pruning.command.estimate import Stage

EXAMPLES = """\b
Examples:
  prune Qwen/Qwen2.5-0.5B-Instruct --data mine.jsonl
  prune ./my-model --data mine.jsonl --budget bytes=900MB --gguf q8_0
  prune plan ./my-model --data mine.jsonl --sparsity 20,40 --effort thorough

Also: prune plan MODEL … (what a run would take), prune status (how far it is), prune (asks for what it needs).
"""
HOUR = 3600
LEAST_NAME = 8  # characters of a line of a table's first column


def with_options(command: Callable[[Request], None]) -> Callable[..., None]:
    """A command of all options of Request, for typer."""

    def called(**given: Any) -> None:
        command(Request(**given))

    called.__doc__, called.__signature__ = command.__doc__, inspect.signature(Request)
    return called


def run(request: Request) -> None:
    """Prune a model on your data, measure what is left, and take the one to use."""
    out, line = request.out, shlex.join(["prune", *sys.argv[1:]])
    result = prune(request, line, lambda stages: agree(stages, request))
    Console(width=None if sys.stdout.isatty() else 110).print(rendered(result.page))
    print(f"This page: {out / PAGE}   configuration: {out / CONFIG}   tables: {out / 'results'}")
    said = take.commands(result.folder, result.files, take.prompt_of(out / TEST))
    shown = "\n\n".join(f"# {name}\n{command}" for name, command in said.items())
    print(f"\nTo use the model:\n\n{shown}")


def rendered(text: str) -> Markdown:
    """Markdown for a terminal, in whose tables numbers and heads stay whole, and names where there is space."""

    class Whole(TableElement):
        def __rich_console__(self, console: Any, options: Any) -> Any:
            for table in super().__rich_console__(console, options):
                cells = [[cell.plain for cell in (own.header, *own.cells)] for own in table.columns]
                least = [max(len(word) for cell in own for word in cell.split() or [""]) for own in cells]
                spare = options.max_width - sum(least) - 2 * len(least)
                fits = least[0] + spare >= min(least[0], LEAST_NAME)
                for column, own, width in zip(table.columns, cells, least, strict=True):
                    column.overflow = "fold"
                    if fits:
                        more = min(spare, max(map(len, own)) - width)  # negative where a name is folded
                        column.width, spare = width + more, spare - more
                yield table

    made = Markdown(text)
    made.elements = {**Markdown.elements, "table_open": Whole}
    return made


@one_at_a_time
def show_plan(request: Request) -> None:
    """Print a run's jobs, and what minutes, memory and disk they take. Nothing runs, but the model is fetched."""
    stages = expected(ready(request))
    if stages:
        heads = ("jobs", "memory, GB", "written, GB", "minutes")
        table = Table("stage", *(Column(head, justify="right") for head in heads))
        for stage in stages:
            sizes = [f"{size:.2f}" if size else "" for size in (stage.memory, stage.written)]
            table.add_row(stage.name, f"{stage.jobs:,}", *sizes, f"{stage.expected / 60:.1f}")
        Console().print(table)
    print(in_total(stages, request))


def in_total(stages: Sequence["Stage"], request: Request) -> str:
    """What a run takes, in a sentence."""
    if not stages:
        return "Nothing is left to do: all of it is there."
    seconds = sum(stage.expected for stage in stages)
    minutes = max(1, round(seconds / 60))
    time = f"{minutes} minute{'s' * (minutes > 1)}" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} hours"
    needed = max((stage.memory for stage in stages if stage.memory), default=0) + LIBRARIES
    jobs, written = (sum(getattr(stage, what) for stage in stages) for what in ("jobs", "written"))
    said = (
        f"{jobs} jobs, about {time} with {request.cores} core{'s' * (request.cores > 1)}, up to {needed:.1f} GB of "
        f"memory ({memory.physical() / 1e9:.0f} are there), {written:.1f} GB written to disk."
    )
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if busy > 0.75 * cores:  # more than planning itself takes: the machine's speed was measured beside that
        said += f" In the last minute {min(busy, cores):.1f} of {cores} cores were busy."
        said += " Beside other work the time is estimated too long."
    return said


LIBRARIES = 0.4  # gigabytes of memory that Python and its libraries take


def agree(stages: Sequence["Stage"], request: Request) -> None:
    """Say what a run takes, and on a terminal ask before one of more than an hour."""
    print(in_total(stages, request), flush=True)
    long = sum(stage.expected for stage in stages) > HOUR
    if long and sys.stdin.isatty() and not request.yes and not typer.confirm("Start it?"):
        raise typer.Exit(1)


def show_status(out: option(Path, "folder of the run") = Path("pruned")) -> None:
    """What a run is at and how far, what failed, and the last words of its log."""
    if not (out / LOG).is_file():
        raise InputError(f"--out {out}: no run of prune there (no {LOG})")
    print("\n".join(running.lines(running.read(out / EVENTS), out)))


def release() -> str:
    """Return the installed version."""
    try:
        return version("reasoning-aware-pruning")
    except PackageNotFoundError:
        return "not installed"


COMMANDS = {"plan": with_options(show_plan), "status": show_status}


def main() -> None:
    """Run what sys.argv says; `prune MODEL`, where it names no other command."""
    for ending in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the workflow ends with its command
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, signal.default_int_handler)
    with one_line():
        given = sys.argv[1:]
        if given == ["--version"]:
            print(f"prune {release()}")
            return
        if not given and sys.stdin.isatty() and sys.stdout.isatty():
            try:
                given = wizard.asked()
            except (KeyboardInterrupt, EOFError):
                sys.exit(130)
            if given is None:
                return
            sys.argv[1:] = given
        name = given[0] if given and given[0] in COMMANDS else None
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        command = COMMANDS[name] if name else with_options(run)
        app.command(no_args_is_help=name != "status", epilog=None if name else EXAMPLES)(command)
        app(given[1:] if name else given, prog_name=f"prune {name}" if name else "prune")


if __name__ == "__main__":
    main()
