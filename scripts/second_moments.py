"""Second moments of every layer's down_proj inputs over the calibration text, for `compensate: ridge`.

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
    from safetensors.torch import save_file
    from tqdm import tqdm

    from pruning.calibration import prepare
    from pruning.calibration import second_moments as moments
    from pruning.core import artifacts, chain, out_of_memory
    from pruning.models.structures import ffn

    network, _, batches = prepare.loaded(model, data, settings, threads, "second_moments")
    counts = moments.token_counts(batches)
    widths = [site.in_features for site in ffn.sites(network)]
    with (
        artifacts.atomic_directory(output) as directory,
        out_of_memory.advise(f"`micro_batch: {settings['micro_batch']}`: lower it"),
    ):
        layers = moments.second_moments(network, batches)
        for layer, sums in enumerate(tqdm(layers, "layers", total=len(widths), mininterval=5)):
            save_file(sums, directory / f"{layer}.safetensors")
        content = {**counts, "layers": len(widths), "widths": widths, "files": artifacts.directory_hashes(directory)}
        if manifest is None:
            artifacts.write_json(directory / "manifest.json", content, "second_moments", settings)
    if manifest is not None:
        artifacts.write_json(manifest, content, "second_moments", settings)
        chain.remember(output, manifest, content["files"])


if __name__ == "__main__":
    cli.run(second_moments)
