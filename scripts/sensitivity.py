"""Measure what cutting each layer costs: one row a cut (layer, width, divergence, passes), in the order of the cuts;
of several structures also which one is cut (structure)."""

from collections.abc import Sequence
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
    evidence: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=PATH", help="manifest of second moments, where what is left is refitted; repeat"),
    ] = None,
    structure: Annotated[list[str] | None, typer.Option(help="whose units are cut; repeat")] = None,
    threads: int = 1,
) -> None:
    """Settings: a calibration's, of which the first `probed` samples are looked at; `search` (`layers` or `greedy`)
    and `min_keep`, or `drop_layers` in its place."""
    import pandas as pd
    from tqdm import tqdm

    from pruning.calibration import footprint, prepare, second_moments
    from pruning.core import artifacts, layer_files, out_of_memory
    from pruning.methods import allocation, masks
    from pruning.methods import sensitivity as measuring
    from pruning.methods.compensation import ridge
    from pruning.models.checkpoint import Checkpoint

    base = Checkpoint(model)
    original = artifacts.read_json(model / "manifest.json", "base")["original"]["widths"]
    given = {kind: Path(path) for kind, path in (pair.split("=", 1) for pair in evidence or ())}
    structures = structure or [masks.NEURONS]

    def least_of(name: str) -> Sequence[int]:
        if name == masks.NEURONS:
            return allocation.least(original, base.widths, settings.get("min_keep"))
        return [0 if settings.get("drop_layers") else 1] * base.layers

    def fit_of(name: str) -> measuring.Fit | None:
        if (kind := layer_files.kind_of("second_moments", name)) not in given:
            return None
        of_layer = second_moments.read(given[kind], base.channels(name), name)
        return lambda layer, keep: ridge.compensate(base.matrix(layer, "down", name), keep, of_layer(layer))

    network, _, batches = prepare.loaded(model, data, settings, threads, footprint.SENSITIVITY)
    batches = prepare.first_samples(batches, settings["probed"])
    search, frames, passes = getattr(measuring, settings["search"]), [], 0.0
    with out_of_memory.advise(f"`micro_batch: {settings['micro_batch']}`: lower it"):
        for name in structures:
            ranked = masks.by_layer(masks.rows(scores, "scores", name), "score", base.layers)
            probe = measuring.Probe(network, batches, ranked, least_of(name), fit_of(name), name)
            bar = partial(tqdm, desc=f"{settings['search']}, {name}", mininterval=5)
            rows = [(*row, passes + probe.passes) for row in search(probe, bar)]
            frames.append(pd.DataFrame(rows, columns=["layer", "width", "divergence", "passes"]))
            frames[-1] = frames[-1].assign(structure=name) if len(structures) > 1 else frames[-1]
            passes += probe.passes
    found = pd.concat(frames, ignore_index=True)
    artifacts.write_parquet(output, found, "sensitivity", settings)
    samples = sum(len(batch.samples) for batch in batches)
    print(f"{len(found)} cuts of {base.layers} layers: {passes:.1f} forward passes over {samples} samples")


if __name__ == "__main__":
    cli.run(sensitivity)
