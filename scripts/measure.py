"""Measure the dense model on calibration text: what is measured, a module of scripts/pruning/ says.

Its `measure` writes the outputs: statistics of a shard (`gradients`), or of attention; `second_moments`;
`output_gradients`; `parameter_gradients`; and what figures show of single tokens (`observe`).
"""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def measure(
    what: Annotated[str, typer.Option(help="the module, as calibration/gradients")],
    outputs: Annotated[list[Path], typer.Option("--output", help="in the order that its `measure` says; repeat")],
    settings: cli.Settings,
    model: cli.Model,
    data: cli.Data,
    memory_mb: Annotated[int | None, typer.Option(help="memory the job may take on a CPU; else no bound")] = None,
    threads: int = 1,
) -> None:
    """Settings: a calibration's, and `structure`, where it is not FFN neurons that are measured."""
    from pruning.calibration import prepare
    from pruning.core import out_of_memory
    from pruning.models.checkpointing import checkpoint_gradients

    if what == "paper/observe":
        module = importlib.import_module("pruning.paper.observe")
    else:
        module = importlib.import_module(f"pruning.calibration.{what.removeprefix('calibration/')}")
    network, tokenizer, batches = prepare.loaded(model, data, settings, threads, module.STAGE)
    if settings.get("gradient_checkpointing"):
        checkpoint_gradients(network)
    memory = None if memory_mb is None else memory_mb * 10**6
    with out_of_memory.advise(prepare.advice(settings)):
        module.measure(prepare.Measurement(network, tokenizer, batches, settings, outputs, memory))


if __name__ == "__main__":
    cli.run(measure)
