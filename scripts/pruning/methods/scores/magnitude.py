"""Null baseline that looks at weights only: no data."""

import numpy as np

from pruning.methods.scores import Layer


def score(layer: Layer) -> np.ndarray:
    """S_c = ||G_c||_2 + ||U_c||_2 + ||W_c||_2: norms of the neuron's gate row, up row and down column."""
    gate, up, down = (m.astype(np.float64) for m in (layer.weights.gate, layer.weights.up, layer.weights.down))
    return np.linalg.norm(gate, axis=1) + np.linalg.norm(up, axis=1) + np.linalg.norm(down, axis=0)
