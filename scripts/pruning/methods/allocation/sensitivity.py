"""Widths whose costs, each measured with all other layers whole (methods/sensitivity.py, `layers`), add up to least:
an exact dynamic programme over layers, as in SPDY (Frantar & Alistarh 2022, arXiv 2201.13096).

Costs between measured widths are interpolated. Widths are multiples of a 64th of the smallest layer, and no more is
kept than asked; masks at growing sparsity need not nest.
"""

import numpy as np
import pandas as pd

from pruning.methods.allocation import Problem, kept

PARTS = 64
SEARCH = "layers"
"""What of methods/sensitivity.py it is made of."""


def widths(problem: Problem) -> np.ndarray:
    unit = max(1, min(problem.sizes[problem.sizes > 0]) // PARTS)
    seats = max(int(kept(problem.original.sum(), problem.sparsity)), 0) // unit
    least = -(-problem.floor // unit)
    seats = max(seats, int(least.sum()))
    lowest = np.full(seats + 1, np.inf)  # cost of the layers so far with so many units in all
    lowest[0] = 0.0
    choices = []
    for layer, size in enumerate(problem.sizes):
        options = np.arange(least[layer], -(-size // unit) + 1)
        costs = cost(problem.measured, layer, size, np.minimum(options * unit, size))
        found = np.full((len(options), seats + 1), np.inf)
        for row, (units, own) in enumerate(zip(options, costs, strict=True)):
            if units <= seats:
                found[row, units:] = lowest[: seats + 1 - units] + own
        choices.append(options[found.argmin(0)])
        lowest = found.min(0)
    left, chosen = seats - int(lowest[::-1].argmin()), []  # of equals the one that keeps most
    for options in reversed(choices):
        chosen.append(options[left])
        left -= chosen[-1]
    return np.minimum(np.array(chosen[::-1]) * unit, problem.sizes)


def cost(measured: pd.DataFrame, layer: int, size: int, at: np.ndarray) -> np.ndarray:
    """Divergence of widths `at` of a layer: 0 of the whole one."""
    own = measured[measured["layer"] == layer].sort_values("width")
    return np.interp(at, [*own["width"], size], [*own["divergence"], 0.0])
