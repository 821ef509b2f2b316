"""Refit what is left of one pruned variant on what it sees itself, one file per layer: for compensations that REQUIRE
such files (methods/compensation/)."""

import shutil
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
    """Settings: a calibration's, the `scheme`, and where that trains `training`, how: each layer is then kept for a run
    after a kill."""
    from tqdm import tqdm

    from pruning.calibration import footprint, prepare
    from pruning.calibration.second_moments import token_counts
    from pruning.core import artifacts, layer_files, out_of_memory
    from pruning.methods import masks
    from pruning.methods import refit as fitting
    from pruning.models.checkpoint import Checkpoint

    plan = settings.get("training")
    keeps = masks.read(mask, model, Checkpoint(model).widths)
    network, _, batches = prepare.loaded(model, data, settings, threads, footprint.REFIT)
    widths = masks.counts(keeps)[masks.NEURONS]
    content = {**token_counts(batches), "layers": len(widths), "widths": widths, "records": []}
    made_from = [file for file in (model / "manifest.json", data, mask) if file.is_file()]
    identity = artifacts.key_of(*map(artifacts.file_hash, made_from), settings)
    unfinished = output.with_name(f".{output.name}.{identity}")

    def layers():
        progress = partial(tqdm, desc="layers", mininterval=5)
        known = partial(layer_files.kept, unfinished)
        for layer, (weights, record) in enumerate(
            fitting.refit(network, batches, keeps, settings["scheme"], progress, known, plan)
        ):
            content["records"].append(record)
            if plan:
                layer_files.keep(unfinished, layer, weights, record)
            yield weights

    with out_of_memory.advise(f"`micro_batch: {settings['micro_batch']}`: lower it"):
        layer_files.write(output, manifest, "refit", settings, layers(), content)
    shutil.rmtree(unfinished, ignore_errors=True)


if __name__ == "__main__":
    cli.run(refit)
