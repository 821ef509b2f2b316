"""Physically smaller models: rows of gate/up and columns of down_proj cut out, everything else copied.

Works tensor by tensor on safetensors, shard for shard, so a 7B model needs the memory of one shard.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pruning.checkpoint import FFN_TENSOR, Checkpoint, read_config
from pruning.errors import InputError


def slice_tensor(
    name: str, tensor: torch.Tensor, keeps: Sequence[np.ndarray], *, pad_to: int | None = None
) -> torch.Tensor:
    """The kept part of an FFN tensor (others come back as they are); with `pad_to`, zeros up to that width.

    A zero row in gate and up and a zero column in down is a neuron that outputs nothing: act(0) * 0 = 0."""
    match = FFN_TENSOR.match(name)
    if not match or (match["proj"] == "down" and match["kind"] == "bias"):
        return tensor
    keep = torch.from_numpy(np.flatnonzero(keeps[int(match["layer"])]))
    axis = 1 if match["proj"] == "down" else 0
    kept = tensor.index_select(axis, keep)
    if pad_to is None or pad_to == len(keep):
        return kept.contiguous()
    shape = list(kept.shape)
    shape[axis] = pad_to - len(keep)
    return torch.cat([kept, kept.new_zeros(shape)], dim=axis).contiguous()


def compact_config(config: dict, widths: Sequence[int]) -> dict:
    """config.json of the compact model.

    Equal widths make a stock config. Different ones are recorded as transformers' `per_layer_config`, beside the
    widest as the global `intermediate_size`; pruning.loading builds such models."""
    config = {**config, "intermediate_size": max(widths)}
    if len(set(widths)) > 1:
        config["per_layer_config"] = {str(i): {"intermediate_size": w} for i, w in enumerate(widths)}
    return config


def write_compact(
    base: Checkpoint,
    output: Path,
    keeps: Sequence[np.ndarray],
    down_bias: Mapping[int, np.ndarray] | None = None,
    export: str = "exact",
) -> None:
    """Write the compact model below the existing directory `output`.

    keeps: one bool [n_l] a layer. down_bias: float32 [d] a layer to add to down_proj's bias (Llama stores it with
    `mlp_bias`). export: `exact` widths, or `pad` with zero neurons to the widest layer so that stock tools load it.

    Raises InputError if the architecture has no slot for down_proj's bias."""
    config = read_config(base.directory)
    if down_bias and "mlp_bias" not in config:
        raise InputError(
            f"compensate: bias needs a bias on down_proj, which {config.get('model_type')!r} models have no slot for "
            "(Llama has `mlp_bias`); use `compensate: none` for this model"
        )
    widths = [int(keep.sum()) for keep in keeps]
    pad_to = max(widths) if export == "pad" else None
    index = {}
    for file in base.files:
        tensors = {}
        for name in (n for n, f in base.file_of.items() if f == file):
            match = FFN_TENSOR.match(name)
            is_down = bool(match) and match["proj"] == "down"
            if down_bias and is_down and match["kind"] == "bias":
                continue  # written with its weight, below
            tensors[name] = slice_tensor(name, base.tensor(name), keeps, pad_to=pad_to)
            if down_bias and is_down:
                tensors |= biases(base, int(match["layer"]), tensors[name], down_bias)
        save_file(tensors, output / file.name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file.name)
    if len(base.files) > 1:
        size = sum((output / file.name).stat().st_size for file in base.files)
        (output / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=2)
        )
    config = compact_config(config, [pad_to] * len(widths) if pad_to else widths)
    if down_bias:
        config["mlp_bias"] = True
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in sorted(base.directory.iterdir()):
        skip = file.name in ("config.json", "manifest.json", "README.md") or ".safetensors" in file.name
        if file.is_file() and not skip:
            shutil.copyfile(file, output / file.name)


def biases(
    base: Checkpoint, layer: int, down: torch.Tensor, down_bias: Mapping[int, np.ndarray]
) -> dict[str, torch.Tensor]:
    """The bias tensors that `mlp_bias` wants: the compensation on down_proj, zeros on gate and up.

    A base model that has biases of its own keeps them: its gate and up ones are sliced with the weights."""
    name = base.name(layer, "down", "bias")
    present = base.tensor(name).float() if name in base.file_of else 0
    made = {name: (present + torch.from_numpy(down_bias[layer])).to(down.dtype)}
    for proj in ("gate", "up"):
        if base.name(layer, proj, "bias") not in base.file_of:
            made[base.name(layer, proj, "bias")] = down.new_zeros(down.shape[1])
    return made
