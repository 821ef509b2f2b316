"""What stages take beside the weights: predicted by a rehearsal without data, and resident memory of the real code.

Each stage runs in a process of its own, on random tokens; a refit for its first layer alone, recovery on texts of half
to all of the length. Prints a table: gigabytes, their ratio, and seconds beside those of the forward passes that
`estimate` counts, at --share of what a large float32 product reaches here (where it counts with a card's data sheet).
A folder with no more than a config.json stands for random weights; --layers cuts a model of such a shape short.

    python benchmarks/memory.py results/smollm2-135m/base --rows 4 --length 512 --threads 2
    python benchmarks/memory.py resources/architectures/qwen2_5-7b --layers 1 --rows 1 --length 2048 --threads 2
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from calibration import measured
from common import seconds, taken

from pruning.calibration import footprint, gradients, output_gradients, prepare, second_moments
from pruning.command import cards, work
from pruning.evaluation import recovery
from pruning.evaluation.kinds import perplexity
from pruning.methods import refit
from pruning.models import loading, rehearsal
from pruning.models.checkpointing import checkpoint_gradients
from pruning.models.structures import ffn

LORA = {"rank": 16, "alpha": 32, "seed": 0, "targets": ["q_proj", "v_proj", "down_proj"]}
STEPS = 2  # of recovery


def settings_of(rows: int, length: int) -> dict[str, dict[str, Any]]:
    text = {"samples": 5 * rows, "micro_batch": rows, "sequence_length": length, "objectives": ["energy", "ce"]}
    tuning = LORA | {"batch_size": rows, "micro_batch": None, "sequence_length": length}
    found: dict[str, dict[str, Any]] = {}
    for again in (False, True):
        own, more = {"gradient_checkpointing": again}, ", layers computed again" * again
        found[f"calibration{more}"] = text | own
        found[f"recovery{more}"] = tuning | own
    found["recovery, one text at a time"] = tuning | {"micro_batch": 1, "gradient_checkpointing": False}
    plain = text | {"gradient_checkpointing": False}
    found |= {"second_moments": plain, "output_gradients": plain, "refit": plain}
    return found | {"perplexity": {"batch_size": rows, "seqlen": length}}


STAGES = (gradients, second_moments, output_gradients, perplexity, recovery)
DECLARED = {stage.name: stage for stage in (*(module.STAGE for module in STAGES), footprint.REFIT)}
PASSES = {"calibration": 3, "calibration, layers computed again": 5, "output_gradients": 2, "perplexity": 1}
PASSES |= {"recovery": 2 * STEPS, "recovery, layers computed again": 3 * STEPS}
PASSES["recovery, one text at a time"] = 2 * STEPS
"""What `estimate` counts of the whole model's parameters and all tokens (command/work.py)."""


def speed(size: int = 4096) -> float:
    """Floating-point operations a second of a large product in float32."""
    a, b = torch.rand(2, size, size)
    a @ b
    return 2 * size**3 / seconds(lambda: a @ b)


def job(stage: str, network: torch.nn.Module, own: dict[str, Any], rows: int, length: int) -> Callable[[], Any]:
    kind = stage.partition(",")[0]
    ids = torch.randint(0, network.config.vocab_size, (rows, length))
    if own.get("gradient_checkpointing"):
        checkpoint_gradients(network)
    if kind == "perplexity":
        return lambda: list(perplexity.scored(network, ids, rows))
    if kind == "recovery":
        return lambda: tuned(network, ids, own)
    if kind == "refit":
        ids = ids.repeat(5, 1)  # a fifth of the samples is held out
    batches = prepare.as_batches(ids.split(rows))
    if kind == "calibration":
        return lambda: measured(network, batches, own["objectives"])
    if kind == "second_moments":
        return lambda: [layer.clear() for layer in second_moments.second_moments(network, batches)]
    if kind == "refit":
        keeps = {"ffn": [np.ones(site.in_features, dtype=bool) for site in ffn.sites(network)]}
        return lambda: next(refit.refit(network, batches, keeps, "corrective"))
    return lambda: output_gradients.output_gradients(network, batches, 0)


def tuned(network: torch.nn.Module, ids: torch.Tensor, own: dict[str, Any]) -> None:
    model = recovery.with_adapters(network, own)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], weight_decay=0.0)
    labels, lengths = ids.clone(), torch.linspace(ids.shape[1] / 2, ids.shape[1], len(ids) + 1)[1:]
    labels[torch.arange(ids.shape[1]) >= lengths.round()[:, None]] = -100
    for _ in range(STEPS):
        recovery.backward(model, ids, labels, own["micro_batch"])
        optimizer.step()


def random_weights(directory: Path, dtype: str) -> torch.nn.Module:
    network = rehearsal.network(directory, dtype).to_empty(device="cpu")
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(-0.02, 0.02)
    return network


def one(directory: Path, stage: str, rows: int, length: int, threads: int, dtype: str) -> None:
    torch.set_num_threads(threads)
    whole = any(directory.glob("*.safetensors"))
    network = loading.load(directory, dtype, "cpu")[0] if whole else random_weights(directory, dtype)
    own = settings_of(rows, length)[stage]
    measured(network, prepare.as_batches(torch.ones(1, 16, dtype=torch.long)))  # what libraries keep from then on
    run = job(stage, network, own, rows, length)
    took, held = taken(run)
    print(json.dumps({"gb": held, "seconds": took}))


def main(
    model: Annotated[Path, typer.Argument(help="model directory, or one with a config.json alone")],
    rows: int = 4,
    length: int = 512,
    layers: Annotated[int | None, typer.Option(help="of a shape without weights")] = None,
    threads: int = 1,
    dtype: str = "float32",
    share: float = cards.CARDS["rtx4090"].share,
    stage: Annotated[str | None, typer.Option(help="one alone, in this process")] = None,
) -> None:
    if stage and not layers:
        return one(model, stage, rows, length, threads, dtype)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        directory, config = model, json.loads((model / "config.json").read_text())
        if layers:
            directory, config = Path(scratch), config | {"num_hidden_layers": layers}
            (directory / "config.json").write_text(json.dumps(config))
        network, fast = rehearsal.network(directory, dtype), speed()
        print(f"weights {network.get_memory_footprint() / 1e9:.2f} GB in {dtype}, {rows} x {length} tokens")
        print(f"{threads} threads, a large product in float32: {fast / 1e9:.0f} GFLOP/s\n")
        print("| stage | GB predicted | resident | ratio | seconds predicted | measured |\n|---|---|---|---|---|---|")
        for name, settings in settings_of(rows, length).items():
            own = DECLARED[name.partition(",")[0]].taken(rehearsal.network(directory, dtype), settings)
            arguments = [str(directory), f"--stage={name}", f"--rows={rows}", f"--length={length}", f"--dtype={dtype}"]
            command = [sys.executable, __file__, *arguments, f"--threads={threads}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            expected = 2 * work.shape_of(network).parameters * rows * length * PASSES.get(name, 0)
            cells = [f"{own.bytes / 1e9:.2f}", f"{found['gb']:.2f}", f"{1e9 * found['gb'] / own.bytes:.2f}"]
            cells += [f"{expected / fast / share:.1f}" if expected else "", f"{found['seconds']:.1f}"]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
