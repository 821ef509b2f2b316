"""CFSP's coarse allocation as its code was released (Wang et al. 2024, arXiv 2409.13199): layers that turn the hidden
state more keep more.

The released code sums the angular distance over all calibration tokens (128 x 1024 of them) and divides by 1e4, so
its sharpness depends on the token budget; here the mean distance a token is scaled to that reference count first.

Checked against wyxscir/CFSP at b2d5b13, lib/prune.py: sigmoid lines 353-359, shrinking 362-372, ratios 380. What
differs: layers weigh by their size, which is one there, and widths are rounded, where the code truncates the ratio
to an index and also keeps the neuron at it (393, 397).
"""

import numpy as np

from pruning.core.errors import InputError
from pruning.methods.allocation import Problem

REQUIRES = ("layers",)
REFERENCE_TOKENS = 128 * 1024
MARGIN = 1.05
"""How far the fullest layer stays from whole, where it would exceed it: it loses (1 - 1/1.05) of the sparsity."""


def sensitivity(problem: Problem, alpha: float) -> np.ndarray:
    """s_l = sigmoid(alpha (I_l - mean I) / 1e4), I_l = angular distance summed over the reference tokens; [layers]."""
    if problem.importance is None:
        raise InputError(
            "allocate: cfsp: needs how much each layer changes its input: give the calibration's layers.parquet (in "
            "Python `statistics`)"
        )
    importance = problem.importance * REFERENCE_TOKENS
    return 1 / (1 + np.exp(-alpha * (importance - importance.mean()) / 1e4))


def widths(problem: Problem, alpha: float = 1.0) -> np.ndarray:
    """keep_l = (1 - sparsity) s_l / mean s; where one reaches 1, all s_l - mean s are shrunk by one factor so that the
    largest keep is 1 - sparsity (1 - 1/1.05). The mean keep is 1 - sparsity either way.

    At the sparsity from which on nothing is shrunk, layers above the mean jump up, by up to 1 - 1/1.05 of
    the sparsity, so masks on its two sides need not nest."""
    keep = 1 - problem.sparsity / 100
    s = sensitivity(problem, alpha)
    mean = np.average(s, weights=problem.original)
    if s.max() > mean and keep * s.max() / mean >= 1:
        s = mean + (s - mean) * mean * (1 / keep - 1) / (s.max() - mean) / MARGIN
    return keep * s / mean * problem.original
