"""Ridge leverage of a neuron's activation, as MoDeGPT ranks FFN neurons (Lin et al. 2024, arXiv 2408.09632, Alg. 1):
how little of it the others can take over. It looks at no weights and no gradients.
"""

import numpy as np

from pruning.methods.scores import TINY, Layer

REQUIRES = ("second_moments",)
CHANNELS = True


def score(layer: Layer, ridge: float = 1.0) -> np.ndarray:
    """S_c = [S (S + λ I)⁻¹]_cc, S = Σ a aᵀ, float64 [n]; λ in units of the mean diagonal of S (MoDeGPT has an absolute
    1, which means more or less with each model)."""
    from scipy.linalg import cho_factor, cho_solve  # slow, and planning reads the scores

    moments = layer.read("second_moments")
    second = moments["fit"].astype(np.float64) + moments["held_out"]
    penalty = ridge * second.diagonal().mean() + TINY
    inner = second + penalty * np.eye(len(second))
    return 1 - penalty * cho_solve(cho_factor(inner), np.eye(len(second))).diagonal()
