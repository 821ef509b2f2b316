"""Prune in rounds and measure again after each: one row a neuron (layer, unit, place), its place in the order."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def rounds(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    data: Annotated[Path, typer.Option(help="parquet of the calibration split")],
    output: Annotated[Path, typer.Option(help="parquet to write")],
    threads: int = 1,
) -> None:
    """Settings: a calibration's, with its `rounds`."""
    import pandas as pd
    from tqdm import tqdm

    from pruning.calibration import footprint, prepare
    from pruning.calibration.second_moments import token_counts
    from pruning.core import artifacts, out_of_memory
    from pruning.methods import rounds as pruning

    first, _, batches = prepare.loaded(model, data, settings, threads, footprint.ROUNDS)
    token_counts(batches)  # refuses what leaves none to hold out
    models = [first]
    del first

    def load():
        return models.pop() if models else prepare.dense(model, settings)[0]

    progress = partial(tqdm, desc="rounds", mininterval=5)
    with out_of_memory.advise(prepare.advice(settings)):
        places = pruning.removal_order(load, batches, settings["rounds"], settings["seed"], progress=progress)
    frames = [pd.DataFrame({"layer": i, "unit": range(len(own)), "place": own}) for i, own in enumerate(places)]
    artifacts.write_parquet(output, pd.concat(frames, ignore_index=True), "rounds", settings)


if __name__ == "__main__":
    cli.run(rounds)
