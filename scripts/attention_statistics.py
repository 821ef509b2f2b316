"""The calibration's statistics of attention: a row a channel of what heads hand to attention's output projection.

The columns are those of FFN neurons (calibration/columns.py), so that scores of the one are scores of the other; a
key-value group's is the sum of its channels'.
"""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def attention_statistics(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    data: Annotated[Path, typer.Option(help="parquet of the calibration split")],
    output: Annotated[Path, typer.Option()],
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    from tqdm import tqdm

    from pruning.calibration import gradients, prepare
    from pruning.core import artifacts, out_of_memory
    from pruning.models.checkpointing import checkpoint_gradients
    from pruning.models.structures import kv_groups

    network, _, batches = prepare.loaded(model, data, settings, threads, gradients.STAGE)
    sites = kv_groups.sites(network)
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)
    run = gradients.Calibration(network, settings["objectives"], sites)
    with run, out_of_memory.advise(prepare.advice(settings)):
        run.run(tqdm(batches, "calibration micro-batches", mininterval=5))
    artifacts.write_parquet(output, run.frames()[0], "attention", settings)


if __name__ == "__main__":
    cli.run(attention_statistics)
