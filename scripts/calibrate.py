"""Calibrate one shard: every statistic of every method in one pass over its micro-batches.

Writes statistics.parquet (one row a neuron), token_classes.parquet (one row a neuron and class of tokens),
layers.parquet (one row a layer) and activations.parquet (sampled tokens at the analysed layer) of the shard;
`merge_calibration.py` adds shards up.
"""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def calibrate(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    data: Annotated[Path, typer.Option(help="parquet of the calibration split")],
    shard: Annotated[int, typer.Option(help="its number, from 0")],
    output: Annotated[Path, typer.Option(help="directory for the shard's four parquet files")],
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    from tqdm import tqdm

    from pruning.calibration import gradients, prepare
    from pruning.core import artifacts, out_of_memory
    from pruning.models.checkpointing import checkpoint_gradients

    network, _, batches = prepare.loaded(model, data, settings, threads, gradients.STAGE)
    if settings["shards"] > len(batches):
        raise cli.InputError(
            f"calibration: {settings['shards']} shards for {len(batches)} micro-batches: lower `shards`"
        )
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)
    own = prepare.shard_of(batches, shard, settings["shards"])
    run = gradients.Calibration(network, settings["objectives"])
    with run, out_of_memory.advise(prepare.advice(settings)):
        run.run(tqdm(own, "calibration micro-batches", mininterval=5))
    statistics, per_layer = run.frames()
    origin = {**settings, "shard": shard}
    artifacts.write_parquet(output / "statistics.parquet", statistics, "statistics", origin)
    artifacts.write_parquet(output / "layers.parquet", per_layer, "layers", origin)


if __name__ == "__main__":
    cli.run(calibrate)
