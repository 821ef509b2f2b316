"""A model whose decoder layers stay on disk: each matrix is read when it is computed with, and let go after it, so a
model larger than the memory can be measured. It is accelerate that does so; what is computed is the same to the bit."""

from pathlib import Path

import torch

from pruning.models import families, rehearsal


def device_map(directory: Path, dtype: str) -> dict[str, str]:
    """Return where each part of a directory's model is: the decoder layers on `disk`, the rest on the first visible
    GPU, else the CPU."""
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    network = rehearsal.network(directory, dtype)
    layers = families.of(network).layers

    def holds_layers(name: str) -> bool:
        return not name or f"{layers}.".startswith(f"{name}.")

    names = [name for name, _ in network.named_modules() if not holds_layers(name)]
    parts = [name for name in names if holds_layers(name.rpartition(".")[0])]
    return {part: "disk" if part.startswith(f"{layers}.") else device for part in sorted(parts)}
