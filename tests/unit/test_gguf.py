"""GGUF files: what transformers' own reader and llama.cpp make of them, what they hold, and what is refused.

What needs llama.cpp is skipped where llama-cpp-python is not installed.
"""

import importlib.util
import json
from collections import Counter
from copy import deepcopy
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import to_gguf as stage
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import tiny
from pruning.config.models import GgufSource
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.evaluation import gguf_files, runtimes
from pruning.methods.compact import Pruning
from pruning.models import dequantised, gguf_reader, loading, sources, vocabulary
from pruning.models import gguf as door
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import FAMILIES
from pruning.models.gguf import architectures, layout
from pruning.models.gguf import model as gguf_model
from pruning.models.gguf import tokenizer as gguf_tokenizer
from workspace import ROOT

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)
VOCABULARY = 512
EVEN, UNEVEN = (20, 20, 20, 20), (7, 31, 20, 12)
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
STEPS = {
    "ByteLevel": lambda how: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=how == "regex"),
    "Digits": lambda _: pre_tokenizers.Digits(individual_digits=True),
    "Split": lambda pattern: pre_tokenizers.Split(Regex(pattern), "isolated"),
}


def wrapped(backend: Tokenizer, size: int, special: list[str], **options) -> PreTrainedTokenizerFast:
    """Trained on a text that never changes, with a token that is special and one that is not."""
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False, **options)
    backend.train_from_iterator([tiny.LICENSE.read_text(), *[runtimes.HARD_TEXT] * 50], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")
    made.add_tokens(["<|user|>"])
    made.chat_template = TEMPLATE
    return made


@cache
def _trained(name: str) -> PreTrainedTokenizerFast:
    (rules, whole), *_ = [key for key, found in gguf_tokenizer.PRE_TOKENIZERS.items() if found == name]
    backend = Tokenizer(models.BPE(ignore_merges=whole))
    backend.pre_tokenizer = pre_tokenizers.Sequence([STEPS[kind](how) for kind, how in rules])
    backend.decoder = decoders.ByteLevel()
    return wrapped(backend, 500, ["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def byte_level(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose pre-tokenizer llama.cpp calls `name`."""
    return deepcopy(_trained(name))


def sentencepiece(prepend: bool) -> PreTrainedTokenizerFast:
    """As Llama 2's and Gemma's tokenizer.json: BPE over text whose spaces are ▁, with bytes for what is unknown."""
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    replace = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prepend else replace
    fallback = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(fallback + ([decoders.Strip(" ", 1, 0)] if prepend else []))
    made = wrapped(backend, 600, ["<unk>", "<|end|>", *(f"<0x{byte:02X}>" for byte in range(256))])
    content = json.loads(made.backend_tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    again = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(tokenizer_object=again, eos_token="<|end|>", unk_token="<unk>")


def dense(place: Path, kind: str, layers: int = 2, tokens: PreTrainedTokenizerFast | None = None, **changes) -> Path:
    """A tiny model of a family, with a tokenizer that llama.cpp has, in a new folder."""
    tiny.save(tiny.of_family(kind, layers, **{"vocab_size": VOCABULARY, **changes}), place)
    (tokens or byte_level("qwen2")).save_pretrained(place)
    return place


def folder(place: Path, kind: str, widths=EVEN, tokens: PreTrainedTokenizerFast | None = None, bias=False, **changes):
    """The same pruned, in the folder `pruned` beside it."""
    base, keeps = Checkpoint(dense(place / "base", kind, len(widths), tokens, **changes)), tiny.keeps(*widths)
    return tiny.written(Pruning(base, keeps, tiny.biased(base, keeps) if bias else None), place / "pruned")


def converted(model: Path, kind: str = "f16") -> Path:
    file = model.with_name(f"{kind}.gguf")
    gguf_model.write(model, file, kind, {"name": "tiny"})
    return file


def tried(model: Path, file: Path, dtype: str | None = "float16") -> dict:
    ours, tokenizer = loading.load(model, "float32", "cpu")
    return runtimes.in_llama_cpp(file, runtimes.expected(ours, tokenizer, "float32"), tokenizer, dtype)


def fields(file: Path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


@pytest.fixture
def unrounded(monkeypatch):
    """Weights in float32, so that what differs is not their rounding."""
    monkeypatch.setattr(gguf_model, "stored_as", lambda *_: gguf.GGMLQuantizationType.F32)


PLAIN = {"rope_type": "default", "rope_theta": 1e4}
CASES = [
    *((kind, EVEN, False, {}) for kind in architectures.STOCK if not FAMILIES[kind].mixture),
    *((kind, UNEVEN, bias, {}) for kind, bias in product(architectures.AS_DECI, (False, True))),
    *((kind, EVEN, True, {}) for kind in ("qwen2", "llama", "granite")),
    ("llama", UNEVEN, False, {"attention_bias": True, "num_key_value_heads": 4}),
    ("llama", UNEVEN, False, {"head_dim": 16}),
    ("phi3", EVEN, False, {"rope_parameters": PLAIN | {"partial_rotary_factor": 0.5}}),
    ("gemma3_text", EVEN, False, {"layer_types": ["sliding_attention", "full_attention"] * 2}),
]


@needs_llama_cpp
@pytest.mark.parametrize(
    ("kind", "widths", "bias", "changes"), CASES, ids=lambda part: str(part).replace(" ", "") if part else "-"
)
def test_llama_cpp_computes_what_the_model_does(tmp_path, unrounded, kind, widths, bias, changes):
    """Its GELU is a table in float16: that of Gemma is nearer to the model than its weights in float16 would be."""
    model = folder(tmp_path, kind, widths, bias=bias, **changes)
    found = tried(model, converted(model), None)
    assert found["kl_divergence"] < (1e-5 if kind.startswith("gemma") else 1e-7) and found["same_text"]
    assert gguf_model.contents(tmp_path / "f16.gguf")["architecture"] == (
        "deci" if widths == UNEVEN or (bias and kind == "qwen2") else architectures.STOCK[kind].name
    )


OF_MIXTURES = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), {"q_lora_rank": 8}),  # llama.cpp asks for it but of 26 or 27 layers
    "gpt_oss": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "sliding_window": 8},
}


def mixture(place: Path, kind: str, narrower: bool = False, **changes) -> Path:
    """A tiny mixture of 11 experts, of which 4 are left, or of each 8 of 24 neurons, in a folder."""
    number = {"mixtral": "num_local_experts", "gpt_oss": "num_local_experts"}.get(kind, "num_experts")
    number = {"n_routed_experts" if kind.startswith("deepseek") else number: 11}
    base = dense(place / "base", kind, **number, **{"num_key_value_heads": 4, **OF_MIXTURES.get(kind, {}), **changes})
    keeps = {"experts": [np.isin(np.arange(11), kept) for kept in ([1, 2, 9, 10], [0, 4, 7, 10])]}
    if narrower:
        keeps = {"experts": [np.ones(11, dtype=bool)] * 2, "expert_neurons": [np.arange(11 * 24) % 3 == 1] * 2}
    return tiny.written(Pruning(Checkpoint(base), keeps), place / "pruned")


@needs_llama_cpp
@pytest.mark.parametrize("narrower", [False, True], ids=["fewer", "narrower"])
@pytest.mark.parametrize("kind", [kind for kind in architectures.STOCK if FAMILIES[kind].mixture])
def test_llama_cpp_computes_what_a_mixture_does(tmp_path, unrounded, kind, narrower):
    file = converted(model := mixture(tmp_path, kind, narrower))
    found = tried(model, file, None)
    assert found["kl_divergence"] < 1e-7 and found["same_text"]
    assert gguf_model.contents(file)["architecture"] == architectures.STOCK[kind].name
    again, _ = loading.load(model, "float32", "cpu")
    whole = {name: own.clone() for name, own in again.state_dict().items()}
    dequantised.put(again, file)
    assert all(torch.equal(own, whole[name]) for name, own in again.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob: false: llama.cpp's qwen3moe makes the weights of"),
        ("qwen2_moe", {"norm_topk_prob": True}, "norm_topk_prob: true: llama.cpp's qwen2moe takes them as they are"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv: 8.0: llama.cpp's olmoe clips nothing"),
        ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit: 5.0: llama.cpp's gpt-oss has 7.0"),
        ("gpt_oss", {"layer_types": ["full_attention"] * 2}, "llama.cpp's gpt-oss has a sliding window in every other"),
        ("deepseek_v3", {"rope_interleave": False}, "rope_interleave: False: llama.cpp's deepseek2 has True"),
        ("deepseek_v2", {"q_lora_rank": None}, "q_lora_rank: null with 3 layers: llama.cpp's deepseek2 has none"),
        ("deepseek_v2", {"attention_bias": True}, "attention_bias: True: llama.cpp's deepseek2 has False"),
    ],
)
def test_a_mixture_that_llama_cpp_computes_otherwise_is_refused(tmp_path, kind, changes, said):
    with pytest.raises(InputError, match=f"^gguf: {said}"):
        converted(mixture(tmp_path, kind, **changes))


PUBLISHED = {"rope_theta": 150_000.0, "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}
"""gpt-oss's own."""


@needs_llama_cpp
@pytest.mark.parametrize(
    ("kind", "changes", "most"),
    [
        *((kind, {"mscale": 0.707, "mscale_all_dim": 0.707}, 1e-7) for kind in ("deepseek_v2", "deepseek_v3")),
        ("gpt_oss", {"truncate": True}, 1e-7),
        ("gpt_oss", PUBLISHED, 1e-4),  # llama.cpp truncates this as well, which is not the model's own
    ],
)
def test_a_mixtures_yarn_is_llama_cpps(tmp_path, unrounded, kind, changes, most):
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "beta_fast": 32, "beta_slow": 1}
    rope |= {"original_max_position_embeddings": 64, **changes}
    model = mixture(tmp_path, kind, rope_parameters=rope, **({"head_dim": 64} if kind == "gpt_oss" else {}))
    found = tried(model, converted(model), None)
    assert found["kl_divergence"] < most and found["same_text"]


@needs_llama_cpp
@pytest.mark.parametrize("layers", [25, 26])  # and one whose FFN is dense
def test_deepseek_v2_lite_has_queries_in_one_matrix(tmp_path, unrounded, layers):
    model = dense(tmp_path / "lite", "deepseek_v2", layers)
    assert tried(model, converted(model), None)["kl_divergence"] < 1e-6


OLD_LENGTH = {"original_max_position_embeddings": 16}
ROPES = {
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, **OLD_LENGTH},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **OLD_LENGTH},
}


@needs_llama_cpp
@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("widths", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_scaled_rotations_are_llama_cpps(tmp_path, unrounded, kind, widths):
    rope = {"rope_theta": 1000.0, "rope_type": kind, **ROPES[kind]}
    model = folder(tmp_path, "llama", widths, rope_parameters=rope, head_dim=16)
    assert tried(model, converted(model), None)["kl_divergence"] < 1e-7


@needs_llama_cpp
@pytest.mark.parametrize("name", [*gguf_tokenizer.PRE_TOKENIZERS.values(), True, False])
def test_llama_cpp_reads_text_as_the_tokenizer_does(tmp_path, name):
    """Of SentencePiece's as well, with and without a space before a text."""
    tokens = byte_level(name) if isinstance(name, str) else sentencepiece(name)
    model = folder(tmp_path, "llama", tokens=tokens, vocab_size=max(len(tokens), VOCABULARY))
    file = converted(model)
    assert fields(file)["tokenizer.ggml.pre"] == (name if isinstance(name, str) else "default")
    tried(model, file)  # raises if a token differs


MISTAKES = {  # of ours, and what is said of the file
    "another pre-tokenizer": (gguf_tokenizer, "pre_tokenizer", lambda *_: "gpt-2", "reads .* as other tokens"),
    "order of rows": (layout, "interleaved", lambda rows, _: np.arange(rows), "logits are up to .* not exported"),
}


@needs_llama_cpp
@pytest.mark.parametrize(("module", "name", "wrong", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_file_would_show(tmp_path, monkeypatch, module, name, wrong, said):
    model = folder(tmp_path, "llama")
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(InputError, match=f"llama.cpp .*{said}"):
        tried(model, converted(model))


@needs_llama_cpp
def test_the_beginning_of_a_text_is_marked_where_the_tokenizer_marks_it(tmp_path):
    tokens = byte_level("llama-bpe")
    tokens.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", pair="<|end|> $A $B", special_tokens=[("<|end|>", 0)]
    )
    tokens.bos_token = "<|end|>"
    model = folder(tmp_path, "llama", tokens=tokens)
    file = converted(model)
    assert AutoTokenizer.from_pretrained(model)("a")["input_ids"][0] == 0
    assert fields(file)["tokenizer.ggml.add_bos_token"] is True
    tried(model, file)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_transformers_reads_the_same_model_and_tokenizer(tmp_path, kind):
    """Its reader of GGUF is another program than llama.cpp; float16 weights, so that nothing is rounded."""
    model = folder(tmp_path, kind, **{"tie_word_embeddings": kind == "qwen2"})
    stock = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float16)
    stock.save_pretrained(model)
    converted(model)
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="f16.gguf", dtype=torch.float32)
    ids = torch.tensor([[3, 77, 250, 14, 9, 120]])
    with torch.inference_mode():
        torch.testing.assert_close(read(ids).logits, stock.float()(ids).logits, rtol=1e-5, atol=1e-5)
    ours, theirs = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(tmp_path, gguf_file="f16.gguf")
    assert theirs("Tom has boxes")["input_ids"] == ours("Tom has boxes")["input_ids"]
    assert theirs.decode(ours("a<|user|>b")["input_ids"]) == "a<|user|>b"
    messages = [{"role": "user", "content": "hello"}]
    assert theirs.apply_chat_template(messages, tokenize=False) == "<|user|>hello<|end|>"


def imported(file: Path, out: Path) -> Path:
    """The file as a source of a model."""
    given = {"kind": "gguf", "path": str(file), "dtype": "float32"}
    out.mkdir()
    sources.from_gguf(GgufSource(**given).model_dump(), out)
    return out


@pytest.mark.parametrize("kind", ROPES)
def test_a_scaled_rotation_is_read_from_a_file(tmp_path, kind):
    rope = {"rope_theta": 1000.0, "rope_type": kind, **ROPES[kind]}
    model = dense(tmp_path / "model", "llama", rope_parameters=rope, head_dim=32)
    found = imported(converted(model), tmp_path / "read")
    assert AutoConfig.from_pretrained(found).rope_parameters == pytest.approx(rope)
    (ours, _), (theirs, _) = (loading.load(each, "float32", "cpu") for each in (model, found))
    ids = torch.arange(3, 60)[None]
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, rtol=0.01, atol=0.01)  # float16 weights


def test_gemma_3_scales_the_rotation_of_full_attention_alone(tmp_path):
    plain = {"rope_type": "default", "rope_theta": 10_000.0}
    rope = {"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}, "sliding_attention": plain}
    model = dense(tmp_path / "model", "gemma3_text", 6, sentencepiece(False), rope_parameters=rope)
    found = AutoConfig.from_pretrained(imported(converted(model), tmp_path / "read"))
    assert found.rope_parameters["full_attention"] == rope["full_attention"]
    assert found.rope_parameters["sliding_attention"]["rope_type"] == "default"


@pytest.mark.parametrize("kind, layers", [("gemma2", 46), ("gemma3", 62)])
def test_the_27b_of_gemma_divides_queries_by_another_number(kind, layers):
    shape = SimpleNamespace(num_hidden_layers=layers, hidden_size=4608, num_attention_heads=32, head_dim=128)
    assert gguf_reader.query_scale(shape, kind) == 144  # as google/gemma-2-27b has it
    assert gguf_reader.query_scale(SimpleNamespace(**vars(shape) | {"num_hidden_layers": 26}), kind) == 128


@pytest.mark.parametrize("name", gguf_tokenizer.PRE_TOKENIZERS.values())
def test_text_read_from_a_file_is_split_as_before(tmp_path, name):
    model = dense(tmp_path / "model", "llama", tokens=byte_level(name))
    ours, theirs = map(AutoTokenizer.from_pretrained, (model, imported(converted(model), tmp_path / "read")))
    for text in (runtimes.HARD_TEXT, runtimes.DIGITS):
        assert theirs(text)["input_ids"] == ours(text)["input_ids"]
    assert theirs.backend_tokenizer.model.ignore_merges == ours.backend_tokenizer.model.ignore_merges


LEFT_OUT = {
    "llama.rope.scaling.attn_factor": (1.5, "this rotary embedding is not read from a GGUF file: give the model's own"),
    "llama.rope.scaling.type": ("longrope", "llama.rope.scaling.type longrope: this rotary embedding is not read"),
    "tokenizer.ggml.pre": ("deepseek-llm", "tokenizer.ggml.pre deepseek-llm: how it splits text is not known here"),
}


@pytest.mark.parametrize("key", LEFT_OUT)
def test_what_would_be_read_as_something_else_is_refused(tmp_path, key):
    told, said = LEFT_OUT[key]
    model = dense(tmp_path / "model", "llama")
    reader = gguf.GGUFReader(converted(model))
    reader.fields[key] = SimpleNamespace(contents=lambda: told)
    config, tokenizer = AutoConfig.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    with pytest.raises(InputError, match=said):
        gguf_reader.complete(config, tokenizer, reader)


def test_every_tensor_is_the_models(tmp_path):
    """Of layers of different widths, which only llama.cpp reads: by hand, with the order of rows undone by a loop."""
    model = folder(tmp_path, "qwen2", UNEVEN)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(converted(model)).tensors}
    checkpoint = Checkpoint(model)
    ends = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    names = {f"{long}.weight": f"{short}.weight" for long, short in ends.items()}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output"}
    parts |= {f"self_attn.{one}_proj": f"attn_{one}" for one in "qkv"}
    parts |= {f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}
    for layer, (long, short), end in product(range(4), parts.items(), ("weight", "bias")):
        if f"model.layers.{layer}.{long}.{end}" in checkpoint.file_of:
            names[f"model.layers.{layer}.{long}.{end}"] = f"blk.{layer}.{short}.{end}"
    assert set(names) == set(checkpoint.file_of) and set(names.values()) == set(tensors)
    for long, short in names.items():
        wanted, found = checkpoint.tensor(long).numpy(), np.array(tensors[short].data)
        assert tensors[short].tensor_type.name == ("F32" if wanted.ndim == 1 else "F16")
        if heads := {"attn_q": 4, "attn_k": 2}.get(short.split(".")[-2]):
            rows = [head * 8 + half * 4 + pair for head in range(heads) for pair in range(4) for half in range(2)]
            wanted = wanted[rows]
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-6)


def test_what_the_file_says_of_the_model(tmp_path):
    model = folder(tmp_path, "llama", UNEVEN, bias=False, rope_parameters={"rope_type": "default", "rope_theta": 7.0})
    about = {"name": "tiny-wanda-50", "repo": "a/b", "revision": "0" * 40}
    gguf_model.write(model, file := tmp_path / "x.gguf", "bf16", about)
    found = fields(file)
    said = {"block_count": 4, "context_length": 512, "embedding_length": 32, "feed_forward_length": list(UNEVEN)}
    said |= {"attention.head_count": 4, "attention.head_count_kv": 2, "vocab_size": VOCABULARY}
    said |= {"attention.layer_norm_rms_epsilon": pytest.approx(1e-6), "attention.key_length": 8}
    said |= {"attention.value_length": 8, "rope.dimension_count": 8, "rope.freq_base": 7.0}
    assert {key.removeprefix("deci."): value for key, value in found.items() if key.startswith("deci.")} == said
    assert found["general.architecture"] == "deci" and found["general.name"] == "tiny-wanda-50"
    assert found["general.base_model.0.repo_url"] == "https://huggingface.co/a/b"
    assert found["general.file_type"] == 32  # MOSTLY_BF16 in llama.h
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    vocabulary = AutoTokenizer.from_pretrained(model).get_vocab()
    assert {token: number for number, token in enumerate(tokens) if kinds[number] != 5} == vocabulary
    assert (kinds[0], kinds[vocabulary["<|user|>"]], kinds[1]) == (3, 4, 1)  # control, user-defined, normal
    assert found["tokenizer.ggml.eos_token_id"] == 0 and found["tokenizer.ggml.add_bos_token"] is False
    assert found["tokenizer.chat_template"] == TEMPLATE


def test_rows_that_are_no_whole_blocks_are_float16(tmp_path):
    model = folder(tmp_path, "llama", (32, 20, 32, 12))
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(converted(model, "q8_0")).tensors}
    kinds = [tensors[f"blk.{layer}.ffn_down.weight"].tensor_type.name for layer in range(4)]
    assert kinds == ["Q8_0", "F16", "Q8_0", "F16"]
    wanted = Checkpoint(model).tensor("model.layers.0.mlp.down_proj.weight").numpy()
    found = gguf.quants.dequantize(tensors["blk.0.ffn_down.weight"].data, gguf.GGMLQuantizationType.Q8_0)
    step = np.abs(wanted).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - wanted) <= 0.51 * step + 1e-3 * np.abs(wanted)).all()  # half a step, and float16's of it


DYNAMIC, PART = {"rope_type": "dynamic", "rope_theta": 7.0, "factor": 2.0}, PLAIN | {"partial_rotary_factor": 0.5}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, **ROPES["yarn"], "beta_fast": 16.0, "mscale": 1.0}
REFUSED = {
    "another family": (dict(kind="cohere"), "model type 'cohere' is not converted; llama, mistral, qwen2"),
    "widths of a family without": (dict(kind="qwen3", widths=UNEVEN), "no layers of different .*: pad`, with which"),
    "biases of a family without": (dict(kind="olmo2", bias=True), "llama.cpp's olmo2 has no biases of the FFN"),
    "another scaling": (dict(kind="llama", rope_parameters=DYNAMIC), "rope_type 'dynamic' is not converted"),
    "another YaRN": (
        dict(kind="llama", rope_parameters=YARN),
        "rope_parameters: YaRN's beta_fast, mscale, mscale_all_dim is",
    ),
    "a part of a head": (
        dict(kind="llama", rope_parameters=PART),
        "partial_rotary_factor 0.5 is not converted",
    ),
    "other layers": (
        dict(kind="smollm3", no_rope_layers=[1, 1, 0, 1]),
        "no rotation in every fourth layer, this",
    ),
    "another scale": (dict(kind="gemma2", query_pre_attn_scalar=16), "scalar 16: llama.cpp takes 8"),
    "another activation": (dict(kind="llama", hidden_act="gelu"), "llama.cpp's llama has silu in its FFN, not gelu"),
    "a token below zero": (dict(kind="llama", pad_token_id=-1), "the special tokens of its settings cannot be read"),
    "no merges": (dict(kind="llama", tokens=tiny.tokenizer()), "wants a BPE model with merges"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_has_not_is_refused_and_known_before_anything_is_made(tmp_path, name):
    options, reason = REFUSED[name]
    model = folder(tmp_path, **options)
    base, before = model.with_name("base"), sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=reason):
        gguf_model.check(base, options.get("widths") == UNEVEN, options.get("bias", False))
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(InputError, match=reason):
        converted(model)


def test_what_can_become_a_file_is_known_before(tmp_path):
    model = folder(tmp_path, "llama")
    gguf_model.check(model, uneven=True, biased=True)
    with pytest.raises(InputError, match="pruned in more than FFN neurons are not converted"):
        gguf_model.check(model, others=True)


def test_a_pre_tokenizer_without_a_name_is_refused(tmp_path):
    tokens = byte_level("gpt-2")
    steps = [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokens.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    with pytest.raises(InputError, match=r"this one \(Whitespace in another way, ByteLevel regex\) is none of gpt-2"):
        converted(folder(tmp_path, "llama", tokens=tokens))


def test_values_beyond_float16_are_refused(tmp_path):
    model = folder(tmp_path, "llama")
    changed = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[0, 0] = 1e6
    changed.save_pretrained(model)
    with pytest.raises(InputError, match="layers.1.mlp.up_proj.weight has values beyond float16's: give bf16"):
        converted(model)
    assert gguf_model.contents(converted(model, "bf16"))["tensors"]["BF16"] == 30


@pytest.mark.parametrize("kind", ["mistral", "mixtral"])
def test_a_sliding_window_ends_the_context(tmp_path, kind):
    model = dense(tmp_path / "m", kind, sliding_window=64)
    assert fields(converted(model))["llama.context_length"] == 64


def test_a_token_beyond_the_embedding_is_left_out(tmp_path):
    """As Gemma 3's for images."""
    tokens = byte_level("qwen2")
    tokens.add_special_tokens({"additional_special_tokens": ["<image>"]})
    model = dense(tmp_path / "m", "gemma3_text", tokens=tokens, vocab_size=len(tokens) - 1)
    assert "<image>" not in fields(converted(model))["tokenizer.ggml.tokens"]


def test_types_that_are_not_there(monkeypatch):
    with pytest.raises(InputError, match="no type 'iq1_s' of GGUF file is made; there are f16, bf16, q8_0, q6_k"):
        door.check("iq1_s")
    monkeypatch.setattr(door, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="--gguf: q4_k_m .* pip install llama-cpp-python .* ask for f16, bf16, q8_0"):
        door.check("q4_k_m", "--gguf: ")
    door.check("q8_0")


@needs_llama_cpp
@pytest.mark.parametrize("width", [256, 96, 100])
def test_llama_cpp_stores_rows_that_are_no_whole_blocks_as_we_say(tmp_path, width):
    """The hidden size of 256 is whole blocks of all."""
    whole = converted(dense(tmp_path / "model", "llama", 3, hidden_size=256, intermediate_size=width))
    for kind in door.BY_LLAMA_CPP:
        gguf_model.quantise(whole, file := tmp_path / "x.gguf", kind, 1)
        tensors = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
        found = {tensors[f"blk.{layer}.ffn_down.weight"] for layer in range(3)}
        if instead := door.stored_instead(kind, width):
            assert instead == ("F16" if width == 100 else "blocks of 32"), kind
            assert found <= ({"F16"} if width == 100 else {INSTEAD[each] for each in MIXTURES[kind]}), kind
        else:
            assert found <= MIXTURES[kind] and width % door.BLOCK[kind] == 0, kind
        assert fields(file)["llama.feed_forward_length"] == width


INSTEAD = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}
MIXTURES = {kind: {kind.upper()} for kind in door.BY_LLAMA_CPP} | {
    **dict.fromkeys(("q2_k", "q3_k_s", "q3_k_m"), {"Q2_K", "Q3_K", "Q4_K", "Q5_K"}),
    **{"q3_k_l": {"Q5_K"}, "q4_k_s": {"Q4_K", "Q5_K"}, "q5_k_s": {"Q5_K"}, "iq4_xs": {"IQ4_XS", "Q5_K"}},
    **{"q4_k_m": {"Q4_K", "Q6_K"}, "q5_k_m": {"Q5_K", "Q6_K"}},
    **{"q4_0": {"Q4_0", "Q4_1"}, "q4_1": {"Q4_1"}, "q5_0": {"Q5_0", "Q5_1"}, "iq4_nl": {"IQ4_NL", "Q5_K"}},
}
"""Types of down_proj in a file of each type."""


def made(model: Path, out: Path, kind: str = "f16", variant: str = "c/wanda/50", of: str = "export") -> Path:
    """The file that the stage makes of an exported model, or of the dense one."""
    content = {"widths": Checkpoint(model).widths, "files": artifacts.directory_hashes(model)}
    artifacts.write_json(model / "manifest.json", content, of, {})
    settings = {"name": "tiny-wanda-50", "variant": variant, "dtype": "float32", "type": kind}
    stage.to_gguf(settings, file := out / f"gguf/{kind}.gguf", model)
    return file


@pytest.mark.parametrize("kind", ["f16", "q8_0", pytest.param("q4_k_m", marks=needs_llama_cpp)])
def test_a_card_and_a_manifest_lie_beside_the_file(tmp_path, kind):
    out = made(folder(tmp_path, "llama", UNEVEN), tmp_path, kind)
    assert sorted(path.name for path in out.parent.iterdir()) == [
        f"{kind}.{suffix}" for suffix in ("Modelfile", "gguf", "json", "md")
    ]
    modelfile = out.with_suffix(".Modelfile").read_text().splitlines()
    assert f"FROM ./{kind}.gguf" in modelfile and "PARAMETER temperature 0" in modelfile
    manifest = artifacts.read_json(out.with_suffix(".json"), "gguf")
    assert manifest["files"][out.name] == artifacts.file_hash(out) and manifest["bytes"] == out.stat().st_size
    assert sum(manifest["tensors"].values()) == 39 and manifest["architecture"] == "deci"
    assert manifest["made_with"]["gguf"] == version("gguf")
    card = out.with_suffix(".md").read_text()
    assert "7, 31, 20, 12" in card and "`deci`, which takes a width per layer" in card
    odd = "4 of its 4 FFN widths are no multiples of {}: their down_proj is stored in larger types (F16)"
    assert (odd.format(256 if kind == "q4_k_m" else 32) in card) == (kind != "f16")
    assert set(manifest["files"]) == {path.name for path in out.parent.iterdir()} - {f"{kind}.json"}
    if importlib.util.find_spec("llama_cpp"):
        assert set(manifest["checks"]["llama.cpp"]) == {"max_difference", "same_text", "kl_divergence"}
        assert "llama.cpp: logits within" in card and "nats a token" in card


def test_a_padded_models_card_says_the_widths_of_the_file(tmp_path):
    base = Checkpoint(dense(tmp_path / "base", "llama"))
    model = tiny.written(Pruning(base, tiny.keeps(33, 48)), tmp_path / "padded", export="pad")
    content = {"widths": [33, 48], "files": artifacts.directory_hashes(model)}  # as compaction cut them
    artifacts.write_json(model / "manifest.json", content, "export", {})
    settings = {"name": "tiny", "variant": "c/wanda/50", "dtype": "float32", "type": "f16"}
    stage.to_gguf(settings, file := tmp_path / "gguf/f16.gguf", model)
    assert artifacts.read_json(file.with_suffix(".json"), "gguf")["widths"] == [48, 48]


def test_the_dense_model_becomes_one_too(tmp_path):
    file = made(folder(tmp_path, "llama").with_name("base"), tmp_path, variant="dense", of="base")
    assert fields(file)["llama.feed_forward_length"] == 48
    assert "the dense model." in file.with_suffix(".md").read_text()


def test_a_file_that_could_not_be_tried_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_files, "find_spec", lambda _: None)
    file = made(folder(tmp_path, "llama"), tmp_path)
    assert artifacts.read_json(file.with_suffix(".json"), "gguf")["checks"] == {}
    assert "not at all, llama-cpp-python is not installed" in file.with_suffix(".md").read_text()


def test_an_edited_export_is_refused(tmp_path, monkeypatch):
    made(model := folder(tmp_path, "llama"), tmp_path)
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    with pytest.raises(InputError, match="config.json: is not the file that"):
        stage.to_gguf({"type": "f16"}, tmp_path / "f16.gguf", model)


def test_every_family_is_converted_or_named_as_not():
    known = set(architectures.STOCK)
    assert known <= set(FAMILIES) and set(architectures.AS_DECI) <= known
    table = (ROOT / "docs/howto/llama-cpp.md").read_text()
    for kind in FAMILIES:
        assert f"`{kind}`" in table


@needs_llama_cpp
@pytest.mark.parametrize("name", gguf_tokenizer.PRE_TOKENIZERS.values())
def test_a_smaller_vocabulary_is_what_llama_cpp_reads(tmp_path, unrounded, name):
    """Texts of tokens that stay, and of others, become the tokens that transformers makes of them."""
    base = folder(tmp_path, "llama", (48, 48), byte_level(name)).with_name("base")
    own = vocabulary.Tokenizer(base)
    kept = list(own.keep(380, Counter(own.encoded([runtimes.TEXT]))))
    cut = tiny.written(Pruning(Checkpoint(base), {"ffn": [np.arange(48) < 48] * 2}, tokens=kept), tmp_path / "cut")
    found = tried(cut, converted(cut), None)
    assert found["same_text"] and found["kl_divergence"] < 1e-7
    assert loading.load(cut, "float32", "cpu")[0].config.vocab_size == 380
    assert len(fields(cut.with_name("f16.gguf"))["tokenizer.ggml.tokens"]) == 380
