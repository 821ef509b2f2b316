"""What odd widths cost: an FFN's products with widths that are multiples of 1, 16, 32, …, timed in turn in one run.

python benchmarks/widths.py                   SmolLM2-135M's FFN after 20% and 40%, bfloat16, one thread
python benchmarks/widths.py --hidden 4096 --full 14336 --multiple 1 --multiple 64 --multiple 128 --device cuda

Prints the time per neuron over that of the dense width (median of the ratios of a repetition).
"""

from typing import Annotated

import numpy as np
import torch
import typer
from torch.utils.benchmark import Timer


@torch.inference_mode()
def main(
    hidden: int = 576,
    full: int = 1536,
    sparsity: Annotated[list[float], typer.Option()] = (0.2, 0.4),
    multiple: Annotated[list[int], typer.Option()] = (1, 8, 16, 32, 64, 128),
    tokens: Annotated[list[int], typer.Option(help="at once: a prompt, or one that is decoded")] = (512, 1),
    dtype: str = "bfloat16",
    device: str = "cpu",
    threads: int = 1,
    repetitions: int = 15,
) -> None:
    torch.set_num_threads(threads)
    kind = {"dtype": getattr(torch, dtype), "device": device}
    linear = torch.nn.functional.linear
    for count in tokens:
        x, seconds = torch.randn(count, hidden, **kind), {}
        widths = {f"{share:.0%}, {m}": round(full * (1 - share) / m) * m for share in sparsity for m in multiple}
        widths = {"dense": full} | {
            name: width - (width % 2 == 0) * name.endswith(" 1") for name, width in widths.items()
        }
        for _ in range(repetitions):
            for name, width in widths.items():
                up, down = torch.randn(width, hidden, **kind), torch.randn(hidden, width, **kind)
                timer = Timer("linear(linear(x, up), down)", globals=locals() | {"linear": linear}, num_threads=threads)
                seconds.setdefault(name, []).append(timer.timeit(10).mean / width)
        print(f"{count} tokens, hidden size {hidden}, {dtype}, {threads} threads")
        for name, own in seconds.items():
            ratio = np.median(np.array(own) / np.array(seconds["dense"]))
            print(f"  {name:>10}: width {widths[name]:>6}, {ratio:.2f} of the dense width's time per neuron")


if __name__ == "__main__":
    typer.run(main)
