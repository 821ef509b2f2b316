"""Refits of one layer at all widths that `sensitivity` measures: each on its own, and all from one factorisation.

    python benchmarks/nested.py                               one FFN of Qwen2.5-Coder-0.5B
    python benchmarks/nested.py --width 8960 --hidden 1536    of the 1.5B

The second moments are of random activations, a few of them much larger than the rest. Prints the ratio of the seconds,
and the largest ratio over widths of errors on the held-out tokens (one λ for all widths, over the best of each width).
"""

from time import process_time

import common
import numpy as np
import typer

from pruning.methods import allocation, least_squares
from pruning.methods.compensation import ridge


def main(width: int = 4864, hidden: int = 896, tokens: int = 60_000) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(size=width).astype(np.float32)
    mixing = rng.normal(size=(width // 4, width)).astype(np.float32) / np.sqrt(width // 4)
    down, order = rng.normal(size=(hidden, width)).astype(np.float32), rng.permutation(width)
    evidence = {"tokens_fit": tokens * 4 // 5, "tokens_held_out": tokens // 5}
    for part in ridge.PARTS:
        evidence[part] = np.zeros((width, width), np.float32)
        for _ in range(evidence[f"tokens_{part}"] // 1000):
            drawn = rng.normal(size=(1000, width // 4)).astype(np.float32) @ mixing
            a = (drawn + 0.5 * rng.normal(size=drawn.shape).astype(np.float32)) * sizes
            evidence[part] += a.T @ a
    widths = allocation.levels(width, 1)
    keeps = [np.isin(np.arange(width), order[:kept]) for kept in widths]
    alone, together = [], []

    def each() -> None:
        alone.extend(ridge.compensate(down, keep, evidence) for keep in keeps)

    def all_at_once() -> None:
        together.append(ridge.strength(down, order, evidence))
        refitted = ridge.nested(down, order, evidence, together[0])
        together.extend(refitted(kept) for kept in widths)

    took = [common.seconds(work, clock=process_time) for work in (each, all_at_once)]
    print(
        f"{len(widths)} widths of {width} x {hidden}: {took[0]:.1f} and {took[1]:.1f} s of CPU time: "
        f"{took[0] / took[1]:.1f}x"
    )
    ratios = []
    for keep, own in zip(keeps, alone, strict=True):
        fit, held_out = (ridge.sums(down, keep, evidence[part]) for part in ridge.PARTS)
        ratios.append(
            held_out.error(least_squares.changed(fit.inner, fit.outer, together[0])) / own.record["held_out_error"]
        )
    print(
        f"errors on held-out tokens: at most {max(ratios):.4f} times the least; λ {together[0]} against "
        f"{[own.record['lambda'] for own in alone]}"
    )


if __name__ == "__main__":
    typer.run(main)
