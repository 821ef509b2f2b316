"""Iterative pruning: the neurons whose loss is least are removed, the rest is refitted and measured again, and so on.

A ranking from the dense model alone removes redundant neurons together: it does not see that one becomes important
once its duplicates are removed. Iterations of pruning and measuring are GISP's (arXiv 2510.18030) and LLM Surgeon's
(2312.17244); the loss is that of scores/obs.py, the refit between them that of refit.py, towards the dense model each
time.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from pruning.calibration import footprint, removal
from pruning.calibration.output_gradients import output_gradients
from pruning.calibration.prepare import Batch, Measurement, dense, first_samples, unit_rows
from pruning.calibration.second_moments import second_moments, token_counts
from pruning.core import artifacts, layer_files
from pruning.methods import refit as fitting
from pruning.methods import surgeon
from pruning.methods.allocation import floors
from pruning.models import families
from pruning.models.structures import ffn

LEAST = 0.01  # Share of a layer that is removed last
STAGE = footprint.ROUNDS


def measure(job: Measurement) -> None:
    """Write one row per neuron: layer, unit, place. Settings: with the calibration's `rounds`, and `gradient_samples`
    where gradients are of fewer. Losses are kept for a run after a kill.

    Raises InputError as second_moments.token_counts does."""
    token_counts(job.batches)  # refuses what leaves none to hold out
    models = [job.network]
    del job.network  # which is pruned

    def load() -> nn.Module:
        return models.pop() if models else dense(job.model, job.settings)[0]

    unfinished = job.unfinished()
    kept = partial(layer_files.kept_or_made, unfinished)
    progress = partial(job.progress, desc="rounds")
    rounds, seed, few = (job.settings.get(name) for name in ("rounds", "seed", "gradient_samples"))
    places = removal_order(load, job.batches, rounds, seed, few, kept, progress)
    artifacts.write_parquet(job.outputs[0], unit_rows("place", places), "rounds", job.settings)
    shutil.rmtree(unfinished)


def removal_order(
    load: Callable[[], nn.Module],
    batches: Sequence[Batch],
    rounds: Sequence[int],
    seed: int,
    gradient_samples: int | None = None,
    kept: layer_files.Kept = layer_files.made,
    progress: Callable = iter,
) -> list[np.ndarray]:
    """Return the place of each neuron of the model in the order of removal (calibration/removal.py).

    load: gives the dense model, anew each time. rounds: per cent of all neurons that are removed after each iteration
    but the last one, which removes all others; the best of a layer, LEAST of it, are removed after all others.
    gradient_samples: as `losses` has it. kept: of the losses where so many neurons are left."""
    models = [load()]
    widths = [site.in_features for site in ffn.sites(models[0])]
    scheme = "sequential" if families.obstacle(models[0].config.to_dict()) else "attention"

    def measured(keeps: list[np.ndarray]) -> dict[str, Tensor]:
        model = models.pop() if models else load()
        if not all(own.all() for own in keeps):
            for _ in fitting.refit(model, batches, {ffn.STRUCTURE.name: keeps}, scheme):
                pass
        found = losses(model, batches, seed, gradient_samples)
        return {str(layer): torch.from_numpy(own) for layer, own in enumerate(found)}

    def losses_of(keeps: list[np.ndarray]) -> list[np.ndarray]:
        found = kept(sum(int(own.sum()) for own in keeps), partial(measured, keeps))
        return [found[str(layer)].numpy() for layer in range(len(keeps))]

    return removal.order(widths, progress([*rounds, 100]), losses_of, floors(np.array(widths), LEAST))


def losses(
    model: nn.Module, batches: Sequence[Batch], seed: int, gradient_samples: int | None = None
) -> Iterator[np.ndarray]:
    """Yield the loss of removing each neuron that a layer still has (scores/obs.py), float64 [k].

    gradient_samples: gradients are of the first so many samples, in whole micro-batches; None: of all."""
    looked_at = batches if gradient_samples is None else first_samples(batches, gradient_samples)
    gradients, tokens = output_gradients(model, looked_at, seed)
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
