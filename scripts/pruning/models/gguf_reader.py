"""What transformers' reader of GGUF files leaves out: scaled rotations, the scale of Gemma 27B's queries, and the rules
by which some vocabularies split text.

Without these a model is read as another one, and no check of ours would show it: the dense model is wrong as well."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.core.errors import InputError

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

INSTEAD = "give the model's own folder, or its repository, in place of the GGUF file"
EACH_DIGIT = {"smollm", "refact", "starcoder", "command-r", "codeshell", "exaone", "minerva-7b"}
"""llama.cpp's names of pre-tokenizers that take every digit apart, then split as GPT-2's."""
GPT_2 = {"gpt-2", "phi-2", "olmo", "mpt"}
WHOLE_WORDS = {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"}
"""Those that take a whole word of the vocabulary without merging."""


def complete(config: "PretrainedConfig", tokenizer: "PreTrainedTokenizerBase", reader: "GGUFReader") -> None:
    """Set in a model's config and in its tokenizer what the file says beyond what transformers read.

    Raises InputError for what has no equal there."""
    architecture = value(reader, "general.architecture")
    rotate(config, reader, architecture)
    if hasattr(config, "query_pre_attn_scalar"):
        config.query_pre_attn_scalar = query_scale(config, architecture)
    if value(reader, "tokenizer.ggml.model") == "gpt2":
        split(tokenizer, value(reader, "tokenizer.ggml.pre"))


def value(reader: "GGUFReader", key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def rotate(config: "PretrainedConfig", reader: "GGUFReader", architecture: str) -> None:
    """Set the scaling of the rotary embedding: linear, YaRN, or Llama 3's, which a file holds as what each frequency is
    divided by. Raises InputError for others."""
    settings = config.rope_parameters.get("full_attention", config.rope_parameters)
    if settings.get("rope_type", "default") != "default":
        return  # transformers has read it
    start = f"{architecture}.rope.scaling."
    own = {name.removeprefix(start): value(reader, name) for name in reader.fields if name.startswith(start)}
    kind, factor = own.pop("type", "none"), own.pop("factor", 1.0)
    tensors = {each.name: each.data for each in reader.tensors if each.name.startswith("rope_")}
    factors = tensors.pop("rope_freqs.weight", None)
    own.pop("finetuned", None)
    length = own.pop("original_context_length", None)
    if odd := [*tensors, *(f"{start}{name}" for name in own), *([f"{start}type {kind}"] if kind not in KINDS else [])]:
        raise InputError(f"{odd[0]}: this rotary embedding is not read from a GGUF file: {INSTEAD}")
    if kind != "none":
        settings |= {"rope_type": kind, "factor": factor}
        settings |= {"original_max_position_embeddings": length} if kind == "yarn" else {}
    if factors is not None and not np.all(factors == 1):
        settings |= llama3(config, np.asarray(factors, np.float64))
        if not np.allclose(frequency_factors(config), factors, rtol=1e-3):
            raise InputError(f"rope_freqs.weight: its factors are not those of Llama 3's scaling: {INSTEAD}")


KINDS = ("none", "linear", "yarn")


def llama3(config: "PretrainedConfig", factors: np.ndarray) -> dict[str, Any]:
    """The settings of Llama 3's scaling of which these are the factors, [head / 2], with `low_freq_factor` 1.

    Between its two wavelengths 1 / factor rises in a straight line from 1 / the largest to 1 (Hugging Face
    transformers, modeling_rope_utils)."""
    largest, head = round(float(factors.max()), 3), 2 * len(factors)  # float32, computed by another program
    turns = config.rope_parameters["rope_theta"] ** -(np.arange(0, head, 2) / head) / (2 * math.pi)  # in one token
    between = (factors > 1.001) & (factors < 0.999 * largest)
    share = (1 / factors - 1 / largest) / (1 - 1 / largest)  # = (length · turns - 1) / (high - 1)
    (length, high), *_ = np.linalg.lstsq(np.stack([turns, -share], 1)[between], np.ones(between.sum()), rcond=None)
    found = {"rope_type": "llama3", "factor": largest, "low_freq_factor": 1.0}
    return found | {"high_freq_factor": round(float(high) + 1, 2), "original_max_position_embeddings": round(length)}


def split(tokenizer: "PreTrainedTokenizerBase", name: str | None) -> None:
    """Set the rules of llama.cpp's pre-tokenizer of this name, where transformers takes GPT-2's for them.

    Raises InputError for a name whose rules neither of them has here."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    backend = tokenizer.backend_tokenizer
    if name in EACH_DIGIT:
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    elif name is not None and name not in {*GPT_2, *GGUF_PRE_TOKENIZER_SPLITS}:
        raise InputError(f"tokenizer.ggml.pre {name}: how it splits text is not known here: {INSTEAD}")
    if name in WHOLE_WORDS:
        backend.model.ignore_merges = True


def head_size(config: "PretrainedConfig") -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def frequency_factors(config: "PretrainedConfig") -> np.ndarray | None:
    """Llama 3's scaling: what each frequency is divided by, float32 [head / 2]; computed by transformers."""
    if config.rope_parameters.get("rope_type") != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    head = head_size(config)
    plain = config.rope_parameters["rope_theta"] ** -(np.arange(0, head, 2) / head)
    return (plain / scaled.double().numpy()).astype(np.float32)


def query_scale(config: "PretrainedConfig", architecture: str) -> int:
    """The square of what llama.cpp divides queries by: the head's size, but for the 27B of Gemma 2 and 3, which it
    knows by their layers."""
    if (architecture, config.num_hidden_layers) in (("gemma2", 46), ("gemma3", 62)):
        return config.hidden_size // config.num_attention_heads
    return head_size(config)
