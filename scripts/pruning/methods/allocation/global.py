"""One ranking of all neurons of the model: layers compete, sparsity holds for the model as a whole.

Each layer's `floor` best neurons are safe (raw AGF would empty layers), so the order is: the safe ones, then
everyone else by score, ties to the lower layer, then the lower neuron. One order for all sparsities: masks nest.
"""

import numpy as np

from pruning.methods.allocation import Problem, kept, ranking


def widths(problem: Problem) -> np.ndarray:
    contenders, layers = [], []
    for layer, scores in enumerate(problem.scores):
        rest = scores[ranking(scores)[problem.floor[layer] :]]
        contenders.append(rest)
        layers.append(np.full(len(rest), layer))
    budget = max(0, kept(int(problem.original.sum()), problem.sparsity) - int(problem.floor.sum()))
    winners = np.concatenate(layers)[ranking(np.concatenate(contenders))[:budget]]
    return problem.floor + np.bincount(winners, minlength=len(problem.scores))
