"""One ranking of all FFN neurons and key-value groups of the model, by score for each parameter.

As many parameters leave as `sparsity` per cent of the FFN neurons have, or up to a group's more: models are compared
with those of other schemes at equal size. Safe are each layer's `floor` best neurons and its `least_groups` best
groups; the others go in the order of score for each parameter, ties to the lower layer, neurons before groups. One
order for all sparsities: masks nest.
"""

import numpy as np

from pruning.methods.allocation import Problem, kept, ranking

GROUPS = True


def widths(problem: Problem) -> np.ndarray:
    return _winners(problem)[0]


def counts(problem: Problem) -> np.ndarray:
    return _winners(problem)[1]


def _winners(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Neurons and groups kept, int [layers] each. Sizes are in neurons: a group has `neurons_worth` of them."""
    kinds = (
        (problem.scores, problem.floor, 1.0),
        (problem.groups, np.full(len(problem.groups), problem.least_groups), problem.neurons_worth),
    )
    scores, layers, sizes, of_groups, safe = [], [], [], [], 0.0
    for number, (own, floor, size) in enumerate(kinds):
        for layer, values in enumerate(own):
            rest = values[ranking(values)[floor[layer] :]] / size
            scores.append(rest)
            layers.append(np.full(len(rest), layer))
            sizes.append(np.full(len(rest), size))
            of_groups.append(np.full(len(rest), bool(number)))
        safe += size * floor.sum()
    whole = problem.original.sum() + problem.neurons_worth * sum(map(len, problem.groups))
    room = whole - (problem.original.sum() - kept(int(problem.original.sum()), problem.sparsity)) - safe
    order = ranking(np.concatenate(scores))
    seats = np.searchsorted(np.cumsum(np.concatenate(sizes)[order]), room + 1e-6, side="right")
    won, group = np.concatenate(layers)[order][:seats], np.concatenate(of_groups)[order][:seats]
    widths, counts = (np.bincount(won[own], minlength=len(problem.scores)) for own in (~group, group))
    return problem.floor + widths, problem.least_groups + counts
