"""The command line of `prune`: prune MODEL --data mine.jsonl."""

import inspect
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pruning.command import configuration, efforts, running, take, wizard
from pruning.command.configuration import Request, numbers
from pruning.command.prune import PAGE, TEST, expected, prune
from pruning.command.ready import ready
from pruning.command.running import CONFIG, EVENTS, LOG
from pruning.core import memory
from pruning.core.errors import InputError, one_line
from pruning.models.gguf import BLOCK

if TYPE_CHECKING:
    from pruning.command.plan import Stage

EXAMPLES = """\b
Examples:
  prune Qwen/Qwen2.5-0.5B-Instruct --data mine.jsonl
  prune ./my-model --data mine.jsonl --budget bytes=900MB --gguf q8_0
  prune plan ./my-model --data mine.jsonl --sparsity 20,40 --effort thorough

Also: prune plan MODEL … (what a run would take), prune status (how far it is), prune (asks for what it needs).
"""
HOUR = 3600


def option(kind: Any, words: str, **checks: Any) -> Any:
    """The type of an option of the command line. words: its help."""
    return Annotated[kind, typer.Option(help=words, **checks)]


RECORDS = "JSON Lines: messages, prompt/completion, question/answer, or text; none: a --task's training data"
SPARSITY = "per cent of FFN neurons to remove, with commas; 20,30 unless there is a budget"
COST = "in place of a sparsity, the most a model may cost: parameters=1.2B, bytes=900MB, prefill_ms=120, decode_ms=9, "
COST += "or a share of the dense model's: parameters=70%"
EFFORT = "; ".join(f"{name}: {efforts.read(name).summary}" for name in efforts.EFFORTS)
METHODS = "methods to compare, in place of the effort's recipe; with commas, the first is the reference"
RECOVER = "also fine-tune each pruned model with LoRA: distill (to predict as the dense model) or lora (on the data)"
ROUNDS = "prune in this many iterations, each measured and reconstructed on the model of the one before"
VOCABULARY = "also prune the vocabulary to this many tokens, or to a share of them (30%), those of the data first; "
VOCABULARY += "perplexity is then in bits per byte, and --sparsity may be 0"
ANSWER = "also judge answers that the models generate: by their last number, as text, or by a pattern's first group; "
ANSWER += "number, where all reference answers end in one"
QUESTIONS = "most test questions that models answer; on a CPU 50 unless given (100 with thorough, none with quick)"
TASK = "also evaluate this task of lm-eval, as gsm8k; repeat"
GGUF = f"also make a GGUF file of the model to take, of this type; repeat for several: {', '.join(BLOCK)}"
AGAINST = "compare with the dense model in this GGUF type as well, at equal bytes; repeat, as q8_0, q4_k_m, q3_k_m"
CORES = os.cpu_count() or 1


@dataclass
class Asked:
    """What `prune MODEL` and `prune plan MODEL` take."""

    model: Annotated[str, typer.Argument(help="folder, .gguf file, package:file.gguf, or org/name of the hub")]
    data: option(Path | None, RECORDS, exists=True, dir_okay=False) = None
    sparsity: option(str | None, SPARSITY) = None
    budget: option(list[str] | None, COST, metavar="KIND=AMOUNT") = None
    effort: option(str, EFFORT) = "standard"
    methods: option(str | None, METHODS) = None
    out: option(Path, "folder of the run and its result; a run that stopped continues there") = Path("pruned")
    recover: option(Literal[*configuration.RECOVERIES] | None, RECOVER) = None
    steps: option(int | None, "training steps of --recover; 150 unless given", min=1) = None
    rounds: option(int | None, ROUNDS, min=2) = None
    vocabulary: option(str | None, VOCABULARY, metavar="TOKENS") = None
    answer: option(str | None, ANSWER, metavar="number|exact|regex:PATTERN") = None
    questions: option(int | None, QUESTIONS, min=1) = None
    task: option(list[str] | None, TASK, metavar="NAME[:METRIC]") = None
    tolerance: option(float, "most per cent that perplexity may rise") = 10.0
    gguf: option(list[str] | None, GGUF, metavar="TYPE") = None
    against: option(list[str] | None, AGAINST, metavar="TYPE") = None
    cores: option(int, "CPU cores") = CORES
    yes: Annotated[bool, typer.Option("--yes", help="do not ask before a run of more than an hour")] = False

    def request(self) -> Request:
        """Raises InputError for what contradicts itself, and for what is no amount."""
        budget = configuration.budget_of(self.budget or [])
        if budget and self.sparsity:
            raise InputError(
                f"--budget and --sparsity {self.sparsity}: the budget says how much is pruned; give one of them"
            )
        cut = self.vocabulary is not None
        return Request(
            model=self.model,
            data=self.data,
            out=self.out,
            sparsities=[] if budget else numbers(self.sparsity or f"{'0,' if cut else ''}20,30", int(not cut)),
            budget=budget,
            methods=self.methods.split(",") if self.methods else None,
            effort=self.effort,
            recover=self.recover,
            steps=self.steps,
            rounds=self.rounds,
            vocabulary=int(self.vocabulary) if (self.vocabulary or "").isdecimal() else self.vocabulary,
            answer=self.answer,
            questions=self.questions,
            tasks=self.task or [],
            tolerance=self.tolerance / 100,
            cores=self.cores,
            gguf=list(dict.fromkeys(kind.lower() for kind in self.gguf or [])),
            against=list(dict.fromkeys(kind.lower() for kind in self.against or [])),
        )


def with_options(command: Callable[[Asked], None]) -> Callable[..., None]:
    """A command of all options of Asked, for typer."""

    def called(**given: Any) -> None:
        command(Asked(**given))

    called.__doc__ = command.__doc__
    called.__signature__ = inspect.signature(Asked)
    return called


def run(asked: Asked) -> None:
    """Prune a model on your data, measure what is left, and take the one to use."""
    request = asked.request()
    line = shlex.join(["prune", *sys.argv[1:]])
    result = prune(request, line, lambda stages: agree(stages, asked))
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(result.page))
    print(f"This page: {asked.out / PAGE}   configuration: {asked.out / CONFIG}   tables: {asked.out / 'results'}")
    said = take.commands(result.folder, result.files, take.prompt_of(asked.out / TEST))
    print(f"\nTo use the model:\n\n{take.text(said)}")


def show_plan(asked: Asked) -> None:
    """Print a run's jobs, and what minutes, memory and disk they take. Nothing runs, but the model is fetched."""
    stages = expected(ready(asked.request()))
    if stages:
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for column in ("stage", "jobs", "memory, GB", "written, GB", "minutes"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        for stage in stages:
            sizes = [f"{size:.2f}" if size else "" for size in (stage.memory, stage.written)]
            table.add_row(stage.name, f"{stage.jobs:,}", *sizes, f"{stage.expected / 60:.1f}")
        Console().print(table)
    print(in_total(stages, asked))


def in_total(stages: Sequence["Stage"], asked: Asked) -> str:
    """What a run takes, in a sentence."""
    if not stages:
        return "Nothing is left to do: all of it is there."
    seconds = sum(stage.expected for stage in stages)
    minutes = max(1, round(seconds / 60))
    time = f"{minutes} minute{'s' * (minutes > 1)}" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} hours"
    needed = max((stage.memory for stage in stages if stage.memory), default=0) + LIBRARIES
    written = sum(stage.written for stage in stages)
    return (
        f"{sum(stage.jobs for stage in stages)} jobs, about {time} with {asked.cores} cores, up to {needed:.1f} GB of "
        f"memory ({memory.physical() / 1e9:.0f} are there), {written:.1f} GB written to disk."
    )


LIBRARIES = 0.4
"""Gigabytes of memory that Python and its libraries take."""


def agree(stages: Sequence["Stage"], asked: Asked) -> None:
    """Say what a run takes, and on a terminal ask before one of more than an hour."""
    print(in_total(stages, asked), flush=True)
    long = sum(stage.expected for stage in stages) > HOUR
    if long and sys.stdin.isatty() and not asked.yes and not typer.confirm("Start it?"):
        raise typer.Exit(1)


def show_status(out: option(Path, "folder of the run") = Path("pruned")) -> None:
    """What a run is at, what failed, and the last words of its log."""
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
        app.command(no_args_is_help=name != "status", epilog=None if name else EXAMPLES)(
            COMMANDS[name] if name else with_options(run)
        )
        app(given[1:] if name else given, prog_name=f"prune {name}" if name else "prune")


if __name__ == "__main__":
    main()
