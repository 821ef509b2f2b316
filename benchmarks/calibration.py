"""What the calibration pass costs over its bare minimum, in time and memory.

Bare: one forward and one activation-gradient backward an objective on the same tokens, nothing recorded. Both are run
in turn in one process; the ratio of medians is printed with the spread of the pairwise ratios. Memory is the peak above
the loaded weights, each mode in a process of its own.

    python benchmarks/calibration.py resources/tiny-reasoner --batch 16 --length 128 --batches 4
    python benchmarks/calibration.py results/smollm2-135m/base --batch 4 --length 256 --batches 3 --threads 2
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import torch

from pruning.calibration import gradients
from pruning.calibration.prepare import Batch, micro_batches
from pruning.models import head, loading
from pruning.models.checkpointing import checkpoint_gradients


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


def measured(model: torch.nn.Module, batches: list[Batch]) -> None:
    with gradients.Calibration(model) as run:
        run.run(batches)


def resident_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (peak since the last reset) of this process; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def main(
    model: Annotated[Path, typer.Argument(help="model directory")],
    batch: int = 4,
    length: int = 256,
    batches: int = 4,
    repeats: int = 7,
    threads: int = 1,
    mode: Annotated[str, typer.Option(help="internal: measure the memory of one mode")] = "",
) -> None:
    torch.set_num_threads(threads)
    network, tokenizer = loading.load(model, "float32", "cpu")
    torch.manual_seed(0)
    rows = torch.randint(0, network.config.vocab_size, (batch * batches, length)).tolist()
    sequences = [(row, [True] * length) for row in rows]
    data = micro_batches(sequences, batch, pad=0, token_mask="all")
    if mode:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which loading has raised
        before = resident_mb("VmRSS")
        if mode == "checkpointed":
            checkpoint_gradients(network)
        (bare if mode == "bare" else measured)(network, data[:2])
        print(resident_mb("VmHWM") - before)
        return
    times: dict[str, list[float]] = {"bare": [], "calibration": []}
    for repeat in range(repeats + 1):
        for name, function in (("bare", bare), ("calibration", measured)):
            start = time.perf_counter()
            function(network, data)
            if repeat:  # the first pair warms up
                times[name].append(time.perf_counter() - start)
    ratios = sorted(c / b for b, c in zip(times["bare"], times["calibration"], strict=True))
    tokens = batch * batches * length
    print(f"{model}: {tokens} tokens, micro-batch {batch} x {length}, {threads} thread(s), {repeats} pairs")
    print(f"time: bare {median(times['bare']):.2f} s, calibration {median(times['calibration']):.2f} s (medians)")
    print(f"ratio: median {median(ratios):.3f}, range {ratios[0]:.3f} to {ratios[-1]:.3f}")
    for name in ("bare", "plain", "checkpointed"):
        arguments = [f"--batch={batch}", f"--length={length}", f"--batches={batches}", f"--threads={threads}"]
        command = [sys.executable, __file__, str(model), *arguments, f"--mode={name}"]
        used = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        print(f"peak memory above the weights, {name}: {float(used):.0f} MB")


if __name__ == "__main__":
    typer.run(main)
