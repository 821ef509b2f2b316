"""Wanda-Struct: weight magnitude times input activation norm (Sun et al. 2024, arXiv 2306.11695, averaged over a
neuron's outgoing weights as in FLAP's and CFSP's structured baselines)."""

import numpy as np

from pruning.methods.scores import Layer

CHANNELS = True


def score(layer: Layer) -> np.ndarray:
    """S_c = mean_i |W_ic| * ||a_c||_2, W = down_proj [d, n], norm over calibration tokens."""
    return np.abs(layer.weights.down).mean(axis=0, dtype=np.float64) * np.sqrt(layer["act_sq_sum"])
