"""The memory that a stage will take: its own code is run on tensors without data, and the bytes alive are counted.

On torch's `meta` device an operation makes a shape and computes nothing, so a 7B model is rehearsed within seconds and
without its weights. Why torch's FakeTensorMode and MemTracker do not serve is in docs/explanation/memory.md. Not seen:
kernels' workspaces, the allocator's fragments, the libraries themselves.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface
from transformers.initialization import no_init_weights

from pruning.core import memory
from pruning.core.errors import InputError
from pruning.models import families, loading, structures

aten = torch.ops.aten
CPU, META = torch.device("cpu"), torch.device("meta")
KERNEL = aten._scaled_dot_product_flash_attention_for_cpu
SMALL = 0.01
"""Share of the free memory: a model whose weights take less is not rehearsed, which takes seconds."""


class Taken(NamedTuple):
    """Memory that work takes beside the weights."""

    bytes: int
    """At once."""
    spared: int = 0
    """Those that a GPU need not hold: what stays with the CPU, and half of what is narrower there."""

    def plus(self, others: int, spared: int = 0) -> Taken:
        """Return the sum with so many other bytes, of which so many are spared."""
        return Taken(self.bytes + others, self.spared + spared)


@dataclass(frozen=True)
class Stage:
    """How a stage is rehearsed: declared beside its work."""

    name: str
    section: str
    """Of the config: where its settings are."""
    taken: Callable[[nn.Module, Mapping[str, Any]], Taken]
    """Of a network without weights and the settings."""
    smaller: Mapping[str, Any]
    """Settings with which it takes less."""


class Rehearsal(TorchDispatchMode):
    """Counts bytes of tensors while it is entered: `now` those alive, `peak` the most at once; without a model's own.

    On meta tensors questions about values are answered by: true, one, all of them. What leaves for the CPU is not
    counted."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.own = [tensor.untyped_storage() for tensor in (*network.parameters(), *network.buffers())]
        self.alive = {storage._cdata for storage in self.own}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        keywords, first = keywords or {}, arguments[0] if arguments else None
        if isinstance(first, Tensor) and first.is_meta:
            if function in (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default):
                return True if first.dtype == torch.bool else 1.0 if first.dtype.is_floating_point else 1
            if function is aten.nonzero.default:
                return torch.empty(first.numel(), first.dim(), dtype=torch.long, device=META)
            if function is aten.index.Tensor:
                arguments = (first, [place for index in arguments[1] for place in _all_true(index)])
            if keywords.get("device") == CPU:
                return function(*arguments, **{**keywords, "device": META})
        if torch.is_inference_mode_enabled():  # where operations that are made of others come whole
            with self:
                if (result := function.decompose(*arguments, **keywords)) is not NotImplemented:
                    return result
        result = function(*arguments, **keywords)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def _all_true(index: Tensor | None) -> list[Tensor | None]:
    """What a mask picks from, if it picks everything."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long, device=META) for _ in index.shape]


def network(directory: Path, dtype: str) -> nn.Module:
    """The model of a directory's config.json, of any widths, without weights."""
    config = loading.stock_config(directory)
    with no_init_weights(), META:
        made = loading.model_class(directory)._from_config(config, dtype=getattr(torch, dtype))
    made.tie_weights()
    return made.eval().requires_grad_(False)


def weight_bytes(network: nn.Module, offloaded: bool) -> int:
    """Return the bytes of weights that are in memory at once: all, or, where the layers stay on disk, those of the
    largest layer and of what is in none."""
    layers = [sum(each.nbytes for each in layer.parameters()) for layer in families.decoder_layers(network)]
    return network.get_memory_footprint(return_buffers=False) - (sum(layers) - max(layers) if offloaded else 0)


def rehearsed(network: nn.Module, work: Callable[[], Any]) -> Taken:
    """What `work`, which runs the network, takes. Attention is that of torch's memory-saving kernels: no scores are
    kept. Experts compute one after the other, as torch's grouped products are not for all types without data."""

    def attention(_: nn.Module, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
        found, width = KERNEL(query, key, value)[0], value.shape[-1]  # as wide as queries, unlike DeepSeek's values
        return found[..., :width].transpose(1, 2).contiguous(), None

    usual = network.config._attn_implementation
    AttentionInterface.register("rehearsed", attention)
    network.set_attn_implementation("rehearsed")
    main = structures.main(families.of(network))
    with ExitStack() as stack, Rehearsal(network) as counted:
        for site in main.sites(network) if families.of(network).mixture else ():
            stack.callback(main.watch(site, lambda *_: None, lambda *_: None).remove)
        work()
    network.set_attn_implementation(usual)
    return Taken(counted.peak)


def must_fit(directory: Path, dtype: str, stage: Stage, settings: Mapping[str, Any]) -> None:
    """Raises InputError if a model's weights and a stage's work are more than what is free, before anything is loaded.

    settings: the stage's, with the lengths that its data have."""
    free, on_gpus = loading.free_memory()
    offloaded = settings.get("offload", False)
    if not offloaded:
        loading.check_memory(directory, dtype, "cuda" if on_gpus else "cpu")
    if not free or memory.gigabytes(memory.parameters(directory), dtype) < SMALL * sum(free):
        return

    def needed(**changed: Any) -> tuple[float, float]:
        """GB of weights, and in all."""
        own = network(directory, dtype)
        weights, held = weight_bytes(own, offloaded), stage.taken(own, {**settings, **changed})
        beside = held.bytes - (held.spared if on_gpus else 0)
        return weights / 1e9, (weights + beside) / 1e9

    weights, whole = needed()
    if whole <= sum(free):
        return
    less = {key: needed(**{key: value})[1] for key, value in stage.smaller.items()}
    means = "".join(
        f"set `{key}: {str(value).lower()}` in `{stage.section}` ({less[key]:.2f} GB), "
        for key, value in stage.smaller.items()
        if less[key] < 0.99 * whole
    )
    raise InputError(
        f"{stage.name}: model {directory} needs {whole:.2f} GB in {dtype} (weights {weights:.2f}, activations and all "
        f"else {whole - weights:.2f}), {loading.lack(whole, free, on_gpus, means)}"
    )
