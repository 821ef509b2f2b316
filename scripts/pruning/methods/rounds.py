"""Iterative pruning: the neurons whose loss is least are removed, the rest is refitted and measured again, and so on.

A ranking from the dense model alone does not see that neurons which stand in for each other leave together. Iterations
of pruning and measuring are GISP's (arXiv 2510.18030) and LLM Surgeon's (2312.17244); the loss is that of
scores/obs.py, the refit between them that of refit.py, towards the dense model each time.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from torch import nn

from pruning.calibration import footprint
from pruning.calibration.output_gradients import output_gradients
from pruning.calibration.prepare import Batch, Measurement, dense, unit_rows
from pruning.calibration.second_moments import second_moments, token_counts
from pruning.core import artifacts
from pruning.methods import refit as fitting
from pruning.methods import surgeon
from pruning.methods.allocation import floors, kept
from pruning.models import families
from pruning.models.structures import ffn

STAGE = footprint.ROUNDS


def measure(job: Measurement) -> None:
    """Write one row per neuron: layer, unit, place. Settings: with the calibration's `rounds`.

    Raises InputError as second_moments.token_counts does."""
    token_counts(job.batches)  # refuses what leaves none to hold out
    models = [job.network]
    del job.network  # which is pruned

    def load() -> nn.Module:
        return models.pop() if models else dense(job.model, job.settings)[0]

    progress = partial(job.progress, desc="rounds")
    places = removal_order(load, job.batches, job.settings["rounds"], job.settings["seed"], progress=progress)
    artifacts.write_parquet(job.outputs[0], unit_rows("place", places), "rounds", job.settings)


def removal_order(
    load: Callable[[], nn.Module],
    batches: Sequence[Batch],
    rounds: Sequence[int],
    seed: int,
    min_keep: float = 0.01,
    progress: Callable = iter,
) -> list[np.ndarray]:
    """Return the place of each neuron of the model in the order of removal, from 0; float64 [n] per layer.

    load: gives the dense model, anew each time. rounds: per cent of all neurons that are removed after each iteration
    but the last one, which removes all others; the best of a layer, `min_keep` of it, are removed after all others."""
    model = load()
    keeps = [np.ones(site.in_features, dtype=bool) for site in ffn.sites(model)]
    places = [np.zeros(len(keep)) for keep in keeps]
    total, removed = sum(map(len, keeps)), 0
    least = floors(np.array(list(map(len, keeps))), min_keep)
    scheme = "sequential" if families.obstacle(model.config.to_dict()) else "attention"
    for number, per_cent in enumerate(progress([*rounds, 100])):
        if number:
            model = load()
            for _ in fitting.refit(model, batches, {ffn.STRUCTURE.name: keeps}, scheme):
                pass
        leaving = ranked(list(losses(model, batches, seed)), least)[: total - kept(total, per_cent) - removed]
        units = [keep.nonzero()[0] for keep in keeps]
        for place, (layer, index) in enumerate(leaving, start=removed):
            places[layer][units[layer][index]] = place
            keeps[layer][units[layer][index]] = False
        removed += len(leaving)
    return places


def losses(model: nn.Module, batches: Sequence[Batch], seed: int) -> Iterator[np.ndarray]:
    """Yield the loss of removing each neuron that a layer still has (scores/obs.py), float64 [k]."""
    gradients, tokens = output_gradients(model, batches, seed)
    counted = sum(int(batch.counted.sum()) for batch in batches)
    for site, gradient, sums in zip(ffn.sites(model), gradients, second_moments(model, batches), strict=True):
        if not site.in_features:
            yield np.zeros(0)
            continue
        second = (sums.pop("fit").double() + sums.pop("held_out").double()) / counted  # zip holds on to the dict
        yield surgeon.least_losses(
            second, gradient.double() / tokens, site.weight.detach().double(), site.weight.device
        )
        del second  # before the next layer's are made


def ranked(losses: Sequence[np.ndarray], least: Sequence[int]) -> list[tuple[int, int]]:
    """Return (layer, index) of all neurons, the least loss first, ties to the higher layer and index; a layer's `least`
    most expensive ones come after all others."""
    safe = {
        (layer, int(i))
        for layer, own in enumerate(losses)
        for i in np.argsort(own, kind="stable")[::-1][: least[layer]]
    }
    every = [(layer, index) for layer, own in enumerate(losses) for index in range(len(own))]
    return sorted(every, key=lambda at: (at in safe, losses[at[0]][at[1]], -at[0], -at[1]))
