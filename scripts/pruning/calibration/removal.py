"""The order in which neurons are removed where they are measured again after every few of them."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

Losses = Callable[[list[np.ndarray]], list[np.ndarray]]
"""From which neurons of each layer are left, bool [n], to the loss of removing each of these, float64 [k] per layer."""


def order(
    widths: Sequence[int], ends: Iterable[int], losses: Losses, least: Sequence[int] | None = None
) -> list[np.ndarray]:
    """Return the place of each neuron in the order of removal, from 0; float64 [n] per layer.

    ends: per cent of all neurons that are removed after each iteration, at last 100. In an iteration the least loss
    comes first; of equal ones the later layer's, and in it the later. least: so many neurons of a layer, those of the
    greatest loss, are removed after all others."""
    layer, unit = np.repeat(range(len(widths)), widths), np.concatenate([np.arange(width) for width in widths])
    total, bounds = len(layer), np.cumsum(widths)[:-1]
    keep, places = np.ones(total, dtype=bool), np.zeros(total)
    for end in ends:
        found = losses(np.split(keep, bounds))
        ranks = [own.argsort(kind="stable").argsort() for own in found]
        floors = [0] * len(widths) if least is None else least
        last = [own >= len(own) - floor for own, floor in zip(ranks, floors, strict=True)]
        left = np.flatnonzero(keep)
        first = np.lexsort((-unit[left], -layer[left], np.concatenate(found), np.concatenate(last)))
        gone = total - len(left)
        leaving = left[first[: (total * end + 50) // 100 - gone]]  # as masks round
        places[leaving] = gone + np.arange(len(leaving))
        keep[leaving] = False
    return np.split(places, bounds)
