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
    from pruning.models.checkpoint import Checkpoint, read_config
    from pruning.models.structures import others

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
    config, left = read_config(output), {name: own for name, own in pruning.units.items() if name != pruning.main}
    content = {
        "original": original,
        "achieved_sparsity": pruning.achieved(original["widths"]),
        "widths": pruning.units[pruning.main],
        **({"counted": pruning.main, **left} if pruning.base.family.mixture else {}),
        **others(config),
        **cut,
        "parameters": original["parameters"],
        "parameters_kept": Checkpoint(output).parameters,
        "loads_with": "transformers" + (", trust_remote_code=True" if "auto_map" in config else ""),
        "files": artifacts.directory_hashes(output),
    }
    if pruning.compensate:
        content["compensation"] = [pruning.records[layer] for layer in range(pruning.base.layers)]
    artifacts.write_json(manifest, content, "compact", settings)
    chain.remember(output, manifest, content["files"])


if __name__ == "__main__":
    cli.run(compact)
