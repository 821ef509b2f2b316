"""Measure what cutting each layer costs: one row a cut (layer, width, divergence, passes), in the order of the cuts;
of several structures also which one is cut (structure)."""

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
    from tqdm import tqdm

    from pruning.calibration import footprint, prepare
    from pruning.core import artifacts, out_of_memory
    from pruning.methods import masks
    from pruning.methods import sensitivity as measuring

    given = {kind: Path(path) for kind, path in (pair.split("=", 1) for pair in evidence or ())}
    cuts = measuring.Cuts(model, scores, given, settings)
    network, _, batches = prepare.loaded(model, data, settings, threads, footprint.SENSITIVITY)
    batches, structures = prepare.first_samples(batches, settings["probed"]), structure or [masks.NEURONS]
    bar = partial(tqdm, mininterval=5)
    with out_of_memory.advise(f"`micro_batch: {settings['micro_batch']}`: lower it"):
        found, passes = cuts.measured(network, batches, structures, bar)
    artifacts.write_parquet(output, found, "sensitivity", settings)
    samples = sum(len(batch.samples) for batch in batches)
    print(f"{len(found)} cuts of {cuts.base.layers} layers: {passes:.1f} forward passes over {samples} samples")


if __name__ == "__main__":
    cli.run(sensitivity)
