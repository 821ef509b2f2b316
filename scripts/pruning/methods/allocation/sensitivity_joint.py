"""Widths and numbers of key-value groups whose costs, each measured with all else whole (methods/sensitivity.py,
`layers`), add up to least: the knapsack of `sensitivity` over the FFNs and the attention of all layers.

As `joint` does it keeps no more parameters than a model of that sparsity with all its groups, or, with `per`, no more
than that has in operations or takes in time. What is removed is counted in parts of about a 1024th of the largest
layer, rounded down.
"""

import numpy as np

from pruning.methods import latency_table
from pruning.methods.allocation import Problem, kept
from pruning.methods.allocation.sensitivity import RESOLUTION, cost, knapsack, options
from pruning.methods.masks import NEURONS

SEARCH = "layers"
STRUCTURES = (NEURONS, "kv_groups")


def widths(problem: Problem, per: str = "parameters") -> dict[str, np.ndarray]:
    """Return structure -> units kept, int [layers]."""
    sizes, others = {NEURONS: problem.sizes}, problem.others
    unit, choices = options(problem)
    for name, own in others.items():
        sizes[name] = np.array([len(values) for values in own.scores], dtype=int)
        choices += [np.arange(own.least, size + 1) for size in sizes[name]]
    if per == latency_table.PARAMETERS:
        worth = {NEURONS: 1.0, **{name: own.worth for name, own in others.items()}}
        price = {name: lambda units, one=one: one * units for name, one in worth.items()}
        removed = problem.original.sum() - kept(int(problem.original.sum()), problem.sparsity)
        step = unit / -(-RESOLUTION * unit // max(problem.sizes))  # so that steps of neurons are whole numbers of it
    else:
        price = {structure: latency_table.prices(problem.latencies, per, structure) for structure in sizes}
        of_neurons = price[NEURONS]
        removed = (of_neurons(problem.original) - of_neurons(kept(problem.original, problem.sparsity))).sum()
        step = float(of_neurons(max(problem.sizes))) / RESOLUTION
    items = [(structure, layer) for structure, own in sizes.items() for layer in range(len(own))]
    prices, costs = [], []
    for (structure, layer), own in zip(items, choices, strict=True):
        size, measured = sizes[structure][layer], problem.measured[problem.measured["structure"] == structure]
        whole = price[structure](size)
        left = np.floor((whole - price[structure](own)) / step + 1e-9)
        prices.append((np.ceil(whole / step - 1e-9) - left).astype(int))
        costs.append(cost(measured, layer, size, own))
    already = price[NEURONS](problem.original).sum() - price[NEURONS](problem.sizes).sum()  # in earlier iterations
    budget = sum(int(own[-1]) for own in prices) - int(np.ceil(max(removed - already, 0) / step - 1e-9))
    rows = knapsack(prices, costs, budget)
    taken = np.array([own[row] for own, row in zip(choices, rows, strict=True)])
    ends = np.cumsum([len(own) for own in sizes.values()])[:-1]
    return dict(zip(sizes, np.split(taken, ends), strict=True))
