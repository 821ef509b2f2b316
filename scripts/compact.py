"""Cut a mask's neurons out of the dense model: a loadable model directory, and a manifest of what it holds."""

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
    evidence: Annotated[
        Path | None, typer.Option(help="statistics.parquet or second_moments.json, where the compensation needs it")
    ] = None,
) -> None:

    from pruning.core import artifacts, chain
    from pruning.methods import masks
    from pruning.methods.compact import achieved, compensation, keeps_of, loader_of, refits_attention, write_compact
    from pruning.models.checkpoint import Checkpoint, read_config
    from pruning.models.structures import kv_groups

    cli.phase("start-up")
    artifacts.check_model(model)
    base = Checkpoint(model)
    original = artifacts.read_json(base_manifest, "base")["original"]
    keeps, groups = keeps_of(mask, base), masks.groups_of(mask)
    widths = [int(keep.sum()) for keep in keeps]
    compensated, records = compensation(settings["compensate"], evidence, base, keeps), {}

    def compensate(layer: int):
        made = compensated(layer)
        records[layer] = made.record
        if "warning" in made.record:
            print(f"warning: layer {layer}: {made.record['warning']}", flush=True)
        return made

    with artifacts.atomic_directory(output) as directory:
        attention = refits_attention(settings["compensate"])
        own = compensate if compensated else None
        write_compact(base, directory, keeps, own, settings["export"], attention, groups)
    content = {
        "original": original,
        "achieved_sparsity": achieved(base, original["widths"], widths, groups),
        "widths": widths,
        **({"kv_groups": left} if (left := kv_groups.listed(read_config(output))) else {}),
        "parameters": original["parameters"],
        "parameters_kept": Checkpoint(output).parameters,
        "loads_with": loader_of(output),
        "files": artifacts.directory_hashes(output),
    }
    if compensated:
        content["compensation"] = [records[layer] for layer in range(base.layers)]
    artifacts.write_json(manifest, content, "compact", settings)
    chain.remember(output, manifest, content["files"])


if __name__ == "__main__":
    cli.run(compact)
