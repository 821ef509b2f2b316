"""Refit what is left of one pruned variant on what it sees itself, one file per layer: for compensations that REQUIRE
such files (methods/compensation/)."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def refit(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    data: Annotated[Path, typer.Option(help="parquet of the calibration split")],
    mask: Annotated[Path, typer.Option(help="layer, unit, keep")],
    output: Annotated[Path, typer.Option(help="directory for one file per layer")],
    manifest: Annotated[Path, typer.Option(help="JSON to write")],
    threads: int = 1,
) -> None:
    """Settings: a calibration's, and the `scheme`."""
    from tqdm import tqdm

    from pruning.calibration import footprint, prepare
    from pruning.calibration.second_moments import token_counts
    from pruning.core import layer_files, out_of_memory
    from pruning.methods import masks
    from pruning.methods import refit as fitting
    from pruning.models.checkpoint import Checkpoint

    keeps = masks.read(mask, model, Checkpoint(model).widths)
    network, _, batches = prepare.loaded(model, data, settings, threads, footprint.REFIT)
    widths = masks.counts(keeps)[masks.NEURONS]
    content = {**token_counts(batches), "layers": len(widths), "widths": widths, "records": []}

    def layers():
        progress = partial(tqdm, desc="layers", mininterval=5)
        for weights, record in fitting.refit(network, batches, keeps, settings["scheme"], progress):
            content["records"].append(record)
            yield weights

    with out_of_memory.advise(f"`micro_batch: {settings['micro_batch']}`: lower it"):
        layer_files.write(output, manifest, "refit", settings, layers(), content)


if __name__ == "__main__":
    cli.run(refit)
