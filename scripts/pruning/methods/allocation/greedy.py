"""Widths of the model at which steps of cutting, each the least costly to the present model (methods/sensitivity.py,
`greedy`), arrive: as many whole steps as may be, and a part of the next one. One order for all sparsities: masks nest.
"""

import numpy as np

from pruning.methods.allocation import Problem, kept

SEARCH = "greedy"  # What of methods/sensitivity.py it is made of


def widths(problem: Problem) -> np.ndarray:
    found = problem.sizes.copy()
    too_many = int(found.sum()) - int(kept(problem.original.sum(), problem.sparsity))
    for row in problem.measured.itertuples():
        step = min(int(found[row.layer]) - row.width, too_many)
        found[row.layer] -= max(step, 0)
        too_many -= max(step, 0)
    return found
