"""FLAP's weighted input feature variance, WIFV (An et al. 2024, arXiv 2312.11983)."""

import numpy as np

from pruning.methods.scores import Layer

CHANNELS = True


def score(layer: Layer) -> np.ndarray:
    """S_c = Var_t(a_c) * sum_i W_ic^2, the plain (unbiased) variance over calibration tokens.

    The released code's running variance aliases its old and new mean; this one merges exactly."""
    n, mean = layer["n_tokens"], layer["act_sum"] / layer["n_tokens"]
    variance = (layer["act_sq_sum"] - n * mean**2) / (n - 1)
    return np.maximum(variance, 0) * np.square(layer.weights.down, dtype=np.float64).sum(axis=0)
