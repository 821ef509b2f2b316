"""Score every FFN neuron by one method: results/{model}/scores/{calib}/{method}.parquet (layer, neuron, score)."""

import importlib
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pruning import cli


def score(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    statistics: Annotated[Path, typer.Option(help="statistics.parquet")],
    output: Annotated[Path, typer.Option()],
) -> None:
    import numpy as np
    import pandas as pd

    from pruning import artifacts
    from pruning.normalise import NORMALISATIONS
    from pruning.scores import Layer, Weights

    cli.phase("start-up")
    function = importlib.import_module(f"pruning.scores.{settings['score']}").score
    normalise = NORMALISATIONS[settings["normalise"]]

    def load_weights(layer: int) -> Weights:
        from pruning.checkpoint import Checkpoint  # needs torch, which most scores do not

        checkpoint = Checkpoint(model)
        return Weights(*(checkpoint.matrix(layer, proj) for proj in ("gate", "up", "down")))

    frames = []
    for index, rows in artifacts.read_parquet(statistics, "statistics").groupby("layer"):
        columns = {name: rows[name].to_numpy() for name in rows.columns}
        try:
            values = normalise(function(Layer(index, columns, partial(load_weights, index)), **settings["options"]))
        except (TypeError, ValueError) as error:
            raise cli.InputError(f"score {settings['score']!r} with options {settings['options']}: {error}") from None
        if settings["shuffle"] is not None:
            values = np.random.default_rng((settings["shuffle"], index)).permutation(values)
        if not np.isfinite(values).all():
            raise cli.InputError(f"score {settings['score']!r}: NaN or Inf in layer {index} of {statistics}")
        frames.append(pd.DataFrame({"layer": index, "neuron": columns["neuron"], "score": values}))
    artifacts.write_parquet(output, pd.concat(frames, ignore_index=True), "scores", settings)


if __name__ == "__main__":
    cli.run(score)
