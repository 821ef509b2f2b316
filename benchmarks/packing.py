"""A step of generation with weights as torch keeps them, and packed (pruning/models/packing.py), in bfloat16.

Prints seconds of a step (medians), ratios, and how many answers are the same.

    python benchmarks/packing.py results/qwen2_5-coder-1_5b/base --threads 2
"""

import time
from pathlib import Path
from statistics import median
from typing import Annotated

import common  # noqa: F401 (finds the library)
import torch
import typer
from torch import nn

from pruning.evaluation import generation
from pruning.models import loading
from pruning.models.packing import pack


@torch.inference_mode()
def main(model: Annotated[Path, typer.Argument(help="model directory")], threads: int = 1, steps: int = 12) -> None:
    torch.set_num_threads(threads)
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
