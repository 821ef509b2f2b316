"""The order in which neurons leave when pruning, refitting and measuring go in rounds (methods/rounds.py)."""

import numpy as np

from pruning.methods.scores import Layer

REQUIRES = ("rounds",)


def score(layer: Layer) -> np.ndarray:
    """S_c = the neuron's place in the order of leaving, over the whole model; float64 [n]. For `allocate: global`."""
    return layer["place"]
