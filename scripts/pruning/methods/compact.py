"""Physically smaller models: rows of gate/up and columns of down_proj cut out, everything else copied.

Works tensor by tensor on safetensors, shard for shard, so a 7B model needs the memory of one shard.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pruning.core.errors import InputError
from pruning.methods.compensation import Compensated
from pruning.models.checkpoint import DOWN_BIAS, FFN_TENSOR, Checkpoint, has_mlp_bias, read_config


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
    return padded(tensor.index_select(axis, keep), axis, pad_to)


def padded(tensor: torch.Tensor, axis: int, width: int | None) -> torch.Tensor:
    """With zeros along an axis up to this width; None adds none."""
    if width is None or width == tensor.shape[axis]:
        return tensor.contiguous()
    shape = list(tensor.shape)
    shape[axis] = width - tensor.shape[axis]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=axis).contiguous()


def compact_config(config: dict, widths: Sequence[int]) -> dict:
    """config.json of the compact model.

    Equal widths make a stock config. Different ones are recorded as transformers' `per_layer_config`, beside the
    widest as the global `intermediate_size`; models/loading.py builds such models."""
    config = {**config, "intermediate_size": max(widths)}
    if len(set(widths)) > 1:
        config["per_layer_config"] = {str(i): {"intermediate_size": w} for i, w in enumerate(widths)}
    return config


def no_slot(config: dict) -> str:
    """What is wrong with a bias on down_proj of this model and `export: pad`, and what to do."""
    return (
        f"pad makes models for stock tools, which have no slot for the bias of down_proj in {config.get('model_type')} "
        "models (Llama has `mlp_bias`); use `export: exact`, or `compensate: none` or `ridge`"
    )


def write_compact(
    base: Checkpoint,
    output: Path,
    keeps: Sequence[np.ndarray],
    compensate: Callable[[int], Compensated] | None = None,
    export: str = "exact",
) -> None:
    """Write the compact model below the existing directory `output`.

    keeps: one bool [n_l] a layer. compensate: gives a layer's down_proj in place of the kept columns; called once a
    layer, in any order. Llama stores its bias with `mlp_bias`; for a family without a slot the tensor is written all
    the same and config.json says `ffn_down_bias`, which models/loading.py reads. export: `exact` widths, or `pad` with
    zero neurons to the widest layer so that stock tools load it.

    Raises InputError for `pad` where the stock class has no slot for down_proj's bias."""
    config = read_config(base.directory)
    widths = [int(keep.sum()) for keep in keeps]
    pad_to = max(widths) if export == "pad" else None
    index = {}
    for file in base.files:
        tensors = {}
        for name in (n for n, f in base.file_of.items() if f == file):
            match = FFN_TENSOR.match(name)
            if not compensate or not match or match["proj"] != "down":
                tensors[name] = slice_tensor(name, base.tensor(name), keeps, pad_to=pad_to)
            elif match["kind"] == "weight":  # its bias is written with it
                layer = int(match["layer"])
                tensors |= compensated_tensors(base, layer, compensate(layer), config, pad_to)
        save_file(tensors, output / file.name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file.name)
    if len(base.files) > 1:
        size = sum((output / file.name).stat().st_size for file in base.files)
        (output / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=2)
        )
    config = compact_config(config, [pad_to] * len(widths) if pad_to else widths)
    if base.name(0, "down", "bias") in index and base.name(0, "down", "bias") not in base.file_of:
        config["mlp_bias" if has_mlp_bias(config) else DOWN_BIAS] = True
    if export == "pad" and config.get(DOWN_BIAS):
        raise InputError(f"export: {no_slot(config)}")
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in sorted(base.directory.iterdir()):
        skip = file.name in ("config.json", "manifest.json", "README.md") or ".safetensors" in file.name
        if file.is_file() and not skip:
            shutil.copyfile(file, output / file.name)


def loader_of(directory: Path) -> str:
    """What loads a compact model right: stock `transformers`, or `pruning.models.loading` alone."""
    own = {"per_layer_config", DOWN_BIAS} & read_config(directory).keys()
    return "pruning.models.loading" if own else "transformers"


def compensated_tensors(
    base: Checkpoint, layer: int, made: Compensated, config: dict, pad_to: int | None
) -> dict[str, torch.Tensor]:
    """A layer's down_proj with its bias, and zeros on gate and up where `mlp_bias` wants biases there as well.

    A base model that has biases of its own keeps them: its gate and up ones are sliced with the weights."""
    name, bias = base.name(layer, "down"), base.name(layer, "down", "bias")
    down = padded(torch.from_numpy(made.weight).to(base.tensor(name).dtype), 1, pad_to)
    present = {bias: base.tensor(bias)} if bias in base.file_of else {}
    if made.bias is None:
        return {name: down, **present}
    total = sum((tensor.float() for tensor in present.values()), torch.from_numpy(made.bias))
    tensors = {name: down, bias: total.to(down.dtype)}
    for proj in ("gate", "up") if has_mlp_bias(config) else ():
        if base.name(layer, proj, "bias") not in base.file_of:
            tensors[base.name(layer, proj, "bias")] = down.new_zeros(down.shape[1])
    return tensors
