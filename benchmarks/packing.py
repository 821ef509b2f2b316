"""Products of few rows with weights as torch keeps them, and with packed ones (pruning/models/packing.py), in turn.

Weights of Qwen2.5-Coder-1.5B's shapes in bfloat16, several of each so that no cache holds them; with a model's
directory also a step of its generation. Prints GFLOP/s (medians), ratios, and whether the numbers are the same.

    python benchmarks/packing.py --threads 2
    python benchmarks/packing.py --model results/qwen2_5-coder-1_5b/base --threads 2
"""

import time
from pathlib import Path
from statistics import median

import torch
import typer
from common import seconds
from torch import nn

from pruning.evaluation import generation
from pruning.models import loading
from pruning.models.packing import PackedLinear, pack

SHAPES = {"up_proj": (1536, 8960), "down_proj": (8960, 1536)}
COPIES = 8


@torch.inference_mode()
def main(model: Path | None = None, threads: int = 1, steps: int = 12) -> None:
    torch.set_num_threads(threads)
    for name, shape in SHAPES.items():
        plain = [nn.Linear(*shape, bias=False, dtype=torch.bfloat16) for _ in range(COPIES)]
        packed = [PackedLinear(module) for module in plain]
        for rows in (1, 8, 32, 64, 100, 1500):
            x = torch.randn(rows, shape[0]).bfloat16()
            own = [seconds(lambda x=x, of=of: [module(x) for module in of], 7) / COPIES for of in (plain, packed)]
            same = all(torch.equal(a(x), b(x)) for a, b in zip(plain, packed, strict=True))
            rates = [2 * rows * shape[0] * shape[1] / s / 1e9 for s in own]
            print(
                f"{name}, {rows} rows: plain {rates[0]:.0f}, packed {rates[1]:.0f} GFLOP/s, "
                f"{own[0] / own[1]:.2f}x; {'the same numbers' if same else 'OTHER NUMBERS'}",
                flush=True,
            )
    if model:
        network, tokenizer = loading.load(model, "bfloat16")
        prompts = {rows: [[1000 + row + place for place in range(12)] for row in range(rows)] for rows in (32, 100)}
        timed = {}
        for kind in ("plain", "packed"):
            network = pack(network) if kind == "packed" else network
            for rows, own in prompts.items():
                timed[kind, rows] = steps_of(network, own, steps, tokenizer.pad_token_id)
        for rows in prompts:
            (before, one), (after, other) = timed["plain", rows], timed["packed", rows]
            print(
                f"a step of {rows} answers: plain {before:.3f} s, packed {after:.3f} s, {before / after:.2f}x; "
                f"{sum(a == b for a, b in zip(one, other, strict=True))} of {rows} answers the same"
            )


def steps_of(network: nn.Module, prompts: list[list[int]], steps: int, pad: int) -> tuple[float, list]:
    """(seconds of a step, answers)"""
    times = [time.perf_counter()]

    def ended(row: int, _: list[int]) -> bool:
        if row == 0:
            times.append(time.perf_counter())
        return False

    answers = generation.greedy(network, prompts, steps, ended, pad=pad)
    return median(b - a for a, b in zip(times[1:], times[2:], strict=False)), answers


if __name__ == "__main__":
    typer.run(main)
