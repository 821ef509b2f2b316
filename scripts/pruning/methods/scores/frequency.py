"""How often an expert is chosen: a baseline for mixtures of experts that looks at the router alone."""

import numpy as np

from pruning.methods.scores import Layer

MIXTURES = True


def score(layer: Layer) -> np.ndarray:
    """S_j = share of the calibration tokens that are sent to expert j; float64 [experts]."""
    return (layer["routed_tokens"] / layer["n_tokens"])[:: layer.block]
