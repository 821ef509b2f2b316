"""`prune` without arguments, on a terminal: it asks for what it needs, and shows the command line for it."""

import shlex
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.prompt import Confirm, Prompt

from pruning.command import configuration, efforts, request
from pruning.core.errors import InputError
from pruning.data import datasets
from pruning.models.gguf import check


def asked() -> list[str] | None:
    """Ask for model, data, how much to remove, effort and GGUF files. Return the arguments of `prune`, None where they
    are not to be run now."""
    console = Console()
    console.print("Prune a model on your own data. Ctrl-C ends this; nothing runs before you say so.\n")
    model = until_right(console, "Model (folder, .gguf file, or org/name of the hub)", None, configuration.model_source)
    data = until_right(console, "Data (a file of JSON Lines)", None, records)
    asked = "How much to remove: per cents of the FFN neurons, or a budget as bytes=900MB"
    much = until_right(console, asked, "20,30", how_much)
    effort = until_right(console, f"Effort: {', '.join(efforts.EFFORTS)}", "standard", efforts.read)
    kinds = until_right(console, "GGUF files for llama.cpp or Ollama, as q8_0,q4_k_m", "none", types)
    model = f"./{model}" if model in ("plan", "status") else model  # which are commands
    given = [model, "--data", data, *how_much(much), "--effort", effort, *types(kinds)]
    line = shlex.join(["prune", *given])
    console.print(f"\nThe same without questions:\n\n    {line}\n", markup=False, highlight=False, soft_wrap=True)
    return given if Confirm.ask("Run it now?", console=console) else None


def until_right(console: Console, question: str, default: str | None, check: Callable[[str], object]) -> str:
    """Ask until the answer passes a check, and say what was wrong with others."""
    while True:
        answer = (Prompt.ask(question, console=console, default=default) or "").strip()
        if not answer:
            continue
        try:
            check(answer)
        except (InputError, OSError) as error:
            console.print(str(error), markup=False, highlight=False)
        else:
            return answer


def records(text: str) -> None:
    """Raises InputError for what is no file of JSON Lines."""
    if not Path(text).is_file():
        raise InputError(f"{text}: No such file")
    datasets.read_jsonl(Path(text))


def how_much(text: str) -> list[str]:
    """Return the options for a budget, or for sparsities. Raises InputError for what is neither."""
    if "=" in text:
        request.budget_of([text])
        return ["--budget", text]
    request.numbers(text)
    return ["--sparsity", text]


def types(text: str) -> list[str]:
    """Return the options for types of GGUF file. Raises InputError for one that cannot be made."""
    kinds = request.kinds([kind.strip() for kind in text.split(",") if kind.strip() not in ("", "none")])
    for kind in kinds:
        check(kind, "")
    return [part for kind in kinds for part in ("--gguf", kind)]
