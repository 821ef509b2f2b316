"""A model's weights and config as a GGUF file: what a family's weights and config mean to llama.cpp.

Files are written, and tensors named and quantised, by llama.cpp's own Python package `gguf` (MIT, in numpy); K-quants
and other small types by `llama_model_quantize` of llama.cpp itself, where llama-cpp-python is installed. Other widths
in every layer, and biases of down_proj, are written as `deci` (Llama with a list of widths), which what is Llama's can
be.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.core.errors import InputError
from pruning.models import structures
from pruning.models.checkpoint import Checkpoint
from pruning.models.gguf import BLOCK, OWN, tokenizer
from pruning.models.gguf import check as check_type
from pruning.models.structures.experts import NUMBERED

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp builds."""

    name: str
    interleaved: bool = False
    """Whether a rotated pair are neighbours, as in Meta's Llama; in transformers they are half a head apart."""
    ffn_biases: bool = False
    """Whether its FFN takes biases."""
    activation: str = "silu"
    """Of its FFN, in transformers' words."""
    one_added: bool = False
    """Whether norms scale by 1 + weight in transformers; in llama.cpp by the weight."""
    window: bool = False
    """Whether it has layers with a sliding window."""
    renormalised: bool | None = None
    """Of a mixture, whether the weights of a token's experts are made to add up to 1; None: it is none."""


GELU = "gelu_pytorch_tanh"
SHARED_GATE = "shared_expert_gate.weight"
"""Qwen2-MoE's weight of its shared expert: [1, d], in llama.cpp [d]."""
DECI = Architecture("deci", interleaved=True, ffn_biases=True)
LLAMA = Architecture("llama", interleaved=True, ffn_biases=True)
STOCK = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "olmo2": Architecture("olmo2"),
    "granite": Architecture("granite", interleaved=True, ffn_biases=True),
    "smollm3": Architecture("smollm3", interleaved=True),
    "gemma": Architecture("gemma", activation=GELU, one_added=True),
    "gemma2": Architecture("gemma2", activation=GELU, one_added=True, window=True),
    "gemma3_text": Architecture("gemma3", activation=GELU, one_added=True, window=True),
    "phi3": Architecture("phi3"),
    "qwen2_moe": Architecture("qwen2moe", renormalised=False),
    "qwen3_moe": Architecture("qwen3moe", renormalised=True),
    "olmoe": Architecture("olmoe", renormalised=False),
    "mixtral": Architecture("llama", interleaved=True, renormalised=True),
}
"""By transformers' model type; each is proven in tests/unit/test_gguf.py against llama.cpp."""
AS_DECI = ("llama", "mistral", "qwen2")
"""What `deci` computes as well: no more than Llama does, but for biases of q, k and v."""


OTHERS = "models pruned in more than FFN neurons are not converted"


def architecture(kind: str, widths: Sequence[int], biased: bool) -> Architecture:
    """For a model type, its FFN widths, and whether its FFNs have biases. Raises InputError if llama.cpp has none."""
    if kind not in STOCK:
        raise InputError(f"gguf: model type {kind!r} is not converted; {', '.join(STOCK)} are")
    if 0 in widths:
        raise InputError(
            "gguf: layers without an FFN are not converted: use a method without `drop_layers`, or `export: pad`"
        )
    stock = STOCK[kind]
    if len(set(widths)) == 1 and (stock.ffn_biases or not biased):
        return stock
    if kind in AS_DECI:
        return DECI
    what = "layers of different widths" if len(set(widths)) > 1 else "biases of the FFN"
    raise InputError(
        f"gguf: llama.cpp's {stock.name} has no {what} (its `deci` has: {', '.join(AS_DECI)} are written as that); use "
        f"a method with `allocate: uniform` and `compensate: none`, or `export: pad`, with which all have {max(widths)}"
    )


def convert(folder: Path, output: Path, kind: str, about: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Convert a model directory; returns what `contents` says of the file.

    about: `name`, and `repo` and `revision` of the base where it is the hub's. Raises InputError as gguf.check does, if
    llama.cpp has no such model or tokenizer, if a weight is too large for float16, and if llama.cpp fails."""
    check_type(kind)
    if kind in OWN:
        write(folder, output, kind, about)
        return contents(output)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        write(folder, whole := Path(scratch) / "f16.gguf", "f16", {**about, "type": kind})
        quantise(whole, output, kind, threads)
    return contents(output)


def write(folder: Path, output: Path, kind: str, about: Mapping[str, Any]) -> None:
    """Convert a model directory, tensor by tensor, to `f16`, `bf16` or `q8_0`; see `convert`."""
    import gguf
    from transformers import AutoConfig

    checkpoint, config = Checkpoint(folder), AutoConfig.from_pretrained(folder)
    if structures.others(config.to_dict()):
        raise InputError(f"gguf: {folder}: {OTHERS}")
    biased = any(part == "bias" for _, _, part in checkpoint.names_of)
    writer, own = begun(folder, output, config, checkpoint.widths, biased)
    describe(writer, about, kind)
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == own.name)
    short_names = gguf.get_tensor_name_map(number, checkpoint.layers)
    plan, held = {}, stacked(checkpoint.file_of)
    for name, parts in held.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        short, shape = short_names.get_name(name, try_suffixes=(".weight", ".bias")), checkpoint.shape(parts[0])
        if short is None:
            raise InputError(f"gguf: {folder}: llama.cpp's {own.name} has no place for {name}")
        if name != parts[0]:
            shape = [len(parts), *shape]
        elif name.endswith(SHARED_GATE):
            shape = shape[1:]
        plan[name] = stored_as(shape, kind if "ffn_gate_inp" not in short else "f32")
        size = math.prod(gguf.quant_shape_to_byte_shape(shape, plan[name]))
        writer.add_tensor_info(short, shape, np.dtype(np.float32), size, raw_dtype=plan[name])
    factors = frequency_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, stored in plan.items():
        values = np.stack([checkpoint.tensor(part).float().numpy() for part in held[name]])
        values = values if name != held[name][0] else values[0]
        if own.interleaved and (heads := heads_of(name, config)):
            values = values[interleaved(len(values), heads)]
        if own.one_added and name.endswith("norm.weight"):
            values = values + 1
        if stored.name == "F16" and not np.abs(values).max(initial=0) <= np.finfo(np.float16).max:
            raise InputError(f"gguf: {folder}: {name} has values beyond float16's: give bf16 instead of {kind}")
        writer.write_tensor_data(gguf.quants.quantize(values, stored))
    if factors is not None:
        writer.write_tensor_data(factors)
    writer.close()


def stacked(names: Iterable[str]) -> dict[str, list[str]]:
    """Return what llama.cpp has as one tensor -> its parts: a projection's experts, by their number, or one tensor."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(NUMBERED.sub(".experts.", name), []).append(name)
    return {name: sorted(parts, key=lambda part: (len(part), part)) for name, parts in found.items()}


def begun(
    folder: Path, output: Path | None, config: "PretrainedConfig", widths: Sequence[int], biased: bool
) -> tuple["GGUFWriter", Architecture]:
    """Return a file with all that it says of the model, nothing written yet, and what llama.cpp builds of it."""
    import gguf

    own = architecture(config.model_type, widths, biased)
    writer = gguf.GGUFWriter(output, own.name)
    parameters(writer, config, own, widths)
    tokenizer.write(writer, folder, config.vocab_size)
    return writer, own


def takes(kind: str, widths: list[int]) -> bool:
    """Whether llama.cpp has models of this type, in transformers' word, with these widths of the FFN."""
    try:
        return bool(architecture(kind, widths, False))
    except InputError:
        return False


def check(folder: Path, uneven: bool = False, biased: bool = False, others: bool = False) -> None:
    """Look at a dense model before anything is made of it: whether llama.cpp has what will come of it.

    uneven: layers of different widths are to come; biased: biases of the FFN; others: more than neurons is to be cut.
    Raises InputError as `convert` does for its architecture, its config and its tokenizer."""
    from transformers import AutoConfig

    if others:
        raise InputError(f"gguf: {OTHERS}")
    config, widths = AutoConfig.from_pretrained(folder), Checkpoint(folder).widths
    begun(folder, None, config, [max(widths) - (uneven and not layer) for layer in range(len(widths))], biased)


def stored_as(shape: Sequence[int], kind: str) -> "GGMLQuantizationType":
    """Type of a tensor: vectors are float32, rows that are no whole blocks float16, as llama.cpp's converter has it."""
    from gguf import GGMLQuantizationType

    if len(shape) == 1 or kind == "f32":
        return GGMLQuantizationType.F32
    return GGMLQuantizationType[kind.upper() if shape[-1] % BLOCK[kind] == 0 else "F16"]


def describe(writer: "GGUFWriter", about: Mapping[str, Any], kind: str) -> None:
    """What the file is: only what llama.cpp shows and the hub indexes."""
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(about["name"])
    writer.add_tags(["pruned", "structural-pruning", "text-generation"])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if about.get("repo"):
        organization, _, name = about["repo"].rpartition("/")
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, name)
        writer.add_base_model_organization(0, organization)
        writer.add_base_model_version(0, about["revision"])
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{about['repo']}")


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


def heads_of(name: str, config: "PretrainedConfig") -> int | None:
    """Attention heads of a projection that is rotated; None of other tensors."""
    of_head = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return of_head.get(name.split(".")[-2])


def interleaved(rows: int, heads: int) -> np.ndarray:
    """The order of rows [heads * 2 * pairs] in which the two of a rotated pair, half a head apart, are neighbours."""
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).ravel()


def quantise(source: Path, output: Path, kind: str, threads: int) -> None:
    """A type that llama.cpp makes of a float16 file. Raises InputError where llama.cpp fails."""
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}"), threads
    if llama_cpp.llama_model_quantize(bytes(source), bytes(output), settings) != 0:
        raise InputError(f"gguf: llama.cpp could not make {kind} of {source}")


def contents(file: Path) -> dict[str, Any]:
    """`architecture`, and `tensors`: how many there are of each type."""
    import gguf

    reader = gguf.GGUFReader(file)
    types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    name = gguf.Keys.General.ARCHITECTURE
    return {"architecture": reader.fields[name].contents(), "tensors": dict(sorted(types.items()))}
