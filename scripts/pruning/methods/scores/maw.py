"""Maximum absolute weight, a baseline that looks at weights only: Martra 2025 (arXiv 2512.22671), as optipfair 0.4.2
computes it (`compute_neuron_pair_importance_maw` in optipfair/pruning/mlp_glu.py, called PPM there as well)."""

import numpy as np

from pruning.methods.scores import Layer


def score(layer: Layer) -> np.ndarray:
    """S_c = max_i G_ci + |min_i G_ci| + max_i U_ci + |min_i U_ci|, of the rows of gate and up; float64 [n]."""
    rows = (matrix.astype(np.float64) for matrix in (layer.weights.gate, layer.weights.up))
    return sum(own.max(axis=1) + np.abs(own.min(axis=1)) for own in rows)
