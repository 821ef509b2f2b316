"""Structured optimal brain surgeon (methods/surgeon.py): the loss, after the rest has been refitted, when a neuron is
removed, or all channels of a key-value group at once.
"""

import numpy as np

from pruning.methods.scores import Layer

REQUIRES = ("second_moments", "output_gradients")
CHANNELS = True


def score(layer: Layer, damping: float = 1e-3, metric: str = "fisher") -> np.ndarray:
    """The loss when a neuron, or a group, is removed, never less than that of those before it: float64 [n / block].

    `fisher`: nats of KL divergence a token, by the Kronecker-factored Fisher information S ⊗ G of down_proj, or of
    attention's output projection. So layers compare, and neurons with groups: one ranking of them all is an allocation.
    `output`: half the squared error of the FFN's, or of attention's, output."""
    if metric not in ("fisher", "output"):
        raise ValueError(f"unknown metric {metric!r}; known: fisher, output")
    if not damping > 0:
        raise ValueError(f"damping {damping}: give a number above 0")
    import torch  # planning reads REQUIRES

    from pruning.methods import surgeon

    moments = layer.read("second_moments")
    tokens = int(moments["tokens_fit"] + moments["tokens_held_out"])
    second = torch.from_numpy(moments["fit"]).double() + torch.from_numpy(moments["held_out"]).double()
    gradients = layer.read("output_gradients")["gradients"] if metric == "fisher" else None
    down = torch.from_numpy(layer.weights.down).double()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gradients = None if gradients is None else torch.from_numpy(gradients).double()
    return surgeon.least_losses(second / tokens, gradients, down, device, damping, layer.block)
