"""A caller's model in memory: measured without being changed, copied, and what its config says of its shape."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from pruning.models import structures
from pruning.models.families import EXPERTS
from pruning.models.structures import ffn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode, without gradients of weights, as loading.load gives it; afterwards it is as before."""
    training = [module for module in model.modules() if module.training]
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False).zero_grad()
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter, wanted, gradient in before:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient


def copied(model: nn.Module, shared: Iterable[str] = ()) -> Any:
    """Return a copy that has the parameters of these names in common with the model."""
    own = dict(model.named_parameters())
    return copy.deepcopy(model, {id(own[name]): own[name] for name in shared})


def configure(model: nn.Module, made: Mapping[str, Any]) -> None:
    """Say in a model's config what of its shape differs from the stock model's. made: the whole config.json."""
    for key in {ffn.CONFIG_KEY, *structures.keys()}:
        if key in made:
            setattr(model.config, key, made[key])
        elif hasattr(model.config, key):
            delattr(model.config, key)
    for key in EXPERTS:
        if key in made:
            setattr(model.config, key, made[key])
            model.num_experts = made[key]  # which the router's loss is divided by
    if "moe_intermediate_size" in made:
        model.config.moe_intermediate_size = made["moe_intermediate_size"]
