"""A model directory on disk, seen as tensors: which are FFN weights, and reading them a layer at a time.

Knows only the naming that Qwen2, Llama, Mistral, Gemma and their kin share, `….layers.L.mlp.{gate,up,down}_proj`;
no model code is imported, so scoring and compaction of a 7B model need the memory of one shard.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from pruning.core.errors import InputError

FFN_TENSOR = re.compile(
    r"^(?P<prefix>.*\blayers)\.(?P<layer>\d+)\.mlp\.(?P<proj>gate|up|down)_proj\.(?P<kind>weight|bias)$"
)

DOWN_BIAS = "ffn_down_bias"
"""Key of config.json that says that every down_proj has a bias for which the family's stock class has no slot; only
pruning.models.loading builds such a model."""


class Checkpoint:
    """The safetensors of a model directory. Raises InputError if there are none, or no gated FFN among them."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.files = sorted(directory.glob("*.safetensors"))
        if not self.files:
            raise InputError(f"{directory}: no *.safetensors here; only safetensors checkpoints are read")
        self.file_of: dict[str, Path] = {}
        for file in self.files:
            try:
                with safe_open(file, "pt") as tensors:
                    self.file_of.update(dict.fromkeys(tensors.keys(), file))
            except (SafetensorError, OSError) as error:
                raise InputError(
                    f"{file}: not a whole safetensors file ({error}); delete it and fetch it again"
                ) from None
        matches = [m for m in map(FFN_TENSOR.match, self.file_of) if m]
        weights = {(int(m["layer"]), m["proj"]) for m in matches if m["kind"] == "weight"}
        layers = sorted({layer for layer, _ in weights})
        if not layers or layers != list(range(len(layers))) or len(weights) != 3 * len(layers):
            raise InputError(
                f"{directory}: not a gated-FFN decoder: looked for layers.N.mlp.gate_proj, .up_proj and .down_proj in "
                f"every layer, found {len(weights)} such weights among {len(self.file_of)} tensors"
            )
        self.prefix = matches[0]["prefix"]
        self.layers = len(layers)

    def name(self, layer: int, proj: str, kind: str = "weight") -> str:
        return f"{self.prefix}.{layer}.mlp.{proj}_proj.{kind}"

    def tensor(self, name: str) -> torch.Tensor:
        with safe_open(self.file_of[name], "pt") as tensors:
            return tensors.get_tensor(name)

    def shape(self, name: str) -> list[int]:
        with safe_open(self.file_of[name], "pt") as tensors:
            return tensors.get_slice(name).get_shape()

    def matrix(self, layer: int, proj: str) -> np.ndarray:
        """One FFN weight as float32: gate and up are [n, d], down is [d, n]."""
        return self.tensor(self.name(layer, proj)).float().numpy()

    @property
    def widths(self) -> list[int]:
        """FFN neurons of each layer."""
        return [self.shape(self.name(layer, "down"))[1] for layer in range(self.layers)]

    @property
    def parameters(self) -> int:
        """Parameters stored; tied weights count once."""
        return sum(int(np.prod(self.shape(name))) for name in self.file_of)


def has_mlp_bias(config: dict) -> bool:
    """Whether the stock class takes `mlp_bias`, a bias on gate, up and down_proj; older config.json do not name it."""
    if "mlp_bias" in config:
        return True
    from transformers import AutoConfig  # slow, and unneeded where nothing is compensated by a bias

    try:
        return hasattr(AutoConfig.for_model(config["model_type"]), "mlp_bias")
    except (KeyError, ValueError):
        return False  # a family that transformers does not know, which loading will say


def read_config(directory: Path) -> dict:
    try:
        return json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{directory}/config.json: {error}") from None
