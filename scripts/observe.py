"""What figures show of single tokens: activations of some in one layer, and sums split by classes of tokens.

Settings (JSON): those of the calibration (scripts/calibrate.py), and `tokens`, how many activations are kept; `layer`
(null: the last but one), whose they are; `objectives`, whose gradients are split by class.

Writes activations.parquet (one row a token) and token_classes.parquet (one row a neuron and class).
"""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def observe(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    data: Annotated[Path, typer.Option(help="parquet of the calibration split")],
    output_activations: Annotated[Path, typer.Option(help="activations.parquet")],
    output_classes: Annotated[Path, typer.Option(help="token_classes.parquet")],
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    from tqdm import tqdm

    from pruning.analysis.layer import chosen
    from pruning.calibration import gradients, prepare
    from pruning.calibration.observe import Observation, activation_table
    from pruning.calibration.token_classes import vocabulary_classes
    from pruning.core import artifacts, out_of_memory
    from pruning.models.checkpointing import checkpoint_gradients
    from pruning.models.structures import ffn

    network, tokenizer, batches = prepare.loaded(model, data, settings, threads, gradients.STAGE)
    layer = chosen(settings["layer"], len(ffn.sites(network)))
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)
    run = Observation(
        network,
        vocabulary_classes(tokenizer, network.get_input_embeddings().num_embeddings),
        layer=layer,
        keep=prepare.sampled_positions(batches, settings["tokens"], settings["seed"]),
        objectives=settings["objectives"],
    )
    with run, out_of_memory.advise(prepare.advice(settings)):
        run.run(tqdm(batches, "micro-batches", mininterval=5))
    origin = {**settings, "layer": layer}
    artifacts.write_parquet(output_classes, run.class_frame(), "token_classes", origin)
    artifacts.write_parquet(output_activations, activation_table(run.kept), "activations", origin)


if __name__ == "__main__":
    cli.run(observe)
