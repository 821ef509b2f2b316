"""Cut a mask's units out of the dense model: a loadable model directory, and a manifest of what it holds."""

from dataclasses import replace
from pathlib import Path

from pruning.core import cli


def compact(
    settings: cli.Settings,
    model: Path,
    base: Path,
    mask: Path,
    output: Path,
    manifest: Path,
    evidence: Path | None = None,
    data: Path | None = None,
) -> None:
    """model: directory of the dense model. base: its manifest.json. mask: layer, unit, keep. output: directory of the
    compact model. manifest: manifest.json to write. evidence: what the compensation is fitted on, where it is. data:
    parquet of the calibration split, to prune the vocabulary by."""
    from pruning.core import artifacts, chain
    from pruning.methods import tokens
    from pruning.methods.compact import Pruning

    pruning, cut = Pruning.read(model, mask, settings["compensate"], evidence), {}
    if data:
        kept, said = tokens.chosen(model, data, settings)
        pruning, cut = replace(pruning, tokens=kept), {"vocabulary": said}
    original = artifacts.read_json(base, "base")["original"]
    with artifacts.atomic_directory(output) as directory:
        pruning.write(directory, settings["export"])
    for layer, warning in pruning.warnings.items():
        print(f"warning: layer {layer}: {warning}")
    content = pruning.manifest(output, original, cut)
    artifacts.write_json(manifest, content, "compact", settings)
    chain.remember(output, manifest, content["files"])


if __name__ == "__main__":
    cli.run(compact)
