"""Neurons inside the experts of a mixture: all experts stay, every expert loses the same share of its neurons, the
worst of its own. The nearest multiple of 8 stays (families.EXPERT_MULTIPLE).

Narrower experts save time for every token; fewer experts save memory alone.
"""

import numpy as np

from pruning.methods.allocation import Problem, kept
from pruning.methods.masks import NEURONS
from pruning.models.families import EXPERT_MULTIPLE

STRUCTURES = (NEURONS, "expert_neurons")
WITHIN = True  # Neurons are ranked within their expert


def widths(problem: Problem) -> dict[str, np.ndarray]:
    """Return structure -> units kept, int [layers]."""
    experts = problem.sizes
    neurons = np.array([len(own) for own in problem.others["expert_neurons"].scores]) // experts
    steps = (kept(neurons, problem.sparsity) + EXPERT_MULTIPLE // 2) // EXPERT_MULTIPLE
    left = np.minimum(np.maximum(steps, 1) * EXPERT_MULTIPLE, neurons)
    return {problem.main: experts, "expert_neurons": experts * left}
