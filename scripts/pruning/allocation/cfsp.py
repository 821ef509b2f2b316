"""CFSP's coarse allocation (Wang et al. 2024, arXiv 2409.13199): layers that turn the hidden state more keep more.

The released code sums the angular distance over all calibration tokens (128 x 1024 of them) and divides by 1e4, so
its sharpness depends on the token budget; here the mean distance a token is scaled to that reference count first.
"""

import numpy as np

from pruning.allocation import Problem

REFERENCE_TOKENS = 128 * 1024


def widths(problem: Problem, alpha: float = 1.0) -> np.ndarray:
    """keep_l = min(1, k * s_l), s_l = sigmoid(alpha (I_l - mean I) / 1e4), I_l = angular distance summed over the
    reference tokens; k makes the mean keep ratio 1 - sparsity, the excess of full layers going to the others."""
    importance = problem.importance * REFERENCE_TOKENS
    s = 1 / (1 + np.exp(-alpha * (importance - importance.mean()) / 1e4))
    target = (1 - problem.sparsity / 100) * problem.sizes.sum()
    full = np.zeros(len(s), dtype=bool)
    while True:
        k = (target - problem.sizes[full].sum()) / max((s * problem.sizes)[~full].sum(), 1e-300)
        over = ~full & (k * s > 1)
        if not over.any():
            return np.where(full, 1.0, k * s) * problem.sizes
        full |= over
