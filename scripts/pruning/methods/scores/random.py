"""Null baseline: seeded noise. Any method worth its name must beat it."""

import numpy as np

from pruning.methods.scores import Layer

CHANNELS = True


def score(layer: Layer, seed: int = 0) -> np.ndarray:
    """S_c ~ U(0, 1), a function of (seed, layer) alone."""
    return np.random.default_rng((seed, layer.index)).random(layer.size)
