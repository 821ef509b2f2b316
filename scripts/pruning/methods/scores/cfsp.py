"""CFSP's fine-grained score with sums over the layer's neurons (Wang et al. 2024, arXiv 2409.13199).

A reconstruction: the paper calls each term a *relative* importance of a weight, as in RIA (Zhang et al.,
Plug-and-Play, ICLR 2024), i.e. a neuron's part of what the layer sends along one hidden dimension. The released
code divides by the sum along the other axis, which cancels (see `cfsp_as_code`).
"""

import numpy as np

from pruning.methods.scores import TINY, Layer


def score(layer: Layer) -> np.ndarray:
    """S_c = ||a_c|| mean_i [ |W_ic| ||a_c|| / sum_j |W_ij| ||a_j|| + |U_ci| / sum_j |U_ji| + |G_ci| / sum_j |G_ji| ].

    i runs over the d hidden dimensions, j over the layer's n neurons."""
    norm = np.sqrt(layer["act_sq_sum"])
    outgoing = np.abs(layer.weights.down) * norm  # [d, n]
    terms = [outgoing / (outgoing.sum(axis=1, keepdims=True) + TINY)]
    for incoming in (np.abs(layer.weights.up.T), np.abs(layer.weights.gate.T)):  # [d, n]
        terms.append(incoming / (incoming.sum(axis=1, keepdims=True, dtype=np.float64) + TINY))
    return sum(term.mean(axis=0, dtype=np.float64) for term in terms) * norm
