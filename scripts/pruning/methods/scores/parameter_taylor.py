"""LLM-Pruner's first-order Taylor score of a neuron's weights, `param_first` (Ma et al. 2023, arXiv 2305.11627).

Checked against horseee/LLM-Pruner at 128a07d: LLMPruner/pruner/hf_llama_pruner.py lines 266 (w * gradient), 278 and 288
(absolute values summed over a neuron's row or column) and 221-223 (summed over the group of gate row, up row and
down column); hf_prune.py lines 128 and 146-148 (one gradient, of the mean loss over all samples).
"""

import numpy as np

from pruning.methods.scores import Layer

REQUIRES = ("parameter_taylor",)
CHANNELS = True


def score(layer: Layer) -> np.ndarray:
    """S_c = sum over w in (G_c, U_c, W_c) of |w mean_x dCE(x)/dw|: what samples disagree on cancels, unlike in the
    activation utilities. Of a key-value group, as LLM-Pruner prunes attention, over its rows of q, k and v and its
    columns of o. Float64 [units]; calibration/parameter_gradients.py makes the sum."""
    return layer["ce_param_abs"] / layer["n_samples"]
