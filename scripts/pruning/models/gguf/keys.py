"""A model's config in llama.cpp's keys. What llama.cpp computes otherwise is refused."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pruning.core.errors import InputError
from pruning.models.families import FAMILIES
from pruning.models.gguf.architectures import Architecture
from pruning.models.gguf_reader import head_size, query_scale

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PretrainedConfig


FIXED = {
    "gpt-oss": {"swiglu_alpha": 1.702, "swiglu_limit": 7.0},
    "deepseek2": {"attention_bias": False, "rope_interleave": True},
}
"""What llama.cpp does not read from a file: keys of config.json, and their values."""
LITE = (26, 27)
"""Layers by which llama.cpp knows DeepSeek-V2-Lite, whose queries are one product."""


def parameters(writer: "GGUFWriter", config: "PretrainedConfig", own: Architecture, widths: Sequence[int]) -> None:
    """The config, in llama.cpp's keys. Raises InputError for what it computes otherwise."""
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    if FAMILIES[config.model_type].mixture:
        mixture(writer, config, own, widths[-1])
    else:
        writer.add_feed_forward_length(widths[0] if len(set(widths)) == 1 else list(widths))
    writer.add_head_count(config.num_attention_heads)
    heads(writer, config)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    attention_span(writer, config, own)
    rope(writer, config, own)
    if (found := getattr(config, "hidden_activation", None) or config.hidden_act) != own.activation:
        raise InputError(f"gguf: llama.cpp's {own.name} has {own.activation} in its FFN, not {found}")
    taken = query_scale(config, own.name)
    if getattr(config, "query_pre_attn_scalar", taken) != taken:
        raise InputError(f"gguf: query_pre_attn_scalar {config.query_pre_attn_scalar}: llama.cpp takes {taken}")
    if config.model_type == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if config.model_type == "smollm3" and list(config.no_rope_layers) != [(n + 1) % 4 != 0 for n in range(len(widths))]:
        raise InputError("gguf: llama.cpp's smollm3 has no rotation in every fourth layer, this model in others")
    in_turn = ["full_attention" if n % 2 else "sliding_attention" for n in range(len(widths))]
    if config.model_type == "gpt_oss" and list(config.layer_types) != in_turn:
        raise InputError("gguf: llama.cpp's gpt-oss has a sliding window in every other layer, this model in others")
    for key, value in FIXED.get(own.name, {}).items():
        if (found := getattr(config, key, value)) != value:
            raise InputError(f"gguf: {key}: {found}: llama.cpp's {own.name} has {value}")
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if value := getattr(config, cap, None):
            getattr(writer, f"add_{cap}")(value)


def mixture(writer: "GGUFWriter", config: "PretrainedConfig", own: Architecture, experts: int) -> None:
    """The numbers of a mixture of experts. Raises InputError for a router or an expert that llama.cpp computes
    otherwise."""
    import gguf

    if own.renormalised is not None and getattr(config, "norm_topk_prob", own.renormalised) != own.renormalised:
        kept = "makes the weights of a token's experts add up to 1" if own.renormalised else "takes them as they are"
        raise InputError(f"gguf: norm_topk_prob: {str(config.norm_topk_prob).lower()}: llama.cpp's {own.name} {kept}")
    if getattr(config, "clip_qkv", None):
        raise InputError(f"gguf: clip_qkv: {config.clip_qkv}: llama.cpp's {own.name} clips nothing")
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    wide = config.intermediate_size if own.name == "gpt-oss" else None
    if width := getattr(config, "moe_intermediate_size", wide):
        writer.add_expert_feed_forward_length(width)
    if own.renormalised is None:
        writer.add_leading_dense_block_count(config.first_k_dense_replace)
        writer.add_expert_shared_count(config.n_shared_experts)
        writer.add_expert_weights_norm(config.norm_topk_prob)
        writer.add_expert_weights_scale(config.routed_scaling_factor)
        how = {"deepseek_v2": gguf.ExpertGatingFuncType.SOFTMAX, "deepseek_v3": gguf.ExpertGatingFuncType.SIGMOID}
        writer.add_expert_gating_func(how[config.model_type])
    if width := getattr(config, "shared_expert_intermediate_size", None):
        writer.add_expert_shared_feed_forward_length(width)


def heads(writer: "GGUFWriter", config: "PretrainedConfig") -> None:
    """Write what attention has of keys and values.

    DeepSeek's are projections of one short vector per token, which llama.cpp takes for the one key and value of all
    heads. Raises InputError for queries that it computes otherwise."""
    head, low = head_size(config), getattr(config, "kv_lora_rank", None)
    writer.add_head_count_kv(1 if low else config.num_key_value_heads)
    writer.add_key_length(low + config.qk_rope_head_dim if low else head)
    writer.add_value_length(low or head)
    if low:
        writer.add_kv_lora_rank(low)
        rank, layers = config.q_lora_rank, config.num_hidden_layers
        if (rank is None) != (layers in LITE):
            said = f"q_lora_rank: {'null' if rank is None else rank} with {layers} layers"
            raise InputError(f"gguf: {said}: llama.cpp's deepseek2 has none with 26 or 27 layers, and one with others")
        if rank is not None:
            writer.add_q_lora_rank(rank)
        writer.add_key_length_mla(config.qk_nope_head_dim + config.qk_rope_head_dim)
        writer.add_value_length_mla(config.v_head_dim)


IN_ALL_LAYERS = ("mistral", "mixtral", "phi3", "qwen3_moe")
"""Model types whose window is every layer's, and that list no `layer_types`."""


def attention_span(writer: "GGUFWriter", config: "PretrainedConfig", own: Architecture) -> None:
    """How far it looks back; without a sliding window in llama.cpp the context ends where that would matter."""
    sliding = [kind == "sliding_attention" for kind in getattr(config, "layer_types", None) or []]
    window, longest = getattr(config, "sliding_window", None), config.max_position_embeddings
    if window and own.window:
        writer.add_sliding_window(window)
        writer.add_sliding_window_pattern(sliding)
    elif window and (any(sliding) or config.model_type in IN_ALL_LAYERS):
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
        both = settings.get("mscale"), settings.get("mscale_all_dim")
        fixed = {"attention_factor": None, "beta_fast": 32, "beta_slow": 1, "truncate": True}
        if own.name == "gpt-oss":  # llama.cpp truncates where the model does not, in its own files as well
            del fixed["truncate"]
        named = [key for key, value in fixed.items() if settings.get(key) not in (None, value)]
        if both[0] != both[1] or (both[0] and own.name != "deepseek2"):
            named += ["mscale", "mscale_all_dim"]
        if named:
            raise InputError(f"gguf: rope_parameters: YaRN's {', '.join(named)} is not converted")
        if both[0]:
            writer.add_rope_scaling_yarn_log_mul(0.1 * both[0])
        writer.add_rope_scaling_orig_ctx_len(settings["original_max_position_embeddings"])
    elif kind not in ("default", "linear", "llama3"):
        raise InputError(f"gguf: rope_type {kind!r} is not converted; default, linear, llama3 and yarn are")
