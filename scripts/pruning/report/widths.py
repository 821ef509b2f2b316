"""The units that each layer keeps, by method."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from pruning.core import artifacts, names
from pruning.methods import masks
from pruning.report.files import Files


def write(files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write a CSV: model, calib, method, sparsity (a fraction), layer, width, dense_width, kept_share.

    Files: `masks`, a template. Settings: `models`, `calib`, `methods`, `sparsities` (whole per cent)."""
    frames, calib = [], settings["calib"]
    for model, method, sparsity in product(settings["models"], settings["methods"], settings["sparsities"]):
        frame = artifacts.read_parquet(
            files.at("masks", model=model, calib=calib, method=method, sparsity=sparsity), "mask"
        )
        mask = masks.of(frame, masks.structures_of(frame)[0])  # neurons, or a mixture's experts
        kept = mask.groupby("layer")["keep"].agg(width="sum", dense_width="size", kept_share="mean").reset_index()
        named = {"model": model, "calib": calib, "method": method, "sparsity": names.share(sparsity)}
        frames.append(kept.assign(**named)[[*named, *kept.columns]])
    artifacts.write_csv(outputs[0], pd.concat(frames, ignore_index=True), settings)
