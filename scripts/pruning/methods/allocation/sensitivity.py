"""Widths whose costs, each measured with all other layers whole (methods/sensitivity.py, `layers`), add up to least:
an exact dynamic programme over layers, as in SPDY (Frantar & Alistarh 2022, arXiv 2201.13096).

Costs between measured widths are interpolated. Widths are multiples of a 64th of the smallest layer, and no more is
kept than asked: no more neurons, or, with `per`, no more than a model of equal widths has in operations or takes in
time (methods/latency_table.py). Masks at growing sparsity need not nest.
"""

import numpy as np
import pandas as pd

from pruning.methods import latency_table
from pruning.methods.allocation import Problem, kept
from pruning.methods.masks import NEURONS

PARTS = 64
GRAINS = 1024
"""Of a whole layer's time, in whole numbers of which times are added; each is rounded up."""
SEARCH = "layers"
"""What of methods/sensitivity.py it is made of."""


def widths(problem: Problem, per: str = "parameters") -> np.ndarray:
    unit = max(1, min(problem.sizes[problem.sizes > 0]) // PARTS)
    options = [
        np.arange(-(-floor // unit), -(-size // unit) + 1)
        for floor, size in zip(problem.floor, problem.sizes, strict=True)
    ]
    widths = [np.minimum(own * unit, size) for own, size in zip(options, problem.sizes, strict=True)]
    if per == latency_table.PARAMETERS:
        prices, seats = options, max(int(kept(problem.original.sum(), problem.sparsity)), 0) // unit
    else:
        price = latency_table.prices(problem.latencies, per, NEURONS)
        grain = float(price(max(problem.sizes))) / GRAINS
        prices = [np.ceil(price(own) / grain - 1e-9).astype(int) for own in widths]
        seats = int(price(kept(problem.original, problem.sparsity)).sum() / grain + 1e-9)
    seats = max(seats, sum(int(own[0]) for own in prices))
    lowest = np.full(seats + 1, np.inf)  # divergence of the layers so far at so high a price in all
    lowest[0] = 0.0
    choices = []
    for layer, size in enumerate(problem.sizes):
        costs = cost(problem.measured, layer, size, widths[layer])
        found = np.full((len(costs), seats + 1), np.inf)
        for row, (own, divergence) in enumerate(zip(prices[layer], costs, strict=True)):
            if own <= seats:
                found[row, own:] = lowest[: seats + 1 - own] + divergence
        choices.append(found.argmin(0))
        lowest = found.min(0)
    left, chosen = seats - int(lowest[::-1].argmin()), []  # of equals the dearest, which keeps most
    for layer in reversed(range(len(options))):
        row = choices[layer][left]
        chosen.append(widths[layer][row])
        left -= prices[layer][row]
    return np.array(chosen[::-1])


def cost(measured: pd.DataFrame, layer: int, size: int, at: np.ndarray) -> np.ndarray:
    """Divergence of widths `at` of a layer: 0 of the whole one."""
    own = measured[measured["layer"] == layer].sort_values("width")
    return np.interp(at, [*own["width"], size], [*own["divergence"], 0.0])
