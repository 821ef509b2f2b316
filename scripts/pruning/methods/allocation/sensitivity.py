"""Widths whose costs, each measured with all other layers whole (methods/sensitivity.py, `layers`), add up to least:
an exact knapsack over layers, by dynamic programming as in SPDY (Frantar & Alistarh 2022, arXiv 2201.13096).

Costs between measured widths are interpolated. Layers lose multiples of a 64th of the largest one, so memory grows with
the number of layers and not with their widths. No more is kept than asked: no more neurons, or, with `per`, no more
than a model of equal widths has in operations or takes in time (methods/latency_table.py). Masks at growing sparsity
need not nest.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pruning.methods import latency_table
from pruning.methods.allocation import Problem, kept
from pruning.methods.masks import NEURONS

PARTS = 64
RESOLUTION = 1024  # Steps of a whole layer's time, in whole numbers of which times are added; each is rounded up
SEARCH = "layers"  # What of methods/sensitivity.py it is made of


def widths(problem: Problem, per: str = "parameters") -> np.ndarray:
    unit, choices = options(problem)
    if per == latency_table.PARAMETERS:
        prices = [-(-size // unit) - (size - own) // unit for size, own in zip(problem.sizes, choices, strict=True)]
        too_many = max(0, int(problem.sizes.sum() - kept(problem.original.sum(), problem.sparsity)))
        budget = int(sum(-(-problem.sizes // unit))) - -(-too_many // unit)
    else:
        price = latency_table.prices(problem.latencies, per, NEURONS)
        step = float(price(max(problem.sizes))) / RESOLUTION
        prices = [np.ceil(price(own) / step - 1e-9).astype(int) for own in choices]
        budget = int(price(kept(problem.original, problem.sparsity)).sum() / step + 1e-9)
    costs = [
        cost(problem.measured, layer, *pair) for layer, pair in enumerate(zip(problem.sizes, choices, strict=True))
    ]
    return np.array([own[row] for own, row in zip(choices, knapsack(prices, costs, budget), strict=True)])


def options(problem: Problem) -> tuple[int, list[np.ndarray]]:
    """(step, widths that each layer may have: from the whole layer down to its floor in steps; growing)."""
    unit = max(1, max(problem.sizes) // PARTS)
    pairs = zip(problem.floor, problem.sizes, strict=True)
    steps = [size - np.arange(0, size - floor + 1, unit)[::-1] for floor, size in pairs]
    return unit, [own if floor else np.union1d(own, 0) for own, floor in zip(steps, problem.floor, strict=True)]


def knapsack(prices: Sequence[np.ndarray], costs: Sequence[np.ndarray], budget: int) -> list[int]:
    """Return which option each item has: costs add up to least where prices, whole numbers that grow with an item's
    options, add up to no more than the budget, or to the least there is; of equals the most expensive, which keeps
    most."""
    budget = max(budget, sum(int(own[0]) for own in prices))
    lowest = np.full(budget + 1, np.inf)  # costs of the items so far at so high a price in all
    lowest[0] = 0.0
    choices = []
    for own_prices, own_costs in zip(prices, costs, strict=True):
        found = np.full((len(own_costs), budget + 1), np.inf)
        for row, (own, one) in enumerate(zip(own_prices, own_costs, strict=True)):
            if own <= budget:
                found[row, own:] = lowest[: budget + 1 - own] + one
        choices.append(found.argmin(0))
        lowest = found.min(0)
    left, chosen = budget - int(lowest[::-1].argmin()), []
    for own_prices, best in zip(reversed(prices), reversed(choices), strict=True):
        chosen.append(int(best[left]))
        left -= own_prices[chosen[-1]]
    return chosen[::-1]


def cost(measured: pd.DataFrame, layer: int, size: int, at: np.ndarray) -> np.ndarray:
    """Divergence of widths `at` of a layer: 0 of the whole one."""
    own = measured[measured["layer"] == layer].sort_values("width")
    return np.interp(at, [*own["width"], size], [*own["divergence"], 0.0])
