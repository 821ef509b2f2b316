"""CFSP's fine score as its released code computes it (wyxscir/CFSP, `three_w_one_wa`)."""

import numpy as np

from pruning.methods.scores import Layer


def score(layer: Layer) -> np.ndarray:
    """S_c = (3/d) ||a_c||.

    The code averages |W_ic| ||a_c|| / sum_i(|W_ic| ||a_c||) + |U_ci| / sum_i |U_ci| + |G_ci| / sum_i |G_ci| over the
    same index i that it sums over, so each of the three terms averages to 1/d, whatever the weights are."""
    return 3 / layer.weights.down.shape[0] * np.sqrt(layer["act_sq_sum"])
