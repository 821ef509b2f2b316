"""CFSP's coarse allocation with full layers clipped and their excess given to the others: ours, not the released rule.

`allocation/cfsp.py`, as released, flattens all layers where one would keep more than it has; this one lets only that
layer give way, so the others stay in the proportions of the sigmoid, and masks nest over sparsities.
"""

import numpy as np

from pruning.methods.allocation import Problem, filled
from pruning.methods.allocation.cfsp import REQUIRES, sensitivity

__all__ = ["REQUIRES", "widths"]


def widths(problem: Problem, alpha: float = 1.0) -> np.ndarray:
    """keep_l = min(1, k s_l), s_l as in allocation/cfsp.py; k makes the mean keep ratio 1 - sparsity."""
    wishes = sensitivity(problem, alpha) * problem.original
    wishes *= (1 - problem.sparsity / 100) * problem.original.sum() / wishes.sum()
    return filled(wishes, problem.floor, problem.sizes)
