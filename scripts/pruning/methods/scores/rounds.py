"""The order in which iterative pruning removes neurons, refitting and measuring in between (methods/rounds.py)."""

import numpy as np

from pruning.methods.scores import Layer

REQUIRES = ("rounds",)


def score(layer: Layer) -> np.ndarray:
    """S_c = the neuron's place in the order of removal, over the whole model; float64 [n]. For `allocate: global`."""
    return layer["place"]
