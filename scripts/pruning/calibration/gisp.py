"""The order in which neurons are removed where a first-order score is measured again after every few: GISP, global
iterative structured pruning (Wang et al. 2025, arXiv 2510.18030), without reconstruction or training between.

After each STEP per cent of the neurons the sum over a neuron's weights of |w dCE/dw| (parameter_gradients.py), divided
by its layer's ("block-wise normalisation"), is measured on the model as it is cut so far, and all layers rank together.
The paper's text was not at hand: its abstract says that much, the divisor and STEP are ours. Attention stays whole.
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from pruning.calibration import removal
from pruning.calibration.parameter_gradients import layers_that_fit, parameter_taylor
from pruning.calibration.prepare import Batch, Measurement, unit_rows
from pruning.core import artifacts
from pruning.models import families
from pruning.models.structures import ffn

STEP = 5  # per cent of all neurons
STAGE = None  # rehearses nothing, as parameter_gradients.py


def measure(job: Measurement) -> None:
    """Write one row per neuron (layer, unit, place), its place in the order. The network is cut as it goes."""
    places = removal_order(job.network, job.batches, layers_that_fit(job.network, job.memory), job.progress)
    artifacts.write_parquet(job.outputs[0], unit_rows("place", places), "gisp", job.settings)


def removal_order(
    model: nn.Module, batches: Sequence[Batch], layers_a_pass: int, progress: Callable = lambda each, **_: each
) -> list[np.ndarray]:
    """Return the place of each neuron of the model, which is cut as it goes, in the order of removal (removal.py)."""
    family, layers = families.of(model), families.decoder_layers(model)
    present = [np.ones(site.in_features, dtype=bool) for site in ffn.sites(model)]

    def scores(keeps: list[np.ndarray]) -> list[np.ndarray]:
        stay = [own[before] for own, before in zip(keeps, present, strict=True)]
        for index, layer in enumerate(layers):
            ffn.shrink(layer, index, stay, family)
        present[:] = [own.copy() for own in keeps]
        found = [own.numpy() for own in parameter_taylor(model, batches, layers_a_pass)]
        return [own / max(own.sum(), 1e-30) for own in found]

    ends = progress(range(STEP, 100 + STEP, STEP), desc="iterations")
    return removal.order([len(own) for own in present], ends, scores)
