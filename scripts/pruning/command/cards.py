"""Devices that jobs are planned for: by their data sheets, or as this machine is measured."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.benchmark import timer  # waits for what was queued onto a GPU

from pruning.core import memory


class Card(NamedTuple):
    """A device by its data sheet (dense bfloat16), and the share of its speed that is counted on."""

    tflops: float
    gbps: float
    gb: float  # of memory, less half a gigabyte for CUDA itself
    share: float = 0.4
    host: float = 0.5  # TFLOP/s in float64, of the CPU beside it

    def seconds(self, flops: float, moved: float = 0, solved: float = 0) -> float:
        """moved: bytes that are read to generate, one token at a time; solved: operations in float64, on the CPU."""
        busy = flops / (self.tflops * 1e12) + moved / (self.gbps * 1e9) + solved / (self.host * 1e12)
        return busy / self.share


CARDS = {
    "rtx4090": Card(165, 1008, 25.2),
    "a100": Card(312, 2039, 85.3),
    "h100": Card(989, 3350, 85.3),
    "h200": Card(989, 4800, 150),
}


CPU_SHARE = 0.65
"""What jobs on CPUs reach of the speed of products: 50 in float32, of Qwen2.5-Coder-0.5B and SmolLM2-135M, most of them
within a third of this."""


def measured(device: str, dtype: str) -> Card:
    """Return this machine as a card, by products of matrices and copies that are timed for about a second. What jobs
    reach of that on a GPU is a guess."""
    on_gpu = device == "cuda"
    whole = torch.ones(4096, 4096, device=device, dtype=getattr(torch, dtype))  # more than a CPU's caches hold
    one = whole if on_gpu else whole[:512, :512].clone()  # on a CPU a small product says as much
    copied, other = torch.empty_like(whole), torch.empty_like(one)
    product, copy = fastest(lambda: torch.mm(one, one, out=other)), fastest(lambda: copied.copy_(whole))
    double = torch.ones(512, 512, dtype=torch.float64)
    host = 2 * len(double) ** 3 / fastest(lambda: torch.mm(double, double)) / 1e12
    memory_gb = torch.cuda.mem_get_info()[1] / 1e9 if on_gpu else memory.physical() / 1e9
    share = Card._field_defaults["share"] if on_gpu else CPU_SHARE
    return Card(2 * len(one) ** 3 / product / 1e12, 2 * whole.nbytes / copy / 1e9, memory_gb, share, host)


def fastest(work: Callable[[], Any]) -> float:
    """Return the seconds of the fastest of many calls: the others may have waited for whatever else runs here."""
    took, start = [], timer()
    while len(took) < 3 or timer() - start < 0.5:
        begin = timer()
        work()
        took.append(timer() - begin)
    return min(took)
