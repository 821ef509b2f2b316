"""Measure what cutting each layer costs: one row a cut (layer, width, divergence, passes), in the order of the cuts;
with `groups` in the settings also what cutting key-value groups costs (structure)."""

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
    attention: Annotated[Path | None, typer.Option(help="the same of attention's channels")] = None,
    threads: int = 1,
) -> None:
    """Settings: a calibration's, of which the first `probed` samples are looked at; `search` (`layers` or `greedy`)
    and `min_keep`, or `drop_layers` in its place."""
    cli.set_threads(threads)
    import pandas as pd
    from tqdm import tqdm

    from pruning.calibration import footprint, prepare, second_moments
    from pruning.core import artifacts, out_of_memory
    from pruning.methods import allocation, masks
    from pruning.methods import sensitivity as measuring
    from pruning.methods.compensation import ridge
    from pruning.models.checkpoint import Checkpoint

    base = Checkpoint(model)
    original = artifacts.read_json(model / "manifest.json", "base")["original"]["widths"]
    least = {masks.NEURONS: allocation.least(original, base.widths, settings.get("min_keep"))}
    sides = {masks.NEURONS: (base.matrix, base.widths, evidence)}
    if settings.get("groups"):
        least[masks.GROUPS] = [0 if settings.get("drop_layers") else 1] * base.layers
        sides[masks.GROUPS] = (base.attention_matrix, base.channels, attention)

    def fit_of(structure: str) -> measuring.Fit | None:
        matrix, widths, moments = sides[structure]
        if moments is None:
            return None
        of_layer = second_moments.read(moments, widths, structure)
        return lambda layer, keep: ridge.compensate(matrix(layer, "down"), keep, of_layer(layer))

    network, _, batches = prepare.loaded(model, data, settings, threads, footprint.SENSITIVITY)
    batches = prepare.first_samples(batches, settings["probed"])
    search, frames, passes = getattr(measuring, settings["search"]), [], 0.0
    with out_of_memory.advise(f"`micro_batch: {settings['micro_batch']}`: lower it"):
        for structure in sides:
            ranked = masks.by_layer(masks.rows(scores, "scores", structure), "score", base.layers)
            probe = measuring.Probe(network, batches, ranked, least[structure], fit_of(structure), structure)
            bar = partial(tqdm, desc=f"{settings['search']}, {structure}", mininterval=5)
            rows = [(*row, passes + probe.passes) for row in search(probe, bar)]
            frames.append(pd.DataFrame(rows, columns=["layer", "width", "divergence", "passes"]))
            frames[-1] = frames[-1].assign(structure=structure) if len(sides) > 1 else frames[-1]
            passes += probe.passes
    found = pd.concat(frames, ignore_index=True)
    artifacts.write_parquet(output, found, "sensitivity", settings)
    samples = sum(len(batch.samples) for batch in batches)
    print(f"{len(found)} cuts of {base.layers} layers: {passes:.1f} forward passes over {samples} samples")


if __name__ == "__main__":
    cli.run(sensitivity)
