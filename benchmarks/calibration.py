"""What the calibration pass costs over its bare minimum, in time; what it takes of memory is in memory.py.

Bare: one forward and one activation-gradient backward an objective on the same tokens, nothing recorded. Both are run
in turn in one process; the ratio of medians is printed with the spread of the pairwise ratios.

    python benchmarks/calibration.py resources/tiny-reasoner --batch 16 --length 128 --batches 4
    python benchmarks/calibration.py results/smollm2-135m/base --batch 4 --length 256 --batches 3 --threads 2
"""

from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from common import seconds

from pruning.calibration import gradients
from pruning.calibration.prepare import Batch, as_batches
from pruning.models import head, loading


def bare(model: torch.nn.Module, batches: list[Batch]) -> None:
    """Forward, then one backward for the energy and one for the cross-entropy, down to the first down_proj input."""

    def start(_, args):
        if not args[0].requires_grad:
            args[0].requires_grad_(True)

    hidden: list[torch.Tensor] = []
    hooks = [
        model.model.layers[0].mlp.down_proj.register_forward_pre_hook(start),
        model.model.norm.register_forward_pre_hook(lambda _, args: hidden.append(args[0])),
    ]
    for batch in batches:
        with torch.enable_grad():
            normed = head.hidden_states(model, batch.ids, batch.counted.long())
            energy = gradients.energy(hidden.pop(), batch.objective)
            ce = gradients.cross_entropy(head.token_losses(model, normed, batch.ids), batch.objective)
            energy.sum().backward(retain_graph=True)
            ce.sum().backward()
    for hook in hooks:
        hook.remove()


def measured(model: torch.nn.Module, batches: list[Batch], objectives: tuple[str, ...] = ("energy", "ce")) -> None:
    with gradients.Calibration(model, objectives) as run:
        run.run(batches)


def main(
    model: Annotated[Path, typer.Argument(help="model directory")],
    batch: int = 4,
    length: int = 256,
    batches: int = 4,
    repeats: int = 7,
    threads: int = 1,
) -> None:
    torch.set_num_threads(threads)
    network, _ = loading.load(model, "float32", "cpu")
    torch.manual_seed(0)
    data = as_batches(torch.randint(0, network.config.vocab_size, (batch * batches, length)).split(batch))
    pairs = [[seconds(lambda run=run: run(network, data)) for run in (bare, measured)] for _ in range(repeats + 1)]
    least, whole = zip(*pairs[1:], strict=True)  # the first pair warms up
    ratios = sorted(c / b for b, c in pairs[1:])
    tokens = batch * batches * length
    print(f"{model}: {tokens} tokens, micro-batch {batch} x {length}, {threads} thread(s), {repeats} pairs")
    print(f"time: bare {median(least):.2f} s, calibration {median(whole):.2f} s (medians)")
    print(f"ratio: median {median(ratios):.3f}, range {ratios[0]:.3f} to {ratios[-1]:.3f}")


if __name__ == "__main__":
    typer.run(main)
