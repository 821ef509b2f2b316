"""Pruned models, assembled in one place: a dense model, a mask, and what compensates for the removed units; written as
a physically smaller model, or cut in memory.

On disk it works tensor by tensor on safetensors, shard for shard, so a 7B model needs the memory of one shard; in
memory, layer by layer. Both give the same weights, bit for bit.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import compensation, masks
from pruning.methods.compensation import Compensated
from pruning.methods.masks import NEURONS
from pruning.models import families, remote_code, structures, vocabulary
from pruning.models.checkpoint import Checkpoint, Loaded, Tensors, has_mlp_bias, read_config
from pruning.models.structures import STRUCTURES, ffn
from pruning.models.structures.base import Keeps, padded
from pruning.models.vocabulary import Kept


def no_slot(config: dict) -> str:
    """What is wrong with a bias on down_proj of this model and `export: pad`, and what to do."""
    return (
        f"pad makes models for stock tools, which have no slot for the bias of down_proj in {config.get('model_type')} "
        "models (Llama has `mlp_bias`); use `export: exact`, or `compensate: none` or `ridge`"
    )


@dataclass(frozen=True)
class Pruning:
    """What a pruned model is made of."""

    base: Tensors  # The dense model: one in memory for `apply`, a Checkpoint for `write` as well
    keeps: Keeps
    compensate: Callable[[int], Compensated] | None = None
    """Gives a layer's refitted weights in place of the kept columns; called once per layer, in any order."""
    refits: Sequence[str] = (NEURONS,)  # The structures of whose sites it gives weights
    biased: bool = False  # Whether it gives down_proj a bias
    trains: bool = False  # Whether it gives all matrices of a layer
    tokens: Kept | None = None  # The tokens that stay, where the vocabulary is cut; by `write` alone
    records: dict[int, Mapping[str, Any]] = field(default_factory=dict, compare=False)
    """What it says of each layer whose weights were asked for (Compensated.record)."""

    @classmethod
    def read(cls, model: Path, mask: Path, scheme: str = "none", evidence: Path | None = None) -> "Pruning":
        """Read a dense model, a mask, and what the compensation `scheme` is fitted on.

        Raises InputError if the model is broken, or the mask is another's."""
        artifacts.check_model(model)
        base = Checkpoint(model)
        keeps = masks.read(mask, model)
        if scheme == "none":
            return cls(base, keeps)
        return cls.fitted(base, keeps, scheme, lambda: compensation.plugin(scheme).evidence(evidence, base.widths))

    @classmethod
    def fitted(
        cls, base: Tensors, keeps: Keeps, scheme: str, evidence: Callable[[], Callable[[int], Mapping[str, Any]]]
    ) -> "Pruning":
        """Compensate by a scheme, of what `evidence` gives for each layer; it is called where weights are asked for.

        Raises InputError for a mixture of experts."""
        if base.family.mixture:
            raise InputError(f"compensate: {scheme} refits for FFN neurons that are gone, not for experts: use `none`")
        module, fitted_on = compensation.plugin(scheme), cache(evidence)

        def compensate(layer: int) -> Compensated:
            return module.compensate(base.matrix(layer, "down"), keeps[NEURONS][layer], fitted_on()(layer))

        return cls(
            base, keeps, compensate, compensation.refits(scheme), hasattr(module, "BIAS"), compensation.trains(scheme)
        )

    @property
    def warnings(self) -> dict[int, str]:
        """By layer, what is to be said of the weights that were asked for."""
        return {layer: own["warning"] for layer, own in sorted(self.records.items()) if "warning" in own}

    @property
    def main(self) -> str:
        """The structure in which sparsity is counted."""
        return masks.main(self.keeps)

    @property
    def units(self) -> dict[str, list[int]]:
        """Structure -> units that are kept in each layer."""
        return masks.counts(self.keeps)

    def write(self, output: Path, export: str = "exact") -> None:
        """Write the compact model below the existing directory `output`.

        export: `exact` widths, or `pad` with zero neurons to the widest layer so that stock tools load it: a zero row
        in gate and up and a zero column in down is a neuron that outputs nothing, act(0) * 0 = 0. Llama stores
        down_proj's bias with `mlp_bias`; for a family without a slot the tensor is written all the same and config.json
        says `ffn_down_bias`, which models/loading.py reads.

        Raises InputError for `pad` where the stock class has no slot for down_proj's bias, or where more than neurons
        is cut."""
        base, config, widths = self.base, self.base.config, self.units[self.main]
        others = {**self.keeps, **structures.others(base.config)}  # cut now, and in earlier iterations
        if export == "pad" and {*others} != {NEURONS}:
            titles = " and ".join(STRUCTURES[name].title for name in others if name != NEURONS)
            raise InputError(f"export: pad makes models for stock tools, which have as many {titles} in every layer")
        pad_to = max(widths) if export == "pad" else None
        index = self._write_tensors(output, config, pad_to)
        made = self.config([pad_to] * len(widths) if pad_to else widths)
        if (bias := base.name(0, "down", "bias")) in index and bias not in base.names:
            made["mlp_bias" if has_mlp_bias(made) else families.DOWN_BIAS] = True
        if export == "pad" and made.get(families.DOWN_BIAS):
            raise InputError(f"export: {no_slot(made)}")
        if not structures.is_stock(made):
            made.setdefault(families.WIDTHS, widths)
            (output / remote_code.FILE).write_text(remote_code.source(made, base.family), encoding="utf-8")
            made = remote_code.named(made)
        elif "auto_map" in config:  # of an earlier iteration, whose widths differed, or of code that is not fetched
            made.pop("auto_map", None)
            made["architectures"] = [remote_code.class_names(made["model_type"])[0]]
        (output / "config.json").write_text(json.dumps(made, indent=2) + "\n")
        left_out = {"config.json", "manifest.json", "README.md", remote_code.FILE}
        if self.tokens is not None:
            renumbered = vocabulary.files(base.directory, self.tokens)
            left_out |= {*vocabulary.STALE, *renumbered}
            for name, content in renumbered.items():
                (output / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for file in sorted(base.directory.iterdir()):
            weights = ".safetensors" in file.name
            if file.is_file() and file.name not in left_out and not weights and not file.name.startswith("."):
                shutil.copyfile(file, output / file.name)

    def manifest(self, output: Path, original: Mapping[str, Any], cut: Mapping[str, Any]) -> dict[str, Any]:
        """Return what manifest.json says of the model that `write` wrote to `output`.

        original: widths and parameters before any pruning. cut: what is to be said of a smaller vocabulary."""
        config, left = read_config(output), {name: own for name, own in self.units.items() if name != self.main}
        content = {
            "original": original,
            "achieved_sparsity": self.achieved(original["widths"]),
            "widths": self.units[self.main],
            **({"counted": self.main, **left} if self.base.family.mixture else {}),
            **structures.others(config),
            **cut,
            "parameters": original["parameters"],
            "parameters_kept": Checkpoint(output).parameters,
            "loads_with": "transformers" + (", trust_remote_code=True" if "auto_map" in config else ""),
            "files": artifacts.directory_hashes(output),
        }
        if self.compensate:
            content["compensation"] = [self.records[layer] for layer in range(self.base.layers)]
        return content

    def config(self, widths: Sequence[int]) -> dict[str, Any]:
        """Return config.json of the compact model, but for biases; widths: units of the main structure in each layer.

        Raises InputError as compact_config of the structures does."""
        made = self.base.main.compact_config(self.base.config, widths)
        for name, own in self.units.items():
            if name != self.main:
                made = STRUCTURES[name].compact_config(made, own)
        return made if self.tokens is None else vocabulary.settings(made, self.tokens)

    def _write_tensors(self, output: Path, config: dict[str, Any], pad_to: int | None) -> dict[str, str]:
        """Write the weights, shard for shard, what is refitted in that of its down_proj; return tensor -> file."""
        base, index = self.base, {}
        down, refitted = {}, set()
        if self.compensate:
            down = {base.name(layer, "down"): layer for layer in range(base.layers)}
            others = [name for name in self.refits if name != NEURONS]
            refitted = {base.site(name, layer) for name, layer in product(others, down.values())}
            refitted |= {base.name(layer, "down", "bias") for layer in down.values()}
            if self.trains:
                places = tuple(map(self._prefix, down.values()))
                refitted |= {name for name in base.names if name.startswith(places) and len(base.shape(name)) == 2}
                refitted -= {*down}
        for file in base.files:
            tensors: dict[str, torch.Tensor] = {}
            for name in (n for n, f in base.file_of.items() if f == file and n not in refitted):
                if name in down:
                    tensors |= self._compensated(down[name], config, pad_to)
                    continue
                if (left := self._renamed(name)) is None:
                    continue
                tensors[left] = base.tensor(name)
                for structure, own in self.keeps.items():
                    zeros_to = pad_to if structure == NEURONS else None
                    tensors[left] = STRUCTURES[structure].cut(name, tensors[left], own, base.family, zeros_to)
                if self.tokens is not None and base.has_tokens(name):
                    tensors[left] = tensors[left][list(self.tokens)]
            save_file(tensors, output / file.name, metadata={"format": "pt"})
            index |= dict.fromkeys(tensors, file.name)
        if [file.name for file in base.files] != ["model.safetensors"]:  # which is found without an index
            size = sum((output / file.name).stat().st_size for file in base.files)
            whole = {"metadata": {"total_size": size}, "weight_map": index}
            (output / "model.safetensors.index.json").write_text(json.dumps(whole, indent=2))
        return index

    def _renamed(self, name: str) -> str | None:
        """Return what a tensor is called once units are cut; None for one that leaves with them."""
        for structure, own in self.keeps.items():
            name = name and STRUCTURES[structure].renamed(name, own, self.base.family)
        return name

    def _compensated(self, layer: int, config: dict[str, Any], pad_to: int | None = None) -> dict[str, torch.Tensor]:
        """Return a layer's down_proj with its bias, zeros on gate and up where `mlp_bias` wants biases there as well,
        and attention's output projection where it is another.

        A base model that has biases of its own keeps them: its gate and up ones are sliced with the weights."""
        base, made = self.base, self.compensate(layer)
        self.records[layer] = made.record
        name, bias = base.name(layer, "down"), base.name(layer, "down", "bias")
        down = padded(torch.from_numpy(made.weight).to(base.tensor(name).dtype), 1, pad_to)
        present = {bias: base.tensor(bias)} if bias in base.names else {}
        tensors = {name: down, **present}
        for structure, weight in made.others.items():
            other = base.site(structure, layer)
            tensors[other] = torch.from_numpy(weight).to(base.tensor(other).dtype)
        for own, weight in made.trained.items():
            tensors[self._prefix(layer) + own] = torch.from_numpy(weight).to(down.dtype)
        if made.bias is None:
            return tensors
        total = sum((tensor.float().cpu() for tensor in present.values()), torch.from_numpy(made.bias))
        tensors[bias] = total.to(down.dtype)
        for proj in ("gate", "up") if has_mlp_bias(config) else ():
            if base.name(layer, proj, "bias") not in base.names:
                tensors[base.name(layer, proj, "bias")] = down.new_zeros(down.shape[1])
        return tensors

    def apply(self, model: nn.Module) -> None:
        """Make the dense model, loaded from `base`, in place what loading the written one gives, up to its config."""
        for index, layer in enumerate(families.pruned_layers(model)):
            for name, own in self.keeps.items():
                STRUCTURES[name].shrink(layer, index, own, self.base.family)
        self.rewrite(model)

    def rewrite(self, model: nn.Module) -> None:
        """Give a model that is cut already, in place, the weights that compensate for what was removed."""
        for index, layer in enumerate(families.pruned_layers(model)):
            prefix = self._prefix(index)
            for name, tensor in (self._compensated(index, {}) if self.compensate else {}).items():
                place, _, kind = name.removeprefix(prefix).rpartition(".")
                module = layer.get_submodule(place)
                own = tensor.to(module.weight.device, module.weight.dtype)
                setattr(module, kind, nn.Parameter(own, requires_grad=False))

    def must_have_cut(self, small: nn.Module) -> None:
        """Raises InputError if a model does not have the FFN neurons that this one keeps of the dense one."""
        remedy = "give what `compact` made with it"
        for name, wanted in self.units.items():
            if (found := STRUCTURES[name].counts(small)) != wanted:
                raise InputError(f"small: has {name} {found}, the mask keeps {wanted}: {remedy}")
        left = Loaded(small)
        for layer, own in enumerate(self.keeps[NEURONS]):
            if not np.array_equal(left.matrix(layer, "up"), self.base.matrix(layer, "up")[own]):
                raise InputError(f"small: layer {layer} has other neurons than the mask keeps: {remedy}")
        for name in self.keeps.keys() - {NEURONS}:
            for layer, own in enumerate(self.keeps[name]):
                whole = self.base.matrix(layer, "down", name)
                kept = np.repeat(own, whole.shape[1] // len(own))
                if not np.array_equal(left.matrix(layer, "down", name), whole[:, kept]):
                    raise InputError(f"small: layer {layer} has other {name} than the mask keeps: {remedy}")

    def _prefix(self, layer: int) -> str:
        """What names of a layer's tensors begin with."""
        return self.base.name(layer, "down").removesuffix(f"{ffn.STRUCTURE.site(self.base.family)}.weight")

    def parameters(self) -> int:
        """Return the parameters of the compact model, without making it."""
        return parameters(self.base, self.units, self.biased, self.tokens and len(self.tokens))

    def achieved(self, original: Sequence[int]) -> float:
        """Return the share of the main structure's units, FFN neurons or experts, that is removed; original: how many
        each layer had before any pruning. What is removed of other structures, in earlier iterations as well, counts as
        the units of as many parameters."""
        widths = self.units[self.main]
        return 1 - sum(widths) / sum(original) + self.base.removed(self.keeps) / sum(original)


def parameters(
    base: Tensors,
    units: Mapping[str, Sequence[int]],
    biased: bool = False,
    tokens: int | None = None,
    stored: Callable[[str], int] = lambda name: 1,
) -> int:
    """Return the parameters of the compact model of these units, without making it; tied weights count once.

    units: structure -> units of each layer; of one that is not there all stay. biased: every down_proj has got a bias,
    and with Llama's `mlp_bias` gate and up as well. tokens: how many stay; None: all. stored: what a number of a tensor
    counts, a bias that is added as one of down_proj's weight."""
    total, config = 0, base.config
    for name in base.names:
        shape = base.shape(name)
        for structure, own in units.items():
            shape = STRUCTURES[structure].cut_shape(name, shape, own, base.family, config)
        if tokens and base.has_tokens(name):
            shape = [tokens, *shape[1:]]
        total += math.prod(shape) * stored(name)
    if biased:
        slots = ("gate", "up", "down") if has_mlp_bias(config) else ("down",)
        for (layer, width), slot in product(enumerate(units[base.main.name]), slots):
            if base.name(layer, slot, "bias") not in base.names:
                down = base.name(layer, "down")
                total += (base.shape(down)[0] if slot == "down" else width) * stored(down)
    return total
