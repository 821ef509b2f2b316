"""Normalisation of scores within a layer, so that layers can compete in one ranking.

Each function takes and returns one layer's scores, float64 [n]. Under uniform allocation none of them can change
a mask: they are increasing, layer by layer.
"""

import numpy as np

EPSILON = 1e-30  # the paper's eps in Eq. 2; keeps a silent layer at 0


def none(scores: np.ndarray) -> np.ndarray:
    return scores


def layer_sum(scores: np.ndarray) -> np.ndarray:
    """RKU_c = U_c / (sum_j U_j + eps): the paper's Eq. 2, "Fisher trace normalization"."""
    return scores / (scores.sum() + EPSILON)


def layer_mean(scores: np.ndarray) -> np.ndarray:
    return scores / (scores.mean() + EPSILON)


def layer_l2(scores: np.ndarray) -> np.ndarray:
    """Molchanov et al. 2017, section 2.2: divide by the layer's L2 norm."""
    return scores / (np.linalg.norm(scores) + EPSILON)


def zscore(scores: np.ndarray) -> np.ndarray:
    """FLAP's standardisation: zero mean, unit (unbiased) standard deviation; a constant layer is all zero."""
    if scores.max() == scores.min():
        return np.zeros_like(scores)
    scaled = scores / np.abs(scores).max()  # squares of tiny scores would underflow
    return (scaled - scaled.mean()) / scaled.std(ddof=1)


NORMALISATIONS = {f.__name__: f for f in (none, layer_sum, layer_mean, layer_l2, zscore)}
