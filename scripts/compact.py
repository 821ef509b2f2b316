"""Cut a mask's neurons out of the dense model: a loadable model directory, and a manifest of what it holds."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from pruning import cli


def compact(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the dense model")],
    mask: Annotated[Path, typer.Option(help="layer, neuron, keep")],
    output: Annotated[Path, typer.Option(help="directory of the compact model")],
    manifest: Annotated[Path, typer.Option(help="manifest.json to write")],
    statistics: Annotated[Path | None, typer.Option(help="statistics.parquet, where the compensation needs it")] = None,
) -> None:
    import numpy as np

    from pruning import artifacts
    from pruning.checkpoint import Checkpoint
    from pruning.compact import write_compact

    cli.phase("start-up")
    base = Checkpoint(model)
    keeps = [rows.to_numpy() for _, rows in artifacts.read_parquet(mask, "mask").groupby("layer")["keep"]]
    if [len(keep) for keep in keeps] != base.widths:
        raise cli.InputError(
            f"{mask}: not a mask of {model}: layer widths {[len(k) for k in keeps]}, not {base.widths}"
        )
    bias = None
    if settings["compensate"] != "none":
        scheme = importlib.import_module(f"pruning.compensation.{settings['compensate']}")
        rows = dict(list(artifacts.read_parquet(statistics, "statistics").groupby("layer")))
        bias = {
            layer: scheme.down_bias(
                base.matrix(layer, "down"), keep, {n: rows[layer][n].to_numpy() for n in rows[layer]}
            )
            for layer, keep in enumerate(keeps)
        }
    with artifacts.atomic_directory(output) as directory:
        write_compact(base, directory, keeps, bias, settings["export"])
    content = {
        "achieved_sparsity": 1 - float(np.concatenate(keeps).mean()),
        "widths": [int(keep.sum()) for keep in keeps],
        "parameters": base.parameters,
        "parameters_kept": Checkpoint(output).parameters,
        "files": artifacts.directory_hashes(output),
    }
    artifacts.write_json(manifest, content, "compact", settings)


if __name__ == "__main__":
    cli.run(compact)
