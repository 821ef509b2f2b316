"""What the score `obs` takes of one layer of a given width: seconds and memory, on a GPU where there is one.

    python benchmarks/surgeon.py --width 18944 --hidden 3584        one FFN of Qwen2.5-7B

The second moments are of random activations in `width` / 4 directions, with the diagonal that the damping adds: what it
takes does not depend on them. Prints a row a width, up to the one asked by doubling, and the ratios of one to the next.
"""

import resource
import sys
from pathlib import Path
from time import perf_counter

import pandas as pd
import torch
import typer

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from pruning.methods import surgeon


def main(width: int = 18944, hidden: int = 3584, doublings: int = 2, threads: int = 2) -> None:
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for size in [width >> times for times in reversed(range(doublings + 1))]:
        torch.manual_seed(0)
        a = torch.randn(size // 4, size, dtype=torch.float64)
        second, down = (
            a.T @ a / len(a),
            torch.randn(hidden >> (width // size).bit_length() - 1, size, dtype=torch.float64),
        )
        gradients = torch.eye(len(down), dtype=torch.float64)
        matrix, before = 8 * size**2 / 1e9, peak(device)
        start = perf_counter()
        surgeon.least_losses(second, gradients, down, device)
        seconds = perf_counter() - start
        on_gpu = device.type == "cuda"
        held = peak(device) if on_gpu else max(0.0, peak(device) - before) + matrix  # and `second` itself
        rows.append({"width": size, "seconds": seconds, "GB": held, "matrices": held / matrix})
        print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    frame["times the seconds of half the width"] = frame["seconds"] / frame["seconds"].shift()
    print(torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {threads} threads")
    print(frame.to_string(index=False, float_format="%.1f"))


def peak(device: torch.device) -> float:
    """GB, at most so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    typer.run(main)
