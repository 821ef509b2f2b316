"""Physically smaller models: rows of gate/up and columns of down_proj cut out, and where a mask says so key-value
groups of attention; everything else as it was.

On disk it works tensor by tensor on safetensors, shard for shard, so a 7B model needs the memory of one shard; in
memory, layer by layer.
"""

import importlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pruning.core.errors import InputError
from pruning.methods import masks
from pruning.methods.compensation import Compensated
from pruning.models import families, remote_code
from pruning.models.checkpoint import Checkpoint, has_mlp_bias, read_config
from pruning.models.structures import ffn, kv_groups


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
    attention: bool = False,
    groups: Sequence[np.ndarray] | None = None,
) -> None:
    """Write the compact model below the existing directory `output`.

    keeps: one bool [n_l] a layer. groups: the same of key-value groups, where any are cut. compensate: gives a layer's
    down_proj in place of the kept columns; called once a
    layer, in any order. attention: it gives attention's output projection as well. Llama stores its bias with
    `mlp_bias`; for a family without a slot the tensor is written all the same and config.json says `ffn_down_bias`,
    which models/loading.py reads. export: `exact` widths, or `pad` with zero neurons to the widest layer so that stock
    tools load it.

    Raises InputError for `pad` where the stock class has no slot for down_proj's bias, or where groups are cut."""
    config = read_config(base.directory)
    if export == "pad" and groups:
        raise InputError("export: pad makes models for stock tools, which have as many key-value groups in every layer")
    widths = [int(keep.sum()) for keep in keeps]
    pad_to = max(widths) if export == "pad" else None
    index = {}
    with_down = {base.attention_out(layer) for layer in range(base.layers)} if compensate and attention else set()
    for file in base.files:
        tensors = {}
        for name in (n for n, f in base.file_of.items() if f == file and n not in with_down):
            part = ffn.parse(name, base.family)
            if not compensate or not part or part.projections != ("down",):
                tensor = ffn.cut(name, base.tensor(name), keeps, base.family, pad_to=pad_to)
                tensors[name] = kv_groups.cut(name, tensor, groups, base.family) if groups else tensor
            elif part.kind == "weight":  # its bias is written with it, and attention's weight where that is another
                tensors |= compensated_tensors(base, part.layer, compensate(part.layer), config, pad_to)
        save_file(tensors, output / file.name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file.name)
    if len(base.files) > 1:
        size = sum((output / file.name).stat().st_size for file in base.files)
        (output / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=2)
        )
    config = ffn.compact_config(config, [pad_to] * len(widths) if pad_to else widths)
    if base.name(0, "down", "bias") in index and base.name(0, "down", "bias") not in base.file_of:
        config["mlp_bias" if has_mlp_bias(config) else ffn.DOWN_BIAS] = True
    if export == "pad" and config.get(ffn.DOWN_BIAS):
        raise InputError(f"export: {no_slot(config)}")
    if groups:
        config[kv_groups.CONFIG_KEY] = [int(keep.sum()) for keep in groups]
    if {ffn.WIDTHS, ffn.DOWN_BIAS, kv_groups.CONFIG_KEY} & config.keys():
        config.setdefault(ffn.WIDTHS, widths)
        (output / remote_code.FILE).write_text(remote_code.source(config, base.family), encoding="utf-8")
        config = remote_code.named(config)
    elif "auto_map" in read_config(base.directory):  # of an earlier round, whose widths differed
        config["architectures"] = [remote_code.stock_name(config)]
    (output / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in sorted(base.directory.iterdir()):
        skip = (
            file.name in ("config.json", "manifest.json", "README.md", remote_code.FILE) or ".safetensors" in file.name
        )
        if file.is_file() and not skip and not file.name.startswith("."):
            shutil.copyfile(file, output / file.name)


def keeps_of(mask: Path, base: Checkpoint) -> list[np.ndarray]:
    """bool [n_l] a layer. Raises InputError if the mask does not fit the model."""
    return masks.keeps_of(mask, base.directory, base.widths)


def compensation(
    scheme: str, evidence: Path | None, base: Checkpoint, keeps: Sequence[np.ndarray]
) -> Callable[[int], Compensated] | None:
    """A function from a layer's number to its down_proj; None where nothing is compensated.

    Raises InputError without the evidence that the scheme needs."""
    if scheme == "none":
        return None
    if evidence is None:
        raise InputError(f"compensate: {scheme} needs --evidence")
    module = importlib.import_module(f"pruning.methods.compensation.{scheme}")
    of_layer = module.evidence(evidence, base.widths)
    return lambda layer: module.compensate(base.matrix(layer, "down"), keeps[layer], of_layer(layer))


def refits_attention(scheme: str) -> bool:
    """Whether a compensation gives attention's output projection, too."""
    return scheme != "none" and hasattr(importlib.import_module(f"pruning.methods.compensation.{scheme}"), "ATTENTION")


def cut(
    model: torch.nn.Module,
    base: Checkpoint,
    keeps: Sequence[np.ndarray],
    compensate: Callable[[int], Compensated] | None = None,
    groups: Sequence[np.ndarray] | None = None,
) -> None:
    """Make the dense model, loaded from `base`, in place what loading a compact one of these arguments gives
    (write_compact), up to its config."""
    layers = families.decoder_layers(model)
    for layer in range(len(keeps)):
        ffn.shrink(layers[layer], layer, keeps, base.family)
        if groups:
            kv_groups.shrink(layers[layer], layer, groups, base.family)
        if compensate is None:
            continue
        made = compensated_tensors(base, layer, compensate(layer), {}, None)
        down = ffn.modules(layers[layer], base.family)["down",]
        attention = layers[layer].get_submodule(base.family.attention_out)
        places = [(down, kind, base.name(layer, "down", kind)) for kind in ("weight", "bias")]
        for module, kind, name in [*places, (attention, "weight", base.attention_out(layer))]:
            if (tensor := made.get(name)) is not None:
                own = tensor.to(module.weight.device, module.weight.dtype)
                setattr(module, kind, torch.nn.Parameter(own, requires_grad=False))


def parameters(
    base: Checkpoint, widths: Sequence[int], biased: bool = False, groups: Sequence[np.ndarray] | None = None
) -> int:
    """Parameters of the compact model of these widths, without making it; tied weights count once.

    groups: the key-value groups that stay, where any are cut. biased: every down_proj has got a bias, and with Llama's
    `mlp_bias` gate and up as well."""
    total = 0
    for name in base.file_of:
        part, shape = ffn.parse(name, base.family), base.shape(name)
        if part and part.axis is not None:
            shape[part.axis] = len(part.projections) * widths[part.layer]
        total += math.prod(kv_groups.cut_shape(name, shape, groups, base.family) if groups else shape)
    if biased:
        slots = ("gate", "up", "down") if has_mlp_bias(read_config(base.directory)) else ("down",)
        for (layer, width), slot in product(enumerate(widths), slots):
            if base.name(layer, slot, "bias") not in base.file_of:
                total += base.shape(base.name(layer, "down"))[0] if slot == "down" else width
    return total


def achieved(
    base: Checkpoint, original: Sequence[int], widths: Sequence[int], groups: Sequence[np.ndarray] | None = None
) -> float:
    """The share of the FFN neurons that is removed, original: widths before any pruning; key-value groups that were
    removed, in earlier iterations as well, count as the neurons of as many parameters."""
    return 1 - sum(widths) / sum(original) + base.groups_removed(groups) / sum(original)


def loader_of(directory: Path) -> str:
    """What loads a compact model right, beside pruning.models.loading."""
    return "transformers, trust_remote_code=True" if "auto_map" in read_config(directory) else "transformers"


def compensated_tensors(
    base: Checkpoint, layer: int, made: Compensated, config: dict, pad_to: int | None
) -> dict[str, torch.Tensor]:
    """A layer's down_proj with its bias, zeros on gate and up where `mlp_bias` wants biases there as well, and
    attention's output projection where it is another.

    A base model that has biases of its own keeps them: its gate and up ones are sliced with the weights."""
    name, bias = base.name(layer, "down"), base.name(layer, "down", "bias")
    down = ffn.padded(torch.from_numpy(made.weight).to(base.tensor(name).dtype), 1, pad_to)
    present = {bias: base.tensor(bias)} if bias in base.file_of else {}
    tensors = {name: down, **present}
    if made.attention is not None:
        other = base.attention_out(layer)
        tensors[other] = torch.from_numpy(made.attention).to(base.tensor(other).dtype)
    if made.bias is None:
        return tensors
    total = sum((tensor.float() for tensor in present.values()), torch.from_numpy(made.bias))
    tensors[bias] = total.to(down.dtype)
    for proj in ("gate", "up") if has_mlp_bias(config) else ():
        if base.name(layer, proj, "bias") not in base.file_of:
            tensors[base.name(layer, proj, "bias")] = down.new_zeros(down.shape[1])
    return tensors
