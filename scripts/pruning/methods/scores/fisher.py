"""What the loss grows by, to second order, when an expert puts out nothing: optimal brain damage (LeCun et al. 1989)
with the Fisher information as curvature, of a whole expert, for mixtures of experts. Nothing makes up for it."""

import numpy as np

from pruning.core.objectives import OBJECTIVES
from pruning.methods.scores import Layer

MIXTURES = True


def score(layer: Layer, objective: str = "ce") -> np.ndarray:
    """S_j = 1/2 mean_x sum_t (h . dL/dh)^2, h what expert j adds to a token's FFN output (without a bias): its neurons'
    p = a g add up to h . dL/dh; float64 [experts].

    Raises ValueError for an unknown objective."""
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {tuple(OBJECTIVES)}")
    return 0.5 * (layer[f"{objective}_expert_sq_sum"] / layer["n_samples"])[:: layer.block]
