"""Widths and numbers of key-value groups whose costs, each measured with all else whole (methods/sensitivity.py,
`layers`), add up to least: the dynamic programme of `sensitivity` over the FFNs and the attention of all layers.

As `joint` does it keeps no more parameters than a model of that sparsity with all its groups, or, with `per`, no more
than that has in operations or takes in time. What leaves is counted in parts of about a 1024th of the largest layer,
rounded down.
"""

import numpy as np

from pruning.methods import latency_table
from pruning.methods.allocation import Problem, kept
from pruning.methods.allocation.sensitivity import GRAINS, cost, options, programme
from pruning.methods.masks import GROUPS as KEY_VALUE_GROUPS
from pruning.methods.masks import NEURONS

SEARCH = "layers"
GROUPS = True


def widths(problem: Problem, per: str = "parameters") -> np.ndarray:
    return _chosen(problem, per)[0]


def counts(problem: Problem, per: str = "parameters") -> np.ndarray:
    return _chosen(problem, per)[1]


def _chosen(problem: Problem, per: str) -> tuple[np.ndarray, np.ndarray]:
    """Neurons and groups kept, int [layers] each."""
    sizes = {NEURONS: problem.sizes, KEY_VALUE_GROUPS: np.array([len(own) for own in problem.groups], dtype=int)}
    unit, choices = options(problem)
    choices += [np.arange(problem.least_groups, size + 1) for size in sizes[KEY_VALUE_GROUPS]]
    if per == latency_table.PARAMETERS:
        price = {NEURONS: lambda n: 1.0 * n, KEY_VALUE_GROUPS: lambda n: problem.neurons_worth * n}
        gone = problem.original.sum() - kept(int(problem.original.sum()), problem.sparsity)
        grain = unit / -(-GRAINS * unit // max(problem.sizes))  # so that steps of neurons are whole numbers of it
    else:
        price = {structure: latency_table.prices(problem.latencies, per, structure) for structure in sizes}
        of_neurons = price[NEURONS]
        gone = (of_neurons(problem.original) - of_neurons(kept(problem.original, problem.sparsity))).sum()
        grain = float(of_neurons(max(problem.sizes))) / GRAINS
    items = [(structure, layer) for structure, own in sizes.items() for layer in range(len(own))]
    prices, costs = [], []
    for (structure, layer), own in zip(items, choices, strict=True):
        size, measured = sizes[structure][layer], problem.measured[problem.measured["structure"] == structure]
        whole = price[structure](size)
        left = np.floor((whole - price[structure](own)) / grain + 1e-9)
        prices.append((np.ceil(whole / grain - 1e-9) - left).astype(int))
        costs.append(cost(measured, layer, size, own))
    already = price[NEURONS](problem.original).sum() - price[NEURONS](problem.sizes).sum()  # in earlier rounds
    seats = sum(int(own[-1]) for own in prices) - int(np.ceil(max(gone - already, 0) / grain - 1e-9))
    rows = programme(prices, costs, seats)
    taken = np.array([own[row] for own, row in zip(choices, rows, strict=True)])
    return taken[: len(problem.sizes)], taken[len(problem.sizes) :]
