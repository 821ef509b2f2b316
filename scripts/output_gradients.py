"""Second moments of the loss gradient at every FFN's output, for the score `obs`: one float32 [d, d] a layer; with
`structure` in the settings at the output of another's sites (models/structures/), as of attention.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def output_gradients(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    data: Annotated[Path, typer.Option(help="parquet of the calibration split")],
    output: Annotated[Path, typer.Option(help="directory for a file a layer")],
    manifest: Annotated[Path, typer.Option(help="JSON to write")],
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    from tqdm import tqdm

    from pruning.calibration import output_gradients as gradients
    from pruning.calibration import prepare
    from pruning.core import layer_files, out_of_memory
    from pruning.models import structures
    from pruning.models.checkpointing import checkpoint_gradients

    network, _, batches = prepare.loaded(model, data, settings, threads, gradients.STAGE)
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)
    progress, structure = partial(tqdm, desc="micro-batches", mininterval=5), settings.get("structure", "ffn")
    sites = structures.sites(network, structure)
    with out_of_memory.advise(prepare.advice(settings)):
        sums, tokens = gradients.output_gradients(network, batches, settings["seed"], progress, sites)
    layers = [{"gradients": total / tokens} for total in sums]
    content = {"tokens": tokens, "layers": len(layers), "widths": [site.in_features for site in sites]}
    kind = layer_files.kind_of("output_gradients", structure)
    layer_files.write(output, manifest, kind, settings, layers, content)


if __name__ == "__main__":
    cli.run(output_gradients)
