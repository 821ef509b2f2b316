"""Devices that jobs are planned for: by their data sheets, or as this machine is measured."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.benchmark import Timer

from pruning.core import memory


class Card(NamedTuple):
    """A device by its data sheet (dense bfloat16), and the share of its speed that is counted on."""

    tflops: float
    gbps: float
    gb: float  # of memory, less half a gigabyte for CUDA itself
    share: float = 0.4

    def seconds(self, flops: float, moved: float = 0) -> float:
        """moved: bytes that are read to generate, one token at a time."""
        return (flops / (self.tflops * 1e12) + moved / (self.gbps * 1e9)) / self.share


CARDS = {
    "rtx4090": Card(165, 1008, 25.2),
    "a100": Card(312, 2039, 85.3),
    "h100": Card(989, 3350, 85.3),
    "h200": Card(989, 4800, 150),
}


def measured(device: str, dtype: str) -> Card:
    """Return this machine as a card, by products of matrices and copies that are timed for about a second. What jobs
    reach of that is a guess."""
    size = 4096 if device == "cuda" else 1024
    one = torch.ones(size, size, device=device, dtype=getattr(torch, dtype))
    other = torch.empty_like(one)

    def seconds(work: Callable[[], Any]) -> float:
        timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
        return timer.blocked_autorange(min_run_time=0.3).median

    product, copy = seconds(lambda: torch.mm(one, one, out=other)), seconds(lambda: other.copy_(one))
    memory_gb = torch.cuda.mem_get_info()[1] / 1e9 if device == "cuda" else memory.physical() / 1e9
    return Card(2 * size**3 / product / 1e12, 2 * one.nbytes / copy / 1e9, memory_gb)
