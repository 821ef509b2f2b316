"""What a compensation is fitted on, measured of a model in memory. Stages read the same from artefacts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np
from torch import Tensor, nn

from pruning.calibration import gradients, second_moments
from pruning.calibration.prepare import Batch
from pruning.methods import compensation, refit
from pruning.methods.compensation import bias
from pruning.models.checkpoint import Loaded
from pruning.models.in_memory import copied
from pruning.models.structures.base import Keeps


def of_model(
    model: nn.Module, batches: Sequence[Batch], keeps: Keeps, scheme: str, plan: Mapping | None = None
) -> Callable[[int], Mapping]:
    """Return a function from a layer's number to what a scheme of methods/compensation is fitted on, made as it is
    asked for: to be called with the layers in turn. plan: how it trains, if it does (refit.refit).

    Raises InputError as second_moments.token_counts and refit.refit do."""
    (kind,) = compensation.requires(scheme)
    if kind == "statistics":
        return bias.by_layer(gradients.statistics(model, batches, ())[0])
    each = moments(model, batches) if kind == "second_moments" else _refitted(model, batches, keeps, scheme, plan)
    return lambda _: next(each)


def moments(model: nn.Module, batches: Sequence[Batch], structure: str = "ffn") -> Iterator[Mapping]:
    """Yield what ridge.evidence gives of each layer. Raises InputError as second_moments.token_counts does."""
    counts = second_moments.token_counts(batches)
    for sums in second_moments.second_moments(model, batches, structure):
        yield {**_arrays(sums), **counts}


def _refitted(
    model: nn.Module, batches: Sequence[Batch], keeps: Keeps, scheme: str, plan: Mapping | None
) -> Iterator[Mapping]:
    """Yield each layer's weights and their `record`; the model stays, as of what changes there is a copy."""
    base, counts = Loaded(model), second_moments.token_counts(batches)
    names = [name for name in compensation.refits(scheme) if name not in keeps]  # of others new ones are cut
    changed = {base.site(name, layer) for name, layer in product(names, range(base.layers))}
    if trains := compensation.trains(scheme):
        changed = {*base.names}
    dense = copied(model, shared={*base.names} - changed)
    own = refit.refit(dense, batches, keeps, scheme.removeprefix("ridge_"), plan=plan if trains else None)
    for weights, record in own:
        yield {**_arrays(weights), "record": record, **counts}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
