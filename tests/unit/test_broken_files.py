"""A user's model with broken files, or without all of its weights (transformers would draw them at random), ends in one
line that names the file: at the start where that is possible, else in the first job. The same of disks that are full.
Each kind ended in a traceback, or hung, for one file or another."""

import json
import os
import resource
import shutil
import struct
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import fetch_model
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from snakemake.utils import update_config

import tiny
from pruning.config import preflight
from pruning.config.models import GgufSource
from pruning.config.validation import validate
from pruning.core import artifacts, errors, workflow
from pruning.core.errors import InputError
from pruning.models import loading, sources, tokenizers
from workspace import ROOT

DEEP = 100_000
BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "null": lambda _: b"null",
    "a list": lambda _: b"[1]",
    "a text": lambda _: b'"text"',
    "BOM": lambda content: b"\xef\xbb\xbf" + content,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "Latin-1": lambda _: b'{"a": "caf\xe9"}',
    "half": lambda content: content[: len(content) // 2],
    "deep list": lambda _: b"[" * DEEP + b"]" * DEEP,
    "deep object": lambda _: b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "digits": lambda _: b'{"vocab_size": ' + b"9" * 1_000_000 + b"}",
}
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
FILES += ("model.safetensors.index.json",)


def with_keys(file: str, *within: str, **keys) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        content = json.loads((model / file).read_text())
        reduce(dict.__getitem__, within, content).update(keys)
        (model / file).write_text(json.dumps(content))

    return damage


def with_header(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """The first tensor of the safetensors file is described otherwise."""

    def damage(model: Path) -> None:
        content = (model / "model.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        change(header[next(name for name in header if name != "__metadata__")])
        new = json.dumps(header).encode()
        (model / "model.safetensors").write_bytes(struct.pack("<Q", len(new)) + new + content[8 + length :])

    return damage


def with_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        change(tensors := load_file(model / "model.safetensors"))
        save_file(tensors, model / "model.safetensors", {"format": "pt"})

    return damage


def without(part: str) -> Callable[[Path], None]:
    """No tensor whose name has this part is left."""
    return with_tensors(lambda tensors: [tensors.pop(name) for name in [*tensors] if part in name])


def renamed(old: str, new: str) -> Callable[[Path], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [*tensors]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return with_tensors(change)


def replaced(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda model: (model / file).write_bytes(change((model / file).read_bytes()))


def in_place(file: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Something else than a file."""

    def damage(model: Path) -> None:
        (model / file).unlink(missing_ok=True)
        make(model / file)

    return damage


CONFIG_KEYS = {
    **dict.fromkeys(
        ("ffn_widths", "kv_groups"),
        ("text", ["48", "48"], [48], [48] * 5, [-1, 48], [1.5, 48], True, {"0": 48}, [10**12, 48], [[48], [48]], 5),
    ),
    **{"ffn_down_bias": ("text",), "max_position_embeddings": ("512",), "num_hidden_layers": ([2],)},
    **{"vocab_size": (0,), "hidden_size": (10**30,), "model_type": (["qwen2"], {"a": 1})},
    "first_k_dense_replace": ("1", -1, 2, 1.5, True),
}
TOKENIZER_KEYS = {  # key of tokenizer_config.json, value -> what is said
    ("pad_token", "<pad>"): "token '<pad>' has number 258",
    ("eos_token", 5): "tokenizer*.json: cannot be read",
    ("model_max_length", "x"): "tokenizer*.json: cannot be read",
}
CONFIGS = {  # keys of config.json, of another model -> what is said
    "an unknown activation": ({"hidden_act": "swish9"}, "cannot build this model (KeyError: 'swish9'"),
    "more layers than weights": ({"num_hidden_layers": 3, "layer_types": None}, "lacks model.layers.2."),
    "fewer layers than weights": ({"num_hidden_layers": 1, "layer_types": None}, "holds model.layers.1."),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads: 0 is not a whole number from 1 to"),
}
Q, NORM, BIAS = "model.layers.1.self_attn.q_proj.weight", "model.norm.weight", "model.layers.0.mlp.down_proj.bias"
TENSORS = {  # damage -> what is said
    "attention missing": (without(Q), f"lacks {Q}, which would be drawn at random"),
    "a matrix of an FFN missing": (
        without("layers.1.mlp.up_proj"),
        "not a whole checkpoint: looked for gate_proj, up_proj, down_proj in mlp of every layer, found 5 tensors",
    ),
    "norm missing": (without(NORM), f"lacks {NORM}"),
    "several missing": (without("layernorm"), "lacks model.layers.0.input_layernorm.weight, ", " and 1 more"),
    "renamed": (
        renamed("1.self_attn.q_proj.w", "1.attention.q_proj.w"),
        f"lacks {Q}",
        "holds model.layers.1.attention.q_proj.weight, which a model of type 'qwen2'",
    ),
    "another shape": (with_tensors(lambda t: t.update({NORM: t[NORM][:5].clone()})), f"holds {NORM} in another shape"),
    "an extra bias": (
        with_tensors(lambda t: t.update({BIAS: torch.zeros(32)})),
        f"holds {BIAS}, which a model of type 'qwen2' has no use for",
    ),
    "integers": (
        with_tensors(lambda t: t.update({Q: t[Q].to(torch.int8)})),
        f"{Q} is stored as I8: quantised weights",
    ),
    "another head": (
        with_tensors(lambda t: t.update({"lm_head.weight": 2 * t["model.embed_tokens.weight"]})),
        "ties lm_head.weight to model.embed_tokens.weight, but they differ",
    ),
    "a layer of 5,000 digits": (renamed("layers.0.", f"layers.{'9' * 5000}."), "not a whole checkpoint"),
}
VOCABULARY = ("tokenizer.json", "model", "vocab")
NOT_WHOLE, SHARD = "model.safetensors: not a whole", {"weight_map": {"a": "b.safetensors"}}
DAMAGES: dict[str, tuple[Callable[[Path], None] | str, ...]] = {  # what is done to a model, and what is said
    **TENSORS,
    **{name: (with_keys("config.json", **keys), message) for name, (keys, message) in CONFIGS.items()},
    **{f"{file}: {kind}": (replaced(file, change), file) for file in FILES for kind, change in BROKEN.items()},
    **{f"{file}: a folder": (in_place(file, Path.mkdir), file) for file in (*FILES[1:4], "tokenizer", "vocab.json")},
    **{f"{file}: a pipe": (in_place(file, os.mkfifo), file) for file in ("tokenizer.json", "x.safetensors")},
    **{
        f"{key}: {value}": (with_keys("config.json", **{key: value}), f"config.json: {key}: {str(value)[:40]}")
        for key, values in CONFIG_KEYS.items()
        for value in values
    },
    **{
        f"{key}: {value}": (with_keys("tokenizer_config.json", **{key: value}), message)
        for (key, value), message in TOKENIZER_KEYS.items()
    },
    "no end of a text": (
        with_keys("tokenizer_config.json", eos_token=None, pad_token=None),
        "tokenizer_config.json: no `eos_token`: name the token of the vocabulary",
    ),
    "no tokenizer.json": (lambda model: (model / "tokenizer.json").unlink(), "is tokenizer.json missing?"),
    "a token beyond the vocabulary": (with_keys(*VOCABULARY, e=257), "json: token 'e' has number 257, but the model"),
    "a negative token": (with_keys(*VOCABULARY, e=-1), "tokenizer*.json: cannot be read"),
    "safetensors: half": (replaced("model.safetensors", BROKEN["half"]), NOT_WHOLE),
    "safetensors: header": (replaced("model.safetensors", lambda b: b[:8] + b"x" + b[9:]), NOT_WHOLE),
    "safetensors: type": (with_header(lambda tensor: tensor.update(dtype="X9")), NOT_WHOLE),
    "safetensors: shape": (with_header(lambda tensor: tensor.update(shape=None)), NOT_WHOLE),
    "a shard that is missing": (
        lambda model: (model / FILES[4]).write_text(json.dumps(SHARD)),
        f"{FILES[4]}: names b.safetensors, which is not there",
    ),
}


@pytest.fixture(scope="module")
def config():
    whole = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    update_config(whole, yaml.safe_load((ROOT / "tests/pipeline/config.yaml").read_text()))
    whole["tasks"]["gsm_symbolic"]["chat_template"] = True
    return validate(whole)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    model = tiny.save(tiny.qwen2(), tmp_path_factory.mktemp("good") / "model")
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    weights = dict.fromkeys(load_file(model / "model.safetensors"), "model.safetensors")
    (model / FILES[4]).write_text(json.dumps({"weight_map": weights}))
    return model


def used(config, source: dict) -> None:
    """What a run does with a model, from snakemake's start to its first forward pass."""
    whole = config.model_copy(deep=True)
    whole.models["tiny-reasoner"].source = type(whole.models["tiny-reasoner"].source)(**source)
    preflight._check_model(whole, "tiny-reasoner")
    fetch_model.fetch_model(source, Path("results/tiny-reasoner/base/manifest.json"))
    network, tokenizer = loading.load(Path("results/tiny-reasoner/base"), "float32", "cpu")
    network(torch.tensor([tokenizer("hello there")["input_ids"]]))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_broken_model_is_refused_in_one_line(config, good: Path, tmp_path: Path, monkeypatch, name: str):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good, tmp_path / "resources/model")
    damage, *messages = DAMAGES[name]
    damage(tmp_path / "resources/model")
    with pytest.raises(InputError) as error:
        used(config, config.models["tiny-reasoner"].source.model_dump())
    assert "resources/model" in str(error.value) and "\n" not in str(error.value)
    for message in messages:
        assert message in str(error.value)
    assert not [*tmp_path.glob("results/tiny-reasoner/*")]


def test_what_was_damaged_later_is_refused_when_loaded(good: Path, tmp_path: Path):
    without(Q)(shutil.copytree(good, tmp_path / "model"))
    with pytest.raises(InputError, match=f"not the whole model: it lacks {Q}"):
        loading.load(tmp_path / "model", "float32", "cpu")


def test_a_whole_model_is_used(config, good: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good, tmp_path / "resources/model")
    used(config, config.models["tiny-reasoner"].source.model_dump())


GGUF: dict[str, Callable[[bytes], bytes]] = {
    "half": BROKEN["half"],
    "empty": BROKEN["empty"],
    "magic": lambda content: b"GGUX" + content[4:],
    "header": lambda content: content[:2000],
    "no numbers": lambda content: content[:4] + b"\xff" * 2000,
    "2^60 entries": lambda content: content[:16] + struct.pack("<Q", 2**60) + content[24:],
    "2^60 tensors": lambda content: content[:8] + struct.pack("<Q", 2**60) + content[16:],
    "without tokens": lambda content: content.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenx"),
    "without merges": lambda content: content.replace(b"tokenizer.ggml.merges", b"tokenizer.ggml.mergex"),
    "not UTF-8": lambda content: content.replace(b"tiny", b"t\xffny"),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_broken_gguf_file_is_refused_in_one_line(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.chdir(tmp_path)
    file = tiny.gguf(tiny.llama(tie_word_embeddings=True), tmp_path / "x.gguf")
    file.write_bytes(GGUF[name](file.read_bytes()))
    source = GgufSource(kind="gguf", path="x.gguf").model_dump()
    with pytest.raises(InputError, match=r"^x\.gguf: .*") as error:
        preflight.memory.gguf_parameters(sources.gguf_files(source)[0])
        sources.from_gguf(source, tmp_path)
    assert "\n" not in str(error.value)


ROW = "{% for i in range(99999) %}"
TEMPLATES = {
    "a loop": (f"{ROW}{ROW}{{% set x = i %}}{{% endfor %}}{{% endfor %}}", "more than 1 s"),
    "a loop that writes": (f"{ROW}{ROW}xxxxxxxx{{% endfor %}}{{% endfor %}}", "it takes more than"),
    "a range of 10^9": ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
    "10^9 characters": ("{{ messages[0].content * 10**9 }}", "it takes more than 512 MB"),
    "10^9 constant characters": ("{{ 'x' * 10**9 }}", "it takes more than 512 MB"),
    "2 * 10^7 characters": ("{{ messages[0].content * 10**7 }}", "it makes 20,000,000 characters"),
    "a long template": ("x" * 1_000_001, "more than 1,000,000 characters"),
    "no template": ("{% for", "unexpected"),
    "one that calls itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "division by zero": ("{{ 1/0 }}", "ZeroDivisionError"),
    "its own refusal": ("{{ raise_exception('no tools') }}", "no tools"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_is_bounded(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.setattr(tokenizers, "SECONDS", 1)
    template, message = TEMPLATES[name]
    tiny.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(InputError) as error:
        tokenizers.load(tmp_path).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert str(error.value).startswith(f"{tmp_path}: its chat template cannot be rendered (")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.fixture
def small_files():
    """No file may have more than 10,000 bytes: a real failure of writing, as of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_weights(path: Path) -> None:
    with artifacts.atomic_directory(path) as directory:
        save_file({"a": torch.ones(10_000)}, directory / "a.safetensors")


WRITERS = {
    "table": lambda path: artifacts.write_parquet(path, pd.DataFrame({"x": [i**0.5 for i in range(9000)]}), "mask", {}),
    "json": lambda path: artifacts.write_json(path, {"x": "x" * 20_000}, "mask", {}),
    "weights": write_weights,
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path, small_files, name: str):
    with pytest.raises(InputError) as error:
        WRITERS[name](tmp_path / "made")
    assert str(error.value).startswith(f"{tmp_path}/made: File too large; raise the limit on the size of a file")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_ends_a_command_in_one_line(capsys):
    with pytest.raises(SystemExit) as end, errors.one_line(), open("/dev/full", "w") as file:
        file.write("x" * 100_000)
    assert end.value.code.endswith(": No space left on device; make space there, then run the same command again")


def test_other_errors_keep_their_traceback():
    with pytest.raises(KeyError), errors.one_line():
        raise KeyError("a mistake of ours")


def test_a_job_that_could_not_write_its_log_says_that_the_disk_is_full(tmp_path: Path, monkeypatch):
    (tmp_path / "log").touch()
    assert workflow.words_of([tmp_path / "log"]) == "it wrote nothing"
    full = os.statvfs_result((*os.statvfs(tmp_path)[:4], 0, *os.statvfs(tmp_path)[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    assert "the disk is full" in workflow.words_of([tmp_path / "log"])
