"""LLM-Pruner's parameter Taylor utilities: one row a neuron (layer, unit, n_samples, ce_param_abs); with `structure` in
the settings one a unit of another (models/structures/).

ce_param_abs = sum over the neuron's gate row, up row and down column of |w sum_x dCE(x)/dw|, or over a key-value
group's rows of q, k and v and columns of o.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def parameter_gradients(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    data: Annotated[Path, typer.Option(help="parquet of the calibration split")],
    output: Annotated[Path, typer.Option(help="parquet to write")],
    memory_mb: Annotated[int | None, typer.Option(help="memory the job may take on a CPU; else no bound")] = None,
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    import pandas as pd
    from tqdm import tqdm

    from pruning.calibration import parameter_gradients as pg
    from pruning.calibration import prepare
    from pruning.core import artifacts, layer_files, out_of_memory
    from pruning.models.checkpointing import checkpoint_gradients

    network, _, batches = prepare.loaded(model, data, settings, threads, None)  # it takes as many layers as fit
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)
    structure = settings.get("structure", "ffn")
    layers = pg.layers_that_fit(network, memory_mb and memory_mb * 10**6, structure)
    print(f"{layers} layers a pass of {network.config.num_hidden_layers}")
    progress = partial(tqdm, desc="micro-batches", mininterval=5)
    with out_of_memory.advise(prepare.advice(settings)):
        frames = [
            pd.DataFrame({"layer": layer, "unit": range(len(values)), "ce_param_abs": values.numpy()})
            for layer, values in enumerate(pg.parameter_taylor(network, batches, layers, progress, structure))
        ]
    frame = pd.concat(frames, ignore_index=True)
    frame.insert(2, "n_samples", float(sum(len(batch.samples) for batch in batches)))
    artifacts.write_parquet(output, frame, layer_files.kind_of("parameter_taylor", structure), settings)


if __name__ == "__main__":
    cli.run(parameter_gradients)
