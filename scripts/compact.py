"""Cut a mask's units out of the dense model: a loadable model directory, and a manifest of what it holds."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def compact(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    base_manifest: Annotated[Path, typer.Option("--base", help="its manifest.json")],
    mask: Annotated[Path, typer.Option(help="layer, unit, keep")],
    output: Annotated[Path, typer.Option(help="directory of the compact model")],
    manifest: Annotated[Path, typer.Option(help="manifest.json to write")],
    evidence: Annotated[Path | None, typer.Option(help="what the compensation is fitted on, where it is")] = None,
    data: Annotated[
        Path | None, typer.Option(help="parquet of the calibration split, to prune the vocabulary by")
    ] = None,
) -> None:

    from pruning.core import artifacts, chain
    from pruning.methods import tokens
    from pruning.methods.compact import Pruning

    cli.phase("start-up")
    pruning, cut = Pruning.read(model, mask, settings["compensate"], evidence), {}
    if data:
        kept, said = tokens.chosen(model, data, settings)
        pruning, cut = replace(pruning, tokens=kept), {"vocabulary": said}
    original = artifacts.read_json(base_manifest, "base")["original"]
    with artifacts.atomic_directory(output) as directory:
        pruning.write(directory, settings["export"])
    for layer, warning in pruning.warnings.items():
        print(f"warning: layer {layer}: {warning}")
    content = pruning.manifest(output, original, cut)
    artifacts.write_json(manifest, content, "compact", settings)
    chain.remember(output, manifest, content["files"])


if __name__ == "__main__":
    cli.run(compact)
