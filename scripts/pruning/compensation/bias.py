"""FLAP's bias compensation (An et al. 2024, arXiv 2312.11983)."""

from collections.abc import Mapping

import numpy as np


def down_bias(down: np.ndarray, keep: np.ndarray, statistics: Mapping[str, np.ndarray]) -> np.ndarray:
    """b += W[:, removed] mean(a)[removed]: the mean output of the removed neurons; down is [d, n], keep bool [n]."""
    mean = statistics["act_sum"] / statistics["n_tokens"]
    return (down[:, ~keep].astype(np.float64) @ mean[~keep]).astype(np.float32)
