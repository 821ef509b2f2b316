"""What every stage's command line shares: one settings dict, threads and GPUs, one line per error."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer

from pruning.core import chain, gpu_request
from pruning.core.errors import InputError as InputError
from pruning.core.errors import one_line


def told(text: str) -> dict:
    """A job's settings from the workflow's JSON; the lineage in it is for what the stage reads and writes."""
    settings = json.loads(text)
    if lineage := settings.pop("lineage", None):
        chain.begin(lineage)
    return settings


def paths(given: Iterable[str] | None) -> dict[str, Path]:
    """Return the paths of options NAME=PATH, by name."""
    return {name: Path(path) for name, path in (pair.split("=", 1) for pair in given or ())}


# The labelled dict of settings of one job: what the workflow tracks to know when to re-run it.
Settings = Annotated[dict, typer.Option(parser=told, metavar="JSON", help="the stage's settings")]
Evidence = Annotated[list[str] | None, typer.Option(metavar="KIND=PATH", help="table, or manifest of matrices")]
Variant = Annotated[
    dict | None, typer.Option(parser=json.loads, metavar="JSON", help="paths and scheme of its parts, by name")
]


def run(stage: Callable[..., None]) -> None:
    """Run a stage as a command line: each of its parameters is an option, and a list one that is repeated. It gets the
    GPUs that it was given and its `threads`, where it declares them.

    Bad input or a full disk ends in one line on stderr and exit code 1."""

    @wraps(stage)
    def run_stage(**arguments) -> None:
        if "threads" in arguments:
            set_threads(arguments["threads"])
        else:
            check_gpus()
        stage(**arguments)

    signature = inspect.signature(stage)
    options = [each.replace(annotation=_option(each.annotation)) for each in signature.parameters.values()]
    run_stage.__signature__ = signature.replace(parameters=options)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(run_stage)
    with one_line():
        app()


def _option(kind: Any) -> Any:
    """A parameter's type as that of an option, unless it says more of itself."""
    return kind if get_origin(kind) is Annotated else Annotated[kind, typer.Option()]


def set_threads(threads: int) -> None:
    """Give torch, OpenMP, BLAS and the tokenizers the job's threads; call before importing any but torch.

    Raises InputError as check_gpus does."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    if torch := sys.modules.get("torch"):  # in a fork of a process that has imported it
        torch.set_num_threads(threads)
    check_gpus()


def check_gpus() -> None:
    """Raises InputError if torch can use fewer GPUs than scripts/launch.py gave this job: it would run on the CPU.

    Asked in a child process, since workers of a process in which CUDA has been started cannot be forked."""
    if not (asked := int(os.environ.get(gpu_request.ASKED, 0))):
        return
    import torch

    if (child := os.fork()) == 0:
        os._exit(min(torch.cuda.device_count(), asked) if torch.cuda.is_available() else 0)
    if (usable := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) != asked:
        raise InputError(f"{asked} GPUs requested: {gpu_request.refusal(max(usable, 0))}")
