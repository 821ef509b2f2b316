"""Turn scores into a mask at one sparsity: one row a neuron (layer, unit, keep)."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def mask(
    settings: cli.Settings,
    scores: Annotated[Path, typer.Option(help="scores of one method")],
    layers: Annotated[Path, typer.Option(help="layers.parquet of the calibration")],
    base: Annotated[Path, typer.Option(help="manifest.json of the model")],
    sparsity: Annotated[int, typer.Option(help="per cent of FFN neurons to remove")],
    output: Annotated[Path, typer.Option()],
) -> None:
    import numpy as np

    from pruning.core import artifacts
    from pruning.methods import allocation

    cli.phase("start-up")
    frame = artifacts.read_parquet(scores, "scores").sort_values(["layer", "unit"], ignore_index=True)
    per_layer = artifacts.read_parquet(layers, "layers").sort_values("layer")
    values = [rows.to_numpy() for _, rows in frame.groupby("layer")["score"]]
    sizes = np.array([len(v) for v in values])
    original = np.array(artifacts.read_json(base, "base")["original"]["widths"])
    problem = allocation.Problem(
        scores=values,
        original=original,
        sparsity=sparsity,
        importance=(per_layer["angular_sum"] / per_layer["n_tokens"]).to_numpy(),
        floor=np.minimum(allocation.floors(original, settings["min_keep"]), sizes),
    )
    scheme = importlib.import_module(f"pruning.methods.allocation.{settings['allocate']}")
    widths = allocation.finish(scheme.widths(problem, **settings["options"]), problem, settings["round_to"])
    frame["keep"] = np.concatenate(allocation.masks(values, widths))
    artifacts.write_parquet(output, frame[["layer", "unit", "keep"]], "mask", {**settings, "sparsity": sparsity})
    print(f"asked {sparsity / 100:.1%}, achieved {1 - widths.sum() / original.sum():.1%}; widths {widths.tolist()}")


if __name__ == "__main__":
    cli.run(mask)
