"""Kept width of every layer: model, calib, method, sparsity, layer, width, dense_width, kept_share."""

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def widths(
    settings: cli.Settings,
    masks: Annotated[str, typer.Option(help="template of a mask's path: {model}, {calib}, {method}, {sparsity}")],
    output: Annotated[Path, typer.Option(help="CSV")],
) -> None:
    """Settings: `models`, `calib`, `methods`, `sparsities` (whole per cent; fractions in the CSV)."""
    import pandas as pd

    from pruning.core import artifacts, names
    from pruning.methods.masks import rows as neurons

    frames, calib = [], settings["calib"]
    for model, method, sparsity in product(settings["models"], settings["methods"], settings["sparsities"]):
        path = Path(masks.format(model=model, calib=calib, method=method, sparsity=sparsity))
        mask = neurons(path, "mask")
        kept = mask.groupby("layer")["keep"].agg(width="sum", dense_width="size", kept_share="mean").reset_index()
        named = {"model": model, "calib": calib, "method": method, "sparsity": names.share(sparsity)}
        frames.append(kept.assign(**named)[[*named, *kept.columns]])
    artifacts.write_csv(output, pd.concat(frames, ignore_index=True), settings)


if __name__ == "__main__":
    cli.run(widths)
