"""What the bounds of `greedy` save and change: its search with them, and with all layers measured in every step.

    python benchmarks/greedy.py results/tiny-reasoner gsm_symbolic-answers attention_greedy \\
        results/data/gsm_symbolic/train.parquet

The scores and settings are those of a measurement that is there (results/{model}/sensitivity/{calib}/{method}.parquet);
what is left is not refitted here. Prints forward passes and their ratio, and widths and divergences at some sparsities.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import common  # noqa: F401 (finds the library)
import pandas as pd
import typer

from pruning.calibration import prepare
from pruning.core import artifacts
from pruning.methods import allocation, sensitivity
from pruning.methods.allocation import greedy

SPARSITIES = (30, 50, 60, 70, 80, 90)


def main(
    results: Annotated[Path, typer.Argument(help="results/{model}")],
    calib: str,
    method: str,
    data: Annotated[Path, typer.Argument(help="parquet of the calibration's split")],
    probed: int = 16,
    threads: int = 1,
) -> None:
    own = artifacts.read_provenance(results / "sensitivity" / calib / f"{method}.parquet")["settings"]
    scores = artifacts.read_parquet(results / "scores" / calib / f"{method}.parquet", "scores")
    layers = artifacts.read_parquet(results / "calibration" / calib / "layers.parquet", "layers")
    base = artifacts.read_json(results / "base/manifest.json", "base")
    problem = allocation.problem_of(scores.sort_values(["layer", "unit"]), layers, base, own["min_keep"])
    found, passes = {}, {}
    for exact in (False, True):
        network, _, batches = prepare.loaded(results / "base", data, own, threads, None)
        batches = prepare.first_samples(batches, probed)
        probe = sensitivity.Probe(network, batches, problem.scores, problem.floor)
        rows = list(sensitivity.greedy(probe, exact=exact))
        found[exact] = pd.DataFrame(rows, columns=["layer", "width", "divergence"])
        passes[exact] = probe.passes
    print(f"forward passes {passes[False]:.0f} and, exact, {passes[True]:.0f}: {passes[True] / passes[False]:.2f}x")
    for sparsity in SPARSITIES:
        widths = [greedy.widths(replace(problem, sparsity=sparsity, measured=own)) for own in found.values()]
        apart = abs(widths[0] - widths[1]).sum() // 2
        print(f"{sparsity}%: {apart} neurons elsewhere; {widths[0].tolist()}, exact {widths[1].tolist()}")


if __name__ == "__main__":
    typer.run(main)
