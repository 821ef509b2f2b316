"""A model's config in llama.cpp's keys. What llama.cpp computes otherwise is refused."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pruning.core.errors import InputError
from pruning.models.gguf.architectures import Architecture

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PretrainedConfig


def parameters(writer: "GGUFWriter", config: "PretrainedConfig", own: Architecture, widths: Sequence[int]) -> None:
    """The config, in llama.cpp's keys. Raises InputError for what it computes otherwise."""
    head = head_size(config)
    writer.add_block_count(len(widths))
    writer.add_embedding_length(config.hidden_size)
    if own.renormalised is not None:
        mixture(writer, config, own, widths[0])
    else:
        writer.add_feed_forward_length(widths[0] if len(set(widths)) == 1 else list(widths))
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    attention_span(writer, config, own)
    rope(writer, config, own)
    if (found := getattr(config, "hidden_activation", None) or config.hidden_act) != own.activation:
        raise InputError(f"gguf: llama.cpp's {own.name} has {own.activation} in its FFN, not {found}")
    if getattr(config, "query_pre_attn_scalar", head) != head:
        raise InputError(
            f"gguf: query_pre_attn_scalar {config.query_pre_attn_scalar}: llama.cpp takes the head's {head}"
        )
    if config.model_type == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if config.model_type == "smollm3" and list(config.no_rope_layers) != [(n + 1) % 4 != 0 for n in range(len(widths))]:
        raise InputError("gguf: llama.cpp's smollm3 has no rotation in every fourth layer, this model in others")
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if value := getattr(config, cap, None):
            getattr(writer, f"add_{cap}")(value)


def mixture(writer: "GGUFWriter", config: "PretrainedConfig", own: Architecture, experts: int) -> None:
    """The numbers of a mixture of experts. Raises InputError for a router that llama.cpp computes otherwise."""
    if getattr(config, "norm_topk_prob", own.renormalised) != own.renormalised:
        kept = "makes the weights of a token's experts add up to 1" if own.renormalised else "takes them as they are"
        raise InputError(f"gguf: norm_topk_prob: {str(config.norm_topk_prob).lower()}: llama.cpp's {own.name} {kept}")
    if getattr(config, "clip_qkv", None):
        raise InputError(f"gguf: clip_qkv: {config.clip_qkv}: llama.cpp's {own.name} clips nothing")
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    if width := getattr(config, "moe_intermediate_size", None):
        writer.add_expert_feed_forward_length(width)
    if width := getattr(config, "shared_expert_intermediate_size", None):
        writer.add_expert_shared_feed_forward_length(width)


def head_size(config: "PretrainedConfig") -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def attention_span(writer: "GGUFWriter", config: "PretrainedConfig", own: Architecture) -> None:
    """How far it looks back; without a sliding window in llama.cpp the context ends where that would matter."""
    sliding = [kind == "sliding_attention" for kind in getattr(config, "layer_types", None) or []]
    window, longest = getattr(config, "sliding_window", None), config.max_position_embeddings
    if window and own.window:
        writer.add_sliding_window(window)
        writer.add_sliding_window_pattern(sliding)
    elif window and (any(sliding) or config.model_type in ("mistral", "phi3")):
        longest = min(longest, window)
    writer.add_context_length(longest)


def rope(writer: "GGUFWriter", config: "PretrainedConfig", own: Architecture) -> None:
    """The rotary embedding. Raises InputError for a scaling other than linear, YaRN and Llama 3's (`rope_freqs`)."""
    import gguf

    settings = config.rope_parameters.get("full_attention", config.rope_parameters)
    if local := config.rope_parameters.get("sliding_attention"):
        writer.add_rope_freq_base_swa(local["rope_theta"])
    writer.add_rope_freq_base(settings["rope_theta"])
    share = settings.get("partial_rotary_factor", 1.0)
    if share != 1 and own.interleaved:
        raise InputError(f"gguf: partial_rotary_factor {share} is not converted for {own.name}")
    writer.add_rope_dimension_count(int(head_size(config) * share))
    kind = settings.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(settings["factor"])
    if kind == "yarn":
        others = {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}
        if named := sorted(key for key in others if settings.get(key) is not None):
            raise InputError(f"gguf: rope_parameters: YaRN's {', '.join(named)} is not converted")
        writer.add_rope_scaling_orig_ctx_len(settings["original_max_position_embeddings"])
    elif kind not in ("default", "linear", "llama3"):
        raise InputError(f"gguf: rope_type {kind!r} is not converted; default, linear, llama3 and yarn are")


def frequency_factors(config: "PretrainedConfig") -> np.ndarray | None:
    """Llama 3's scaling: what each frequency is divided by, float32 [head / 2]; computed by transformers."""
    if config.rope_parameters.get("rope_type") != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    head = head_size(config)
    plain = config.rope_parameters["rope_theta"] ** -(np.arange(0, head, 2) / head)
    return (plain / scaled.double().numpy()).astype(np.float32)
