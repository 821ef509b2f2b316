"""FLAP's bias compensation (An et al. 2024, arXiv 2312.11983), always part of the original.

Checked against FLAP as wyxscir/CFSP carries it, at b2d5b13: lib/prune.py lines 197 and 206.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pruning.core import artifacts
from pruning.methods.compensation import Compensated

REQUIRES = ("statistics",)
BIAS = True


def evidence(path: Path, widths: Sequence[int]) -> Callable[[int], dict[str, np.ndarray]]:
    """A layer's columns of statistics.parquet, each float64 [n]."""
    return by_layer(artifacts.read_parquet(path, "statistics"))


def by_layer(frame: pd.DataFrame) -> Callable[[int], dict[str, np.ndarray]]:
    """The same of the table's rows."""
    rows = dict(list(frame.groupby("layer")))  # of a layer without neurons there are none
    return lambda layer: {name: column.to_numpy() for name, column in rows.get(layer, frame.iloc[:0]).items()}


def compensate(down: np.ndarray, keep: np.ndarray, evidence: Mapping[str, np.ndarray]) -> Compensated:
    """b += W[:, removed] mean(a)[removed]: the mean output of the removed neurons."""
    mean = evidence["act_sum"] / evidence["n_tokens"]
    bias = (down[:, ~keep].astype(np.float64) @ mean[~keep]).astype(np.float32)
    return Compensated(down[:, keep], bias, {"bias_norm": float(np.linalg.norm(bias))})
