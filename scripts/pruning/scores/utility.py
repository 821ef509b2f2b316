"""Activation-times-gradient utilities: Taylor-FO, AGF, RKU and their ablations (paper Eq. 1-2, reconstructed).

With p = a_c * g_c per token, g the gradient of the objective with respect to down_proj's input:

objective  energy: E = 1/2 mean_t ||h_L||^2, no labels;  ce: next-token cross-entropy
reduction  net_abs  mean_x |sum_t p|        Taylor-FO (Molchanov et al. 2017, arXiv 1611.06440): tokens may cancel
           net_sq   mean_x (sum_t p)^2      Molchanov et al. 2019, arXiv 1906.10771
           abs      mean_x sum_t |p|        kinetic utility, Eq. 1 (AGF; RKU after layer_sum normalisation, Eq. 2)
           sq       mean_x sum_t p^2
           share    mean_x of a neuron's share of its layer's sum_t |p|, per sample
           grad_sq  mean_x sum_t g^2        Fisher diagonal (Eq. 3's F_cc)
"""

import numpy as np

from pruning.scores import Layer

OBJECTIVES = ("energy", "ce")
REDUCTIONS = ("net_abs", "net_sq", "abs", "sq", "share", "grad_sq")


def score(layer: Layer, objective: str = "energy", reduction: str = "abs") -> np.ndarray:
    """Mean over calibration samples of the reduced utility.

    Raises ValueError for an unknown objective or reduction."""
    if objective not in OBJECTIVES or reduction not in REDUCTIONS:
        raise ValueError(f"objective must be one of {OBJECTIVES} and reduction one of {REDUCTIONS}")
    return layer[f"{objective}_{reduction}_sum"] / layer["n_samples"]
