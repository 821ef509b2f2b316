"""Second moments of every layer's down_proj inputs over the calibration text, for `compensate: ridge`; with `structure`
in the settings those of another's sites (models/structures/), as of attention's channels for the score `obs`.

Writes a file {layer}.safetensors a layer (`fit` and `held_out`, float32 [n, n]) and a manifest with token counts.
"""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def second_moments(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    data: Annotated[Path, typer.Option(help="parquet of the calibration split")],
    output: Annotated[Path, typer.Option(help="directory for a file a layer")],
    manifest: Annotated[Path | None, typer.Option(help="JSON; else manifest.json in the output directory")] = None,
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    from tqdm import tqdm

    from pruning.calibration import prepare
    from pruning.calibration import second_moments as moments
    from pruning.core import layer_files, out_of_memory
    from pruning.models import structures

    network, _, batches = prepare.loaded(model, data, settings, threads, moments.STAGE)
    counts, structure = moments.token_counts(batches), settings.get("structure", "ffn")
    sites = structures.sites(network, structure)
    widths = [site.in_features for site in sites]
    content = {**counts, "layers": len(widths), "widths": widths}
    with out_of_memory.advise(f"`micro_batch: {settings['micro_batch']}`: lower it"):
        layers = tqdm(moments.second_moments(network, batches, sites), "layers", total=len(widths), mininterval=5)
        kind = layer_files.kind_of("second_moments", structure)
        layer_files.write(output, manifest, kind, settings, layers, content)


if __name__ == "__main__":
    cli.run(second_moments)
