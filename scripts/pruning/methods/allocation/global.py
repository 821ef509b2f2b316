"""One ranking of all neurons of the model: layers compete, sparsity holds for the model as a whole.

Each layer's `floor` best neurons are safe (raw AGF would empty layers). One order for all sparsities: masks nest.
"""

import numpy as np

from pruning.methods.allocation import Problem, joint
from pruning.methods.masks import NEURONS


def widths(problem: Problem) -> np.ndarray:
    """Return the units that each layer keeps: as `joint`, of one structure alone."""
    return joint.widths(problem)[NEURONS]
