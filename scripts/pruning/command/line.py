"""The command line of `prune`: prune MODEL --data mine.jsonl."""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pruning.command import configuration, status
from pruning.command.configuration import Request
from pruning.command.prune import CONFIG, EVENTS, LOG, PAGE, prune
from pruning.core.errors import InputError, one_line


def option(kind: Any, words: str, **checks: Any) -> Any:
    """The type of an option of the command line. words: its help."""
    return Annotated[kind, typer.Option(help=words, **checks)]


RECORDS = "JSON Lines: messages, prompt/completion, question/answer, or text"
SPARSITY = "per cent of FFN neurons to remove, with commas; 20,30 unless there is a budget"
COST = "in its place, what a model may cost: parameters=1.2B, bytes=900MB, prefill_ms=120, decode_ms=9, "
COST += "or a share of the dense model's: parameters=70%"
EFFORT = "quick, standard or thorough: how much time is spent on keeping quality"
METHODS = "in place of the effort's recipe, to compare; with commas, the first is what others are compared with"
RECOVER = "also tune each pruned model by LoRA: distill (after the dense model) or lora (on the data themselves)"
ANSWER = "also judge answers that the models generate: by their last number, as text, or by a pattern's first group; "
ANSWER += "number, where all reference answers end in one"
TASK = "also a task of lm-eval's, as gsm8k; repeat"
CORES = os.cpu_count() or 1


def command(
    model: Annotated[str, typer.Argument(help="folder, .gguf file, package:file.gguf, or org/name of the hub")],
    data: option(Path, RECORDS, exists=True, dir_okay=False),
    sparsity: option(str | None, SPARSITY) = None,
    budget: option(list[str] | None, COST, metavar="KIND=AMOUNT") = None,
    effort: option(str, EFFORT) = "standard",
    methods: option(str | None, METHODS) = None,
    out: option(Path, "folder for all of it; a run that stopped goes on there") = Path("pruned"),
    recover: option(Literal[*configuration.RECOVERIES] | None, RECOVER) = None,
    steps: option(int | None, "of recovery; 150 unless given", min=1) = None,
    answer: option(str | None, ANSWER, metavar="number|exact|regex:PATTERN") = None,
    task: option(list[str] | None, TASK, metavar="NAME[:METRIC]") = None,
    tolerance: option(float, "per cent of perplexity that may be lost") = 10.0,
    cores: option(int, "CPU cores") = CORES,
) -> None:
    """Prune a model on your data, measure what is left, and take the one to use."""
    asked = configuration.budget_of(budget or [])
    if asked and sparsity:
        raise InputError(f"--budget and --sparsity {sparsity}: the budget says how much is pruned; give one of them")
    compared = methods.split(",") if methods else None
    sparsities = [] if asked else numbers(sparsity or "20,30")
    asked_for = {"methods": compared, "effort": effort, "recover": recover, "steps": steps, "answer": answer}
    asked_for |= {"tasks": task or [], "tolerance": tolerance / 100, "cores": cores}
    request = Request(model, data, out, sparsities, asked, **asked_for)
    result = prune(request, shlex.join(["prune", *sys.argv[1:]]))
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(result.page))
    print(f"This page: {out / PAGE}   configuration: {out / CONFIG}   tables: {out / 'results'}")


def numbers(text: str) -> list[int]:
    """Raises InputError for what is not 1 to 99, with commas."""
    found = re.fullmatch(r"\s*\d{1,2}(\s*,\s*\d{1,2})*\s*", text)
    values = sorted({int(part) for part in text.split(",")}) if found else []
    if not values or values[0] == 0:
        raise InputError(f"--sparsity {text}: whole per cent from 1 to 99, with commas: 20,30")
    return values


def show_status(out: option(Path, "folder of the run") = Path("pruned")) -> None:
    """What a run is at, what failed, and the last words of its log."""
    if not (out / LOG).is_file():
        raise InputError(f"--out {out}: no run of prune there (no {LOG})")
    print("\n".join(status.lines(status.read(out / EVENTS), out)))


def main() -> None:
    with one_line():
        if sys.argv[1:2] == ["status"]:
            del sys.argv[1]
            typer.run(show_status)
        typer.run(command)


if __name__ == "__main__":
    main()
