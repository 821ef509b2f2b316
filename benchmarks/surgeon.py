"""What the score `obs` takes of one layer of a given width: seconds and memory, on a GPU where there is one.

    python benchmarks/surgeon.py cost --width 18944 --hidden 3584   one FFN of Qwen2.5-7B
    python benchmarks/surgeon.py twins                              what removal in chunks loses against one by one

The second moments are of random activations in `width` / 4 directions, with the diagonal that the damping adds: what it
takes does not depend on them. Prints a row a width, up to the one asked by doubling, and the ratios of one to the next.

`twins`: half of the neurons repeat the others up to noise. Prints the loss of the pruned layer over that of removal one
by one, for chunks chosen among 1 and among `CANDIDATES` times as many neurons, and the seconds of each.
"""

from itertools import product
from time import perf_counter

import pandas as pd
import torch
import typer
from common import taken

from pruning.methods import surgeon

app = typer.Typer(add_completion=False)


@app.command()
def cost(width: int = 18944, hidden: int = 3584, doublings: int = 2, threads: int = 2) -> None:
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for size in [width >> times for times in reversed(range(doublings + 1))]:
        took, held = cost_of(size, hidden * size // width, device)
        rows.append({"width": size, "seconds": took, "GB": held, "matrices": held / (8 * size**2 / 1e9)})
        print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    frame["times the seconds of half the width"] = frame["seconds"] / frame["seconds"].shift()
    print(torch.cuda.get_device_name() if device == "cuda" else f"CPU, {threads} threads")
    print(frame.to_string(index=False, float_format="%.1f"))


def cost_of(size: int, hidden: int, device: str) -> tuple[float, float]:
    """(seconds, GB) of one layer so wide."""
    torch.manual_seed(0)
    a = torch.randn(size // 4, size, dtype=torch.float64)
    second, down = a.T @ a / len(a), torch.randn(hidden, size, dtype=torch.float64)
    gradients, where = torch.eye(hidden, dtype=torch.float64), torch.device(device)
    took, held = taken(lambda: surgeon.least_losses(second, gradients, down, where), device)
    return took, held if device == "cuda" else held + second.nbytes / 1e9


@app.command()
def twins(widths: str = "256,512,1024", noises: str = "0.01,0.05,0.2", chunk: int = 4, hidden: int = 64) -> None:
    torch.set_num_threads(1)
    rows, choices = [], (1, surgeon.CANDIDATES)
    for width, noise in product(map(int, widths.split(",")), map(float, noises.split(","))):
        torch.manual_seed(0)
        first = torch.randn(4 * width, width // 2, dtype=torch.float64)
        first @= torch.randn(width // 2, width // 2, dtype=torch.float64) / (width // 2) ** 0.5
        a = torch.cat([first, first + noise * torch.randn_like(first)], 1)
        second, down = a.T @ a / len(a), torch.randn(hidden, width, dtype=torch.float64)
        _, exact = surgeon.removals(second, down, 1e-3)
        row = {"width": width, "noise": noise}
        for surgeon.CANDIDATES in choices:
            start = perf_counter()
            _, losses = surgeon.removals(second, down, 1e-3, chunk)
            row[f"s, {surgeon.CANDIDATES}x"] = perf_counter() - start
            for sparsity in (25, 50, 75):
                gone = width * sparsity // 100
                row[f"{sparsity}%, {surgeon.CANDIDATES}x"] = losses[:gone].sum() / exact[:gone].sum()
        rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    app()
