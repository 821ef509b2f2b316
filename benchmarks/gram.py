"""Second moments of one layer's tokens in one run: half of the matrix is multiplied, in the units for short floats
where numbers are bfloat16's, against a plain product in float32; both added to float64.

python benchmarks/gram.py                     Qwen2.5-Coder-1.5B's FFN, micro-batches of 4 x 512 tokens
"""

from functools import partial

import torch
import typer
from common import seconds

from pruning.calibration.gram import Gram, add, wide_zeros

CPU = torch.device("cpu")


@torch.inference_mode()
def main(size: int = 8960, tokens: int = 2048, batches: int = 3, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    texts = [torch.randn(tokens, size).bfloat16().float() for _ in range(batches)]
    wide = [text + 1e-4 for text in texts]  # which bfloat16 does not hold

    def plainly(texts: list[torch.Tensor]) -> torch.Tensor:
        sums = wide_zeros(CPU, size, size)
        for x in texts:
            add(sums, x.T @ x)
        return sums

    def halved(texts: list[torch.Tensor]) -> torch.Tensor:
        own = Gram(CPU, size)
        for x in texts:
            own.add(x)
        return own.whole()

    some = torch.randint(size, (64,))
    for name, each in (("bfloat16", texts), ("float32", wide)):
        plain, own = seconds(partial(plainly, each)), seconds(partial(halved, each))
        exact = sum(x.double()[:, some].T @ x.double() for x in each)
        off = [((work(each)[some] - exact).abs().max() / exact.abs().max()).item() for work in (plainly, halved)]
        print(
            f"{batches} x {tokens} tokens, {size} neurons, numbers of {name}: plain {plain:.2f} s, {plain / own:.1f} "
            f"times as long; largest error {off[0]:.0e} and {off[1]:.0e} of the largest sum"
        )


if __name__ == "__main__":
    typer.run(main)
