"""Model families: what each calls the parts that are measured and cut. A new one is a line of FAMILIES.

Only these are accepted, each proven on a tiny random model (tests/unit/test_families.py, test_experts.py): that the
cross-entropy is the model's own, that a compact model is the masked one, and that it can be saved and loaded. What a
family does to its logits (Gemma 2's soft cap, Granite's and Cohere's scale), and to its router's, is in its own forward
pass, which is what is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core.errors import InputError
from pruning.core.files import REPLACE, read_object

if TYPE_CHECKING:
    import torch
    from torch import nn  # slow, and unneeded for names


@dataclass(frozen=True)
class Mixture:
    """An FFN that is a mixture of experts. In transformers' class it has `experts`, all of which are in one parameter
    (`gate_up_proj`, `down_proj`, [experts, …, …]), and a router; on disk an expert may have tensors of its own."""

    router: str = "gate"
    """The module with a row an expert, from the FFN."""
    stored: str = "mlp"
    """What the FFN is called on disk."""
    matrices: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    """An expert's gate, up and down on disk, where it has tensors of its own."""
    interleaved: bool = False
    """Whether the parameters are transposed, and gate's and up's columns alternate."""


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
    mixture: Mixture | None = None
    """Of a family whose FFNs are mixtures of experts: `gate_up` and `down` are then of no meaning."""
    first: int = 0
    """Number of the first layer that is pruned: those before it have a dense FFN in place of experts, and stay."""

    @property
    def main(self) -> str:
        """The structure in which sparsity is counted (models/structures/): a mixture's experts, or FFN neurons."""
        return "experts" if self.mixture else "ffn"


GROUPED = ("deepseek_v2", "deepseek_v3")
"""Mixtures whose routers may choose among groups of experts first, which is not supported: `n_group` must be 1."""
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
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "olmoe"), Family(qkv=(), mixture=Mixture())),
    "mixtral": Family(qkv=(), mixture=Mixture(stored="block_sparse_moe", matrices=("w1", "w3", "w2"))),
    "gpt_oss": Family(qkv=(), mixture=Mixture(router="router", interleaved=True)),
    **dict.fromkeys(GROUPED, Family(qkv=(), mixture=Mixture())),
}
MIXTURES = tuple(name for name, family in FAMILIES.items() if family.mixture)
DENSE = tuple(name for name in FAMILIES if name not in MIXTURES)

UNGATED = "an FFN is a layer of its own, and has no gate (up_proj and down_proj alone)"
SCALED = "its FFN multiplies gate and output by numbers of its config.json (mlp_multipliers)"
MISSING = {"nemotron_h": UNGATED, "falcon_h1": SCALED, "jamba": "some of its layers are mixtures of experts"}
"""Hybrids that are refused, and why."""
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Keys of config.json: how many experts a layer has, in whatever family."""
EXPERT_WIDTHS = ("moe_intermediate_size", "intermediate_size")
"""Keys of which the first that is there says how many neurons an expert has."""
EXPERT_MULTIPLE = 8
"""Of which their number must be a multiple: rows of 16 bytes, in 16-bit types, are what torch's grouped products take,
by which transformers computes experts."""
DENSE_LAYERS = "first_k_dense_replace"
"""The key that says how many layers, a mixture's first ones, have a dense FFN in place of experts."""
TOP_K = "num_experts_per_tok"
"""The key that says to how many of them a token is sent."""

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
    layers, dense = config.get("num_hidden_layers"), config.get(DENSE_LAYERS)
    if config.get("model_type") in FAMILIES:
        for key in (*SIZES, *EXPERTS, TOP_K):
            expect(key, "a whole number from 1 to 2147483647", _counts([config.get(key)], 1, 2**31 - 1))
        expect(DENSE_LAYERS, "a whole number below num_hidden_layers", _counts([dense], 0, layers) and dense < layers)
    for key, whole in ((WIDTHS, "intermediate_size"), (GROUPS, "num_key_value_heads")):
        most, found = config.get(whole), config.get(key)
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
        if FAMILIES[kind].mixture:
            _check_mixture(config, source)
        return replace(FAMILIES[kind], first=dense_layers(config))
    reason = "it is no decoder with one gated FFN in every layer, or not yet tried"
    if any(config.get(key) for key in EXPERTS):
        reason = "it is a mixture of experts of a kind not yet tried"
    if kind in MISSING:
        reason = f"it is a hybrid of which {MISSING[kind]}"
    if config.get("is_encoder_decoder"):
        reason = "it is an encoder-decoder"
    raise InputError(
        f"{source}: model type {kind!r} cannot be pruned: {reason}; supported: {', '.join(sorted(FAMILIES))} "
        "(scripts/pruning/models/families.py)"
    )


def _check_mixture(config: Mapping[str, Any], source: object) -> None:
    """Raise InputError, naming `source`, for a mixture whose layers with experts are not its last ones, or whose
    experts are quantised or chosen by groups."""
    kind, stored = config["model_type"], config.get("quantization_config")
    if stored:
        method = stored.get("quant_method", "unknown") if isinstance(stored, Mapping) else stored
        raise InputError(
            f"{source}: {kind} model with quantised experts (quantization_config: {method}), which cannot be pruned: "
            "give the model in bfloat16"
        )
    dense = {"mlp_only_layers": own} if (own := config.get("mlp_only_layers")) else {}
    if (step := config.get("decoder_sparse_step", 1)) != 1:
        dense["decoder_sparse_step"] = step
    if dense:
        said = ", ".join(f"{key}: {own}" for key, own in dense.items())
        raise InputError(f"{source}: {kind} model with experts in some layers alone ({said}), which is not supported")
    if not any(config.get(key) for key in EXPERTS) or not config.get(TOP_K):
        raise InputError(f"{source}: {kind} model whose config.json does not say {' or '.join(EXPERTS)}, or {TOP_K}")
    if kind in GROUPED and config.get("n_group") != 1:
        said = f"n_group: {config.get('n_group')}"
        raise InputError(f"{source}: {kind} model whose experts are chosen by groups ({said}), which is not supported")


def dense_layers(config: Mapping[str, Any]) -> int:
    """Return how many layers of a mixture, its first ones, have a dense FFN in place of experts."""
    return config.get(DENSE_LAYERS) or 0 if FAMILIES[config["model_type"]].mixture else 0


def check_routed(experts: int, routed: int, left: int) -> None:
    """Raise InputError if of so many experts a layer fewer are left than each token is sent to."""
    if left < routed:
        raise InputError(
            f"experts: of {experts} in every layer {left} would stay, fewer than the {routed} that each token is sent "
            f"to ({TOP_K}): remove at most {100 * (experts - routed) // experts}%"
        )


def obstacle(config: Mapping[str, Any]) -> str:
    """Return why no layer can be refitted towards the dense model's residual stream; empty where it can."""
    family = family_of(config, "config.json")
    if family.norm_after or config.get("residual_multiplier", 1) != 1:  # in Granite
        return "normalises or scales what its layers add to the residual stream"
    return "has layers without attention" if family.hybrid else ""


def check_plain_residual(config: Mapping[str, Any], place: str, instead: str) -> None:
    """Raises InputError, naming the setting `place` and what to use `instead`, where there is an `obstacle`."""
    if reason := obstacle(config):
        raise InputError(
            f"{place}: model type {config['model_type']!r} {reason}, which this reconstruction does not solve for: use "
            f"{instead}"
        )


def of(model: nn.Module) -> Family:
    """The family of a loaded model. Raises InputError as `family_of` does, and for what is no model."""
    if not hasattr(getattr(model, "config", None), "to_dict"):
        raise InputError(f"model: a {type(model).__name__}: give a transformers model, the first that `load` returns")
    return family_of(model.config.to_dict(), type(model).__name__)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    return list(model.get_submodule(of(model).layers))


def pruned_layers(model: nn.Module) -> list[nn.Module]:
    """Return the decoder layers that masks are of: all, but those of a mixture that have a dense FFN."""
    return decoder_layers(model)[of(model).first :]


def device(model: nn.Module, module: nn.Module) -> torch.device:
    """Where a linear module of the model computes, which for one that stays on disk is where the embeddings are."""
    own = module.weight.device
    return model.get_input_embeddings().weight.device if own.type == "meta" else own


def final_norm(model: nn.Module) -> nn.Module:
    return model.get_submodule(of(model).norm)
