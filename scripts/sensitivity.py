"""Measure what cutting each layer costs: one row a cut (layer, width, divergence, passes), in the order of the cuts."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def sensitivity(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    data: Annotated[Path, typer.Option(help="parquet of the calibration split")],
    scores: Annotated[Path, typer.Option(help="which neurons of a layer stay")],
    output: Annotated[Path, typer.Option(help="parquet to write")],
    evidence: Annotated[Path | None, typer.Option(help="second_moments.json, where what is left is refitted")] = None,
    threads: int = 1,
) -> None:
    """Settings: a calibration's, of which the first `probed` samples are looked at; `search` (`layers` or `greedy`)
    and `min_keep`, or `drop_layers` in its place."""
    cli.set_threads(threads)
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from pruning.calibration import prepare, second_moments
    from pruning.core import artifacts, out_of_memory
    from pruning.methods import allocation, masks
    from pruning.methods import sensitivity as measuring
    from pruning.methods.compensation import ridge
    from pruning.models.checkpoint import Checkpoint

    base = Checkpoint(model)
    original = artifacts.read_json(model / "manifest.json", "base")["original"]["widths"]
    least = allocation.least(original, base.widths, settings.get("min_keep"))
    fit = None
    if evidence is not None:
        of_layer = second_moments.read(evidence, base.widths)

        def fit(layer: int, keep: np.ndarray):
            return ridge.compensate(base.matrix(layer, "down"), keep, of_layer(layer))

    ranked = masks.by_layer(masks.rows(scores, "scores"), "score", base.layers)
    network, _, batches = prepare.loaded(model, data, settings, threads, "sensitivity")
    batches = prepare.first_samples(batches, settings["probed"])
    with out_of_memory.advise(f"`micro_batch: {settings['micro_batch']}`: lower it"):
        probe = measuring.Probe(network, batches, ranked, least, fit)
        search = getattr(measuring, settings["search"])
        rows = [(*row, probe.passes) for row in search(probe, partial(tqdm, desc=settings["search"], mininterval=5))]
    found = pd.DataFrame(rows, columns=["layer", "width", "divergence", "passes"])
    artifacts.write_parquet(output, found, "sensitivity", settings)
    samples = sum(len(batch.samples) for batch in batches)
    print(f"{len(found)} cuts of {len(ranked)} layers: {probe.passes:.1f} forward passes over {samples} samples")


if __name__ == "__main__":
    cli.run(sensitivity)
