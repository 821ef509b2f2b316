"""Linear layers whose weights lie in memory as oneDNN multiplies by them.

torch on a CPU brings a weight in bfloat16 into that order anew for every product. For the few rows of a step of
generation that takes a good part of the time (benchmarks/README.md). The products are the same, bit for bit.
"""

from collections import Counter

import torch
from torch import Tensor, nn

ROWS = 64  # of a typical product: a hint


class PackedLinear(nn.Module):
    """What `linear` computes, without gradients. Its weight is a tensor that no other operation of torch reads."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def possible() -> bool:
    """Whether this processor, and this build of torch, has products in bfloat16 through oneDNN."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pack(model: nn.Module) -> nn.Module:
    """The model, for inference alone from now on: its linear layers in bfloat16 on a CPU packed in place, one after the
    other. Weights that something else has as well (a head tied to the embeddings) stay, as all do where it is not
    `possible`."""
    if not possible():
        return model
    owners = Counter(id(own) for module in model.modules() for own in module.parameters(recurse=False))
    linear = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and owners[id(module.weight)] == 1 and _packs(module.weight)
    }
    if linear:
        packed = {id(module.weight) for module in linear.values()}
        for parameter in model.parameters():
            if id(parameter) not in packed:  # in memory of its own, or it would keep the whole mapped file resident
                parameter.data = parameter.data.clone()
    while linear:
        name, module = linear.popitem()
        model.set_submodule(name, PackedLinear(module))
    return model


def _packs(weight: Tensor) -> bool:
    return weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and weight.numel() > 0
