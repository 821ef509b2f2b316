"""A caller's model in memory: measured without being changed, copied, and what its config says of its shape."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


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
    """Make a model's config that of this config.json."""
    before = model.config.to_dict()
    for key in before.keys() - made.keys():
        delattr(model.config, key)
    for key, value in made.items():
        if before.get(key) != value:
            setattr(model.config, key, value)
    if hasattr(model, "num_experts"):  # which the router's loss is divided by
        model.num_experts = model.config.num_experts
