"""REAP, router-weighted expert activation pruning (Lasby et al. 2025, arXiv 2510.13999, Eq. 9), for mixtures of
experts."""

import numpy as np

from pruning.methods.scores import Layer

MIXTURES = True


def score(layer: Layer) -> np.ndarray:
    """S_j = mean over the tokens that are sent to expert j of g_j(x) ||f_j(x)||_2, with the router's weight g_j as the
    family's own code has it (renormalised or not); float64 [experts].

    Raises ValueError, naming them, if no token is sent to some experts."""
    tokens, norms = layer["routed_tokens"][:: layer.block], layer["routed_norm_sum"][:: layer.block]
    if unseen := np.flatnonzero(tokens == 0).tolist():
        raise ValueError(
            f"no calibration token is sent to expert {', '.join(map(str, unseen))} of layer {layer.index}: a mean over "
            "none is no number: raise `samples`, or use `score: frequency`, of which theirs is 0"
        )
    return norms / tokens
