"""Where llama.cpp's tensors lie in transformers'."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pruning.models.families import FAMILIES
from pruning.models.structures.experts import CORRECTION

if TYPE_CHECKING:
    from transformers import PretrainedConfig

View = Callable[[np.ndarray], np.ndarray]
"""A part of a tensor, without a copy: what is written into it is in the tensor."""
SHARED_GATE = "shared_expert_gate.weight"
"""Qwen2-MoE's weight of its shared expert: [1, d], in llama.cpp [d]."""


def parts(name: str, config: "PretrainedConfig") -> dict[str, View]:
    """Return llama.cpp's tensors of one of transformers', as that would call them, and where each lies in it.

    Experts: gate and up are one parameter [E, 2 f, d], gate's rows before up's, and down is [E, d, f]. In gpt-oss these
    are transposed, [E, d, 2 f] and [E, f, d], and gate's and up's columns alternate. DeepSeek's keys and values, in one
    matrix [heads * (n + v), r], are [heads, r, n] and [heads, v, r]."""
    stem, _, last = name.rpartition(".")
    turned = (mixture := FAMILIES[config.model_type].mixture) and mixture.interleaved
    kind = "bias" if last.endswith("_bias") else "weight"
    match last.removesuffix("_bias"):
        case "gate_up_proj" if stem.endswith("experts"):
            halves = {"gate": partial(half, turned, kind, 0), "up": partial(half, turned, kind, 1)}
            return {f"{stem}.{which}_proj.{kind}": view for which, view in halves.items()}
        case "down_proj" if stem.endswith("experts"):
            return {f"{name.removesuffix('_bias')}.{kind}": transposed if turned and kind == "weight" else whole}
        case "sinks":
            return {f"{name}.weight": whole}
    if name.endswith(CORRECTION):
        return {f"{name.removesuffix('_bias')}.bias": whole}
    if name.endswith(SHARED_GATE):
        return {name: lambda values: values[0]}
    if name.endswith("kv_b_proj.weight"):
        keys = slice(config.qk_nope_head_dim)
        return {
            name.replace("kv_b", "k_b"): lambda values: of_heads(values, config)[:, keys].swapaxes(1, 2),
            name.replace("kv_b", "v_b"): lambda values: of_heads(values, config)[:, keys.stop :],
        }
    return {name: whole}


def whole(values: np.ndarray) -> np.ndarray:
    return values


def transposed(values: np.ndarray) -> np.ndarray:
    return values.swapaxes(1, 2)


def half(turned: bool, kind: str, which: int, values: np.ndarray) -> np.ndarray:
    """Gate (0) or up (1) of both."""
    if turned:
        own = values[..., which::2]
        return own if kind == "bias" else transposed(own)
    return np.split(values, 2, axis=1)[which]


def of_heads(values: np.ndarray, config: "PretrainedConfig") -> np.ndarray:
    return values.reshape(config.num_attention_heads, -1, values.shape[-1])


def heads_of(name: str, config: "PretrainedConfig") -> int | None:
    """Attention heads of a projection that is rotated; None of other tensors."""
    of_head = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return of_head.get(name.split(".")[-2])


def interleaved(rows: int, heads: int) -> np.ndarray:
    """The order of rows [heads * 2 * pairs] in which the two of a rotated pair, half a head apart, are neighbours."""
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).ravel()
