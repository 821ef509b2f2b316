"""One ranking of all FFN neurons and key-value groups of the model, by score for each parameter, or for each operation
or second that they take (`per`, methods/latency_table.py).

As many parameters are removed as `sparsity` per cent of the FFN neurons have, or up to a group's more: so models are
compared with those of other schemes at equal size, or, counted in operations and seconds, at equal speed. Each layer
keeps its `floor` best neurons and its `least` best groups; the others are kept in the order of score for each
parameter, ties to the lower layer, neurons before groups. One order for all sparsities: masks nest.
"""

import numpy as np

from pruning.methods import latency_table
from pruning.methods.allocation import Problem, kept, ranking
from pruning.methods.masks import NEURONS

STRUCTURES = (NEURONS, "kv_groups")


def widths(problem: Problem, per: str = "parameters") -> dict[str, np.ndarray]:
    """Return structure -> units kept, int [layers]. Sizes are in neurons: a group is as large as `worth` of them."""
    layers = len(problem.scores)
    kinds = {NEURONS: (problem.scores, problem.floor, 1.0)}
    for name, own in problem.others.items():
        counted = per == latency_table.PARAMETERS
        worth = own.worth if counted else latency_table.neurons_worth(problem.latencies, per, name)
        kinds[name] = (own.scores, np.full(layers, own.least), worth)
    scores, places, sizes, safe = [], [], [], 0.0
    for number, (of_layers, floor, size) in enumerate(kinds.values()):
        for layer, values in enumerate(of_layers):
            rest = values[ranking(values)[floor[layer] :]] / size
            scores.append(rest)
            places.append(np.full(len(rest), number * layers + layer))
            sizes.append(np.full(len(rest), size))
        safe += size * floor.sum()
    original = problem.original.sum()
    whole = original + sum(worth * sum(map(len, own)) for own, _, worth in list(kinds.values())[1:])
    room = whole - (original - kept(int(original), problem.sparsity)) - safe
    order = ranking(np.concatenate(scores))
    budget = np.searchsorted(np.cumsum(np.concatenate(sizes)[order]), room + 1e-6, side="right")
    won = np.bincount(np.concatenate(places)[order][:budget], minlength=len(kinds) * layers).reshape(-1, layers)
    return {name: floor + more for (name, (_, floor, _)), more in zip(kinds.items(), won, strict=True)}
