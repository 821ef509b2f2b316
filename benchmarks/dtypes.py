"""A linear layer's product in each type, as many rows as a step of generation and as a micro-batch have: its time
against float32's, in one run. What `scripts/pruning/core/devices.py` knows of this CPU is printed beside it.

python benchmarks/dtypes.py                  the FFN of Qwen2.5-Coder-1.5B
"""

from typing import Annotated

import torch
import typer
from common import seconds

from pruning.core import devices


@torch.inference_mode()
def main(
    rows: Annotated[list[int], typer.Option(help="repeat")] = (100, 1024),
    inputs: int = 1536,
    outputs: int = 8960,
    repeats: int = 10,
    threads: int = 2,
) -> None:
    torch.set_num_threads(threads)
    for count in rows:
        base = None
        for dtype in ("float32", "bfloat16"):
            x, weight = (torch.randn(n, inputs).to(getattr(torch, dtype)) for n in (count, outputs))
            took = seconds(lambda x=x, weight=weight: [torch.nn.functional.linear(x, weight) for _ in range(repeats)])
            base = base or took
            speed = 2 * count * inputs * outputs * repeats / took / 1e9
            print(f"{count:,} rows, {dtype}: {speed:.0f} GFLOP/s, {took / base:.2f} times float32's time")
    print(f"expected: {devices.slow_dtypes().get('bfloat16', 'fast' if devices.multiplies_bfloat16() else 'unknown')}")


if __name__ == "__main__":
    typer.run(main)
