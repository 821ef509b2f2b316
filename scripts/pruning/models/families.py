"""Model families: what each calls the parts that are measured and cut. A new one is a line of FAMILIES.

Only these are accepted, each proven on a tiny random model (tests/unit/test_families.py): that the cross-entropy is the
model's own, that a compact model is the masked one, and that it can be saved and loaded. What a family does to its
logits (Gemma 2's soft cap, Granite's and Cohere's scale) is in its own forward pass, which is what is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError
from pruning.core.files import REPLACE, read_object

if TYPE_CHECKING:
    import torch
    from torch import nn  # slow, and unneeded for names


@dataclass(frozen=True)
class Family:
    """Attribute paths in transformers' class; tensors on disk are named by the same ones."""

    layers: str = "model.layers"
    """The decoder layers, from the model."""
    norm: str = "model.norm"
    """The norm before the head, from the model."""
    ffn: str = "mlp"
    """The gated FFN, from a layer."""
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    """Its linear modules with a row a neuron; one name: fused, gate's rows before up's."""
    down: str = "down_proj"
    """Its linear module with a column a neuron."""
    attention_out: str = "self_attn.o_proj"
    """The linear module whose output attention adds to the residual stream, from a layer."""
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """Its linear modules with rows a head; none: not to be cut by heads (fused, or with a norm over all of them)."""
    norm_after: bool = False
    """Whether what attention and FFN put out is normalised before it is added to the residual stream."""
    hybrid: bool = False
    """Whether some layers have something else (a convolution, linear attention) in the place of attention."""


FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "granite"), Family()),
    **dict.fromkeys(("gemma", "cohere", "cohere2"), Family()),
    **dict.fromkeys(("gemma2", "gemma3_text"), Family(norm_after=True)),
    "olmo2": Family(qkv=(), norm_after=True),
    "phi3": Family(gate_up=("gate_up_proj",), qkv=()),
    "qwen3_5_text": Family(qkv=(), hybrid=True),
    "lfm2": Family(
        norm="model.embedding_norm",
        ffn="feed_forward",
        gate_up=("w1", "w3"),
        down="w2",
        attention_out="self_attn.out_proj",
        qkv=(),
        hybrid=True,
    ),
}

UNGATED = "an FFN is a layer of its own, and has no gate (up_proj and down_proj alone)"
SCALED = "its FFN multiplies gate and output by numbers of its config.json (mlp_multipliers)"
MISSING = {"nemotron_h": UNGATED, "falcon_h1": SCALED, "jamba": "some of its layers are mixtures of experts"}
"""Hybrids that are refused, and why."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # keys of a config.json

WIDTHS, GROUPS, DOWN_BIAS = "ffn_widths", "kv_groups", "ffn_down_bias"
"""Keys of config.json that are ours: each layer's FFN neurons, its key-value groups, and whether down projections have
biases for which the stock class has no slot. What they mean is in structures/."""
SIZES = ("hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers")
SIZES += ("num_key_value_heads", "vocab_size")


def read_config(directory: Path) -> dict[str, Any]:
    """config.json. Raises InputError if it is broken, or if a key that is read here has no value of its kind."""
    path = directory / "config.json"
    config = read_object(path)

    def expect(key: str, what: str, right: bool) -> None:
        if config.get(key) is not None and not right:
            raise InputError(f"{path}: {key}: {str(config[key])[:80]} is not {what}; {REPLACE}")

    expect("model_type", "a name", isinstance(config.get("model_type"), str))
    for key in SIZES if config.get("model_type") in FAMILIES else ():
        expect(key, "a whole number from 1 to 2147483647", _counts([config.get(key)], 1, 2**31 - 1))
    for key, whole in ((WIDTHS, "intermediate_size"), (GROUPS, "num_key_value_heads")):
        layers, most, found = config.get("num_hidden_layers"), config.get(whole), config.get(key)
        right = isinstance(found, list) and len(found) == layers and _counts([most, *found], 0, most)
        expect(key, f"a list of {layers} whole numbers up to {whole}, one for each layer", right)
    expect(DOWN_BIAS, "true or false", isinstance(config.get(DOWN_BIAS), bool))
    return config


def _counts(values: list[Any], least: int, most: Any) -> bool:
    return all(type(value) is int for value in (*values, most)) and all(least <= value <= most for value in values)


def family_of(config: Mapping[str, Any], source: object) -> Family:
    """The family of a config.json. Raises InputError, naming `source`, where there is none for it."""
    kind = config.get("model_type")
    if kind in FAMILIES:
        return FAMILIES[kind]
    reason = "it is no decoder with one gated FFN in every layer, or not yet tried"
    if any(config.get(key) for key in EXPERTS):
        reason = "it is a mixture of experts"
    if kind in MISSING:
        reason = f"it is a hybrid of which {MISSING[kind]}"
    if config.get("is_encoder_decoder"):
        reason = "it is an encoder-decoder"
    raise InputError(
        f"{source}: model type {kind!r} cannot be pruned: {reason}; supported: {', '.join(sorted(FAMILIES))} "
        "(scripts/pruning/models/families.py)"
    )


def has_plain_residual(config: Mapping[str, Any]) -> bool:
    """Whether a model of this config.json adds what its attention and its FFNs put out to the residual stream as it is:
    neither normalised nor scaled (Granite)."""
    return not family_of(config, "config.json").norm_after and config.get("residual_multiplier", 1) == 1


def obstacle(config: Mapping[str, Any]) -> str:
    """Return why no layer can be refitted towards the dense model's residual stream; empty where it can."""
    if not has_plain_residual(config):
        return "normalises or scales what its layers add to the residual stream"
    return "has layers without attention" if family_of(config, "config.json").hybrid else ""


def check_plain_residual(config: Mapping[str, Any], place: str, instead: str) -> None:
    """Raises InputError, naming the setting `place` and what to use `instead`, where there is an `obstacle`."""
    if reason := obstacle(config):
        raise InputError(
            f"{place}: model type {config['model_type']!r} {reason}, which this reconstruction does not solve for: use "
            f"{instead}"
        )


def of(model: nn.Module) -> Family:
    """The family of a loaded model. Raises InputError as `family_of` does."""
    return family_of(model.config.to_dict(), type(model).__name__)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    return list(model.get_submodule(of(model).layers))


def device(model: nn.Module, module: nn.Module) -> torch.device:
    """Where a linear module of the model computes, which for one that stays on disk is where the embeddings are."""
    own = module.weight.device
    return model.get_input_embeddings().weight.device if own.type == "meta" else own


def final_norm(model: nn.Module) -> nn.Module:
    return model.get_submodule(of(model).norm)


def backbone(model: nn.Module) -> nn.Module:
    """The model without its head."""
    return getattr(model, model.base_model_prefix)
