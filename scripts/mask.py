"""Turn scores into a mask at one sparsity: one row a neuron (layer, unit, keep), and a key-value group, where those are
cut as well (structure)."""

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
    measured: Annotated[Path | None, typer.Option(help="what cuts cost, for allocations that ask for it")] = None,
    latencies: Annotated[Path | None, typer.Option(help="latency table, for allocations that ask for it")] = None,
) -> None:
    import numpy as np
    import pandas as pd

    from pruning.core import artifacts
    from pruning.methods import allocation, masks

    cli.phase("start-up")
    frame = artifacts.read_parquet(scores, "scores")
    original = artifacts.read_json(base, "base")["original"]["widths"]
    problem = allocation.problem_of(
        frame,
        artifacts.read_parquet(layers, "layers"),
        original,
        settings.get("min_keep"),
        artifacts.read_parquet(measured, "sensitivity") if measured else None,
        artifacts.read_parquet(latencies, "latency_table") if latencies else None,
    )
    widths = allocation.widths(problem, sparsity, settings)
    neurons = masks.of(frame, masks.NEURONS)
    neurons["keep"] = np.concatenate(allocation.masks(problem.scores, widths))
    found = neurons[["layer", "unit", "keep"]]
    if (counts := allocation.counts(problem, sparsity, settings)) is not None:
        groups = masks.of(frame, masks.GROUPS)
        groups["keep"] = np.concatenate(allocation.masks(problem.groups, counts))
        found = pd.concat([neurons, groups], ignore_index=True)[["structure", "layer", "unit", "keep"]]
        print(f"key-value groups {counts.tolist()}")
    artifacts.write_parquet(output, found, "mask", {**settings, "sparsity": sparsity})
    print(f"asked {sparsity / 100:.1%}, achieved {1 - widths.sum() / sum(original):.1%}; widths {widths.tolist()}")


if __name__ == "__main__":
    cli.run(mask)
