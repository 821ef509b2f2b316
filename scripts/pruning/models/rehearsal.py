"""What a stage will take in memory: the very code is run on tensors without data, and the bytes alive are counted.

On torch's `meta` device an operation makes a shape and computes nothing, so a 7B model is rehearsed within seconds and
without its weights. What is not seen: kernels' workspaces, the allocator's fragments, the libraries themselves.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface
from transformers.initialization import no_init_weights

from pruning.models import loading

aten = torch.ops.aten
THIN = "thin"
CPU, META = torch.device("cpu"), torch.device("meta")


class Rehearsal(TorchDispatchMode):
    """Counts bytes of tensors while it is entered: `now` those alive, `peak` the most at once; without a model's own.
    `logits`, `logits_at_peak`: those among them that hold a number for every word of the vocabulary.

    On meta tensors questions about values are answered by: true, one, all of them. Tensors that leave for the CPU are
    no longer counted."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = self.logits = self.logits_at_peak = 0
        config = getattr(network, "config", None)
        self.words = config.get_text_config().vocab_size if config else None
        self.own = [tensor.untyped_storage() for tensor in (*network.parameters(), *network.buffers())]
        self.alive = {storage._cdata for storage in self.own}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        keywords = keywords or {}
        first = arguments[0] if arguments else None
        if isinstance(first, Tensor) and first.is_meta:
            if function in (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default):
                return True if first.dtype == torch.bool else 1.0 if first.dtype.is_floating_point else 1
            if function is aten.nonzero.default:
                return torch.empty(first.numel(), first.dim(), dtype=torch.long, device="meta")
            if function is aten.index.Tensor:
                arguments = (first, [place for index in arguments[1] for place in _all_true(index)])
            if any(map(_is_cpu, (*arguments, *keywords.values()))):
                arguments = tuple(META if _is_cpu(value) else value for value in arguments)
                return function(
                    *arguments, **{name: META if _is_cpu(value) else value for name, value in keywords.items()}
                )
        result = function(*arguments, **keywords)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), self.words in tensor.shape)
        return result

    def _count(self, storage: torch.UntypedStorage, logits: bool) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive.add(key)
            self.now += size
            self.logits += size * logits
            if self.now > self.peak:
                self.peak, self.logits_at_peak = self.now, self.logits
            weakref.finalize(storage, self._gone, key, size, logits)

    def _gone(self, key: int, size: int, logits: bool) -> None:
        self.alive.discard(key)
        self.now -= size
        self.logits -= size * logits


def _is_cpu(value: Any) -> bool:
    return isinstance(value, torch.device) and value == CPU


def _all_true(index: Tensor | None) -> list[Tensor | None]:
    """What a mask picks from, if it picks everything."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long, device="meta") for _ in index.shape]


def model(directory: Path, dtype: str) -> nn.Module:
    """The model of a directory's config.json, of any widths, without weights."""
    config = loading.stock_config(directory)
    with no_init_weights(), torch.device("meta"):
        made = loading.model_class(directory)._from_config(config, dtype=getattr(torch, dtype))
    made.tie_weights()
    return made.eval().requires_grad_(False)


@contextmanager
def thin_attention(network: nn.Module) -> Iterator[None]:
    """Attention as memory-saving kernels do it: queries, keys, values and the result are kept, no scores."""
    before = network.config._attn_implementation
    AttentionInterface.register(THIN, _thin)
    network.set_attn_implementation(THIN)
    try:
        yield
    finally:
        network.set_attn_implementation(before)


class _Thin(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        context.save_for_backward(query, key, value, result := torch.zeros_like(query))
        return result

    @staticmethod
    def backward(context: Any, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.zeros_like(tensor) for tensor in context.saved_tensors[:3])


def _thin(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any) -> tuple[Tensor, None]:
    return _Thin.apply(query, key, value).transpose(1, 2).contiguous(), None


class Peak(int):
    """Bytes at once; `logits`, those of them that are logits, their softmax or its gradient; `spared`, those that a GPU
    need not hold: what stays with the CPU, and half of what is narrower there."""

    logits: int
    spared: int = 0


def peak(network: nn.Module, work: Callable[[], Any]) -> Peak:
    """Bytes that `work` takes at once, beside the weights of the network."""
    with thin_attention(network), Rehearsal(network) as rehearsal:
        work()
    found = Peak(rehearsal.peak)
    found.logits = rehearsal.logits_at_peak
    return found
