"""One ranking of all FFN neurons and key-value groups of the model, by score for each parameter, or for each operation
or second that they take (`per`, methods/latency_table.py).

As many parameters leave as `sparsity` per cent of the FFN neurons have, or up to a group's more: models are compared
with those of other schemes at equal size; so with operations and seconds, at equal speed. Safe are each layer's
`floor` best neurons and its `least_groups` best groups; the others go in the order of score for each parameter, ties to
the lower layer, neurons before groups. One order for all sparsities: masks nest.
"""

import numpy as np

from pruning.methods import latency_table
from pruning.methods.allocation import Problem, kept, ranking

GROUPS = True


def widths(problem: Problem, per: str = "parameters") -> np.ndarray:
    return _winners(problem, per)[0]


def counts(problem: Problem, per: str = "parameters") -> np.ndarray:
    return _winners(problem, per)[1]


def _winners(problem: Problem, per: str) -> tuple[np.ndarray, np.ndarray]:
    """Neurons and groups kept, int [layers] each. Sizes are in neurons: a group is as large as `worth` of them."""
    if per == latency_table.PARAMETERS:
        worth = problem.neurons_worth
    else:
        worth = latency_table.neurons_worth(problem.latencies, per)
    least = np.full(len(problem.groups), problem.least_groups)
    kinds = ((problem.scores, problem.floor, 1.0), (problem.groups, least, worth))
    scores, layers, sizes, of_groups, safe = [], [], [], [], 0.0
    for number, (own, floor, size) in enumerate(kinds):
        for layer, values in enumerate(own):
            rest = values[ranking(values)[floor[layer] :]] / size
            scores.append(rest)
            layers.append(np.full(len(rest), layer))
            sizes.append(np.full(len(rest), size))
            of_groups.append(np.full(len(rest), bool(number)))
        safe += size * floor.sum()
    whole = problem.original.sum() + worth * sum(map(len, problem.groups))
    room = whole - (problem.original.sum() - kept(int(problem.original.sum()), problem.sparsity)) - safe
    order = ranking(np.concatenate(scores))
    seats = np.searchsorted(np.cumsum(np.concatenate(sizes)[order]), room + 1e-6, side="right")
    won, group = np.concatenate(layers)[order][:seats], np.concatenate(of_groups)[order][:seats]
    widths, counts = (np.bincount(won[own], minlength=len(problem.scores)) for own in (~group, group))
    return problem.floor + widths, problem.least_groups + counts
