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
    import torch
    from tqdm import tqdm

    from pruning.calibration import gradients, prepare, token_classes
    from pruning.core import artifacts, out_of_memory
    from pruning.models import loading
    from pruning.models.structures import ffn

    torch.set_num_threads(threads)
    cli.phase("start-up")
    network, tokenizer = loading.load(model, settings["dtype"])
    cli.phase("load")
    batches = prepare.batches(data, tokenizer, settings)
    if settings["shards"] > len(batches):
        raise cli.InputError(
            f"calibration: {settings['shards']} shards for {len(batches)} micro-batches: lower `shards`"
        )
    if settings["gradient_checkpointing"]:
        gradients.checkpoint_gradients(network)
    own = prepare.shard_of(batches, shard, settings["shards"])
    layers = len(ffn.sites(network))
    analysed = settings["analysed_layer"] if settings["analysed_layer"] is not None else layers - 2
    if not 0 <= analysed < layers:
        raise cli.InputError(f"analysed_layer: {analysed} is out of range, the model has layers 0 to {layers - 1}")
    run = gradients.Calibration(
        network,
        objectives=settings["objectives"],
        analysed_layer=analysed,
        keep=prepare.sampled_positions(batches, settings["sampled_tokens"], settings["seed"]),
        token_classes=token_classes.vocabulary_classes(tokenizer, network.get_input_embeddings().num_embeddings),
    )
    with (
        run,
        out_of_memory.advise(
            f"`micro_batch: {settings['micro_batch']}`: lower it, or set `gradient_checkpointing: true`"
        ),
    ):
        run.run(tqdm(own, "calibration micro-batches", mininterval=5))
    statistics, per_layer = run.frames()
    origin = {**settings, "shard": shard, "analysed_layer": analysed}
    artifacts.write_parquet(output / "statistics.parquet", statistics, "statistics", origin)
    artifacts.write_parquet(output / "layers.parquet", per_layer, "layers", origin)
    artifacts.write_parquet(output / "token_classes.parquet", run.class_frame(), "token_classes", origin)
    artifacts.write_parquet(output / "activations.parquet", gradients.activation_table(run.kept), "activations", origin)


if __name__ == "__main__":
    cli.run(calibrate)
