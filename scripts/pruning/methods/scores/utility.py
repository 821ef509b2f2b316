"""Activation-times-gradient utilities: Taylor-FO, AGF, RKU and their other readings (paper Eq. 1-3, reconstructed).

With p = a_c * g_c per token, g the gradient of an objective (objectives.py) with respect to down_proj's input:

reduction  net_abs    mean_x |sum_t p|        Molchanov et al. 2017, arXiv 1611.06440: tokens may cancel
           net_sq     mean_x (sum_t p)^2      Molchanov et al. 2019, arXiv 1906.10771
           abs        mean_x sum_t |p|        kinetic utility, Eq. 1 (AGF); Taylor-FO with the cross-entropy
           sq         mean_x sum_t p^2
           share      mean_x of a neuron's share of its layer's sum_t |p|: RKU, Eq. 2, a sample at a time
           grad_sq    mean_x sum_t g^2        Fisher diagonal F_cc
           grad_root  its root                Eq. 3's sqrt(F_cc)
"""

import numpy as np

from pruning.core.objectives import OBJECTIVES
from pruning.methods.scores import Layer

REDUCTIONS = ("net_abs", "net_sq", "abs", "sq", "share", "grad_sq", "grad_root")
CHANNELS = True


def score(layer: Layer, objective: str = "energy", reduction: str = "abs") -> np.ndarray:
    """Mean over calibration samples of the reduced utility.

    Raises ValueError for an unknown objective or reduction."""
    if objective not in OBJECTIVES or reduction not in REDUCTIONS:
        raise ValueError(f"objective must be one of {tuple(OBJECTIVES)} and reduction one of {REDUCTIONS}")
    if reduction == "grad_root":
        return np.sqrt(score(layer, objective, "grad_sq"))
    return layer[f"{objective}_{reduction}_sum"] / layer["n_samples"]
