"""Minitron's activation importance (Muralidharan et al. 2024, arXiv 2407.14679): L2 over samples, mean over tokens."""

import numpy as np

from pruning.methods.scores import Layer

CHANNELS = True


def score(layer: Layer) -> np.ndarray:
    """S_c = sqrt( sum_x (mean_t |a_c|)^2 )."""
    return np.sqrt(layer["act_mean_abs_sq_sum"])
