"""Widths whose costs, each measured with all other layers whole (methods/sensitivity.py, `layers`), add up to least:
an exact dynamic programme over layers, as in SPDY (Frantar & Alistarh 2022, arXiv 2201.13096).

Costs between measured widths are interpolated. Widths are multiples of a 64th of the smallest layer, and no more is
kept than asked: no more neurons, or, with `per`, no more than a model of equal widths has in operations or takes in
time (methods/latency_table.py). Masks at growing sparsity need not nest.
"""

from collections.abc import Sequence

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
    unit, choices = options(problem)
    if per == latency_table.PARAMETERS:
        prices = [-(-own // unit) for own in choices]
        seats = max(int(kept(problem.original.sum(), problem.sparsity)), 0) // unit
    else:
        price = latency_table.prices(problem.latencies, per, NEURONS)
        grain = float(price(max(problem.sizes))) / GRAINS
        prices = [grains(price(own), grain) for own in choices]
        seats = int(price(kept(problem.original, problem.sparsity)).sum() / grain + 1e-9)
    costs = [
        cost(problem.measured, layer, *pair) for layer, pair in enumerate(zip(problem.sizes, choices, strict=True))
    ]
    return np.array([own[row] for own, row in zip(choices, programme(prices, costs, seats), strict=True)])


def options(problem: Problem) -> tuple[int, list[np.ndarray]]:
    """(step, widths that each layer may have: multiples of the step from the floor on, and the whole layer)."""
    unit = max(1, min(problem.sizes[problem.sizes > 0]) // PARTS)
    pairs = zip(problem.floor, problem.sizes, strict=True)
    return unit, [np.minimum(np.arange(-(-floor // unit), -(-size // unit) + 1) * unit, size) for floor, size in pairs]


def grains(prices: np.ndarray, grain: float) -> np.ndarray:
    """Prices in whole grains, rounded up."""
    return np.ceil(prices / grain - 1e-9).astype(int)


def programme(prices: Sequence[np.ndarray], costs: Sequence[np.ndarray], seats: int) -> list[int]:
    """Which option each item has: costs add up to least where prices, whole numbers that grow with an item's options,
    add up to no more than `seats`, or to the least there is; of equals the dearest, which keeps most."""
    seats = max(seats, sum(int(own[0]) for own in prices))
    lowest = np.full(seats + 1, np.inf)  # costs of the items so far at so high a price in all
    lowest[0] = 0.0
    choices = []
    for own_prices, own_costs in zip(prices, costs, strict=True):
        found = np.full((len(own_costs), seats + 1), np.inf)
        for row, (own, one) in enumerate(zip(own_prices, own_costs, strict=True)):
            if own <= seats:
                found[row, own:] = lowest[: seats + 1 - own] + one
        choices.append(found.argmin(0))
        lowest = found.min(0)
    left, chosen = seats - int(lowest[::-1].argmin()), []
    for own_prices, best in zip(reversed(prices), reversed(choices), strict=True):
        chosen.append(int(best[left]))
        left -= own_prices[chosen[-1]]
    return chosen[::-1]


def cost(measured: pd.DataFrame, layer: int, size: int, at: np.ndarray) -> np.ndarray:
    """Divergence of widths `at` of a layer: 0 of the whole one."""
    own = measured[measured["layer"] == layer].sort_values("width")
    return np.interp(at, [*own["width"], size], [*own["divergence"], 0.0])
