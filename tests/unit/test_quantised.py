"""Variants as GGUF files: what a file holds is what is evaluated, whatever the family; and its weight and speed.

What needs llama.cpp is skipped where llama-cpp-python is not installed.
"""

import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import timing as stage
import to_gguf
import torch
from lm_eval.api.instance import Instance
from test_gguf import CASES, UNEVEN, VOCABULARY, byte_level, converted, dense, folder, needs_llama_cpp
from transformers import AutoModelForCausalLM

import tiny
from pruning.analysis import file_speed
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.evaluation import gguf_files, runtimes
from pruning.evaluation.backends import hf, llama_cpp
from pruning.methods import variants
from pruning.models import dequantised, loading
from pruning.models.checkpoint import Checkpoint
from pruning.models.gguf import model as gguf_model
from workspace import ROOT

SETTINGS = {"name": "tiny", "type": "q8_0", "dtype": "float32"}
CLOCK = {"prompt_tokens": 6, "decode_tokens": 2, "rounds": 3, "warmup": 1, "seed": 0, "threads": 1}
CHANCE = {"confidence": 0.95, "resamples": 200}


def scrambled(model: Path) -> torch.nn.Module:
    """The model with none of its weights."""
    network, _ = loading.load(model, "float32", "cpu")
    for parameter in network.parameters():
        parameter.data = torch.rand_like(parameter)
    return network


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize(("kind", "widths", "bias", "changes"), CASES)
def test_every_weight_comes_from_the_file(tmp_path, kind, widths, bias, changes):
    """Of every family, with and without biases and in layers of different widths: rounded to float16, and no more."""
    model = folder(tmp_path, kind, widths, bias=bias, **changes)
    whole, found = weights(loading.load(model, "float32", "cpu")[0]), scrambled(model)
    dequantised.put(found, converted(model))
    for name, wanted in whole.items():
        torch.testing.assert_close(weights(found)[name], wanted, rtol=1e-3, atol=2e-4, msg=name)


def test_blocks_of_32_by_hand(tmp_path):
    """Q8_0: of 32 values the largest is 127 steps; a step is a float16."""
    model = folder(tmp_path, "llama", (32, 32, 32, 32))
    found = scrambled(model)
    dequantised.put(found, converted(model, "q8_0"))
    for name, part in (("gate_proj", "gate"), ("down_proj", "down")):
        values = Checkpoint(model).matrix(2, part).reshape(-1, 32)
        step = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
        wanted = np.float32(np.float16(step)) * np.round(values / step)
        ours = found.get_submodule(f"model.layers.2.mlp.{name}").weight.numpy().reshape(-1, 32)
        assert np.abs(ours - values).max() > 1e-4  # it is no copy
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-7)


def large(place: Path, kind: str) -> Path:
    """A model whose rows are whole blocks of 256."""
    return dense(place / "model", kind, hidden_size=256, intermediate_size=256)


def made(model: Path, kind: str) -> Path:
    """Its GGUF file of a type, by llama.cpp."""
    gguf_model.quantise(converted(model), file := model.with_name(f"{kind}.gguf"), kind, 1)
    return file


@needs_llama_cpp
@pytest.mark.parametrize(("family", "kind"), product(("llama", "qwen2"), ("q6_k", "q4_k_m", "q3_k_m", "q2_k")))
def test_k_quants_are_as_transformers_reads_them(tmp_path, family, kind):
    """Its reader has names and orders of rows of its own."""
    model = large(tmp_path, family)
    file, ours = made(model, kind), scrambled(model)
    dequantised.put(ours, file)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    wanted = weights(theirs)
    for name, own in weights(ours).items():
        assert torch.equal(own, wanted[name]), name


@needs_llama_cpp
@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m", "q2_k"])
def test_llama_cpp_computes_what_is_evaluated(tmp_path, kind):
    """But for activations, which it rounds to 8 bits: far closer to the file's values than to the model's."""
    model = large(tmp_path, "qwen2")
    file = converted(model, kind) if kind == "q8_0" else made(model, kind)
    dense, tokenizer = loading.load(model, "float32", "cpu")
    ours = scrambled(model)
    dequantised.put(ours, file)
    of_file = runtimes.in_llama_cpp(file, runtimes.expected(ours, tokenizer, "float32"), tokenizer, None)
    of_model = runtimes.in_llama_cpp(file, runtimes.expected(dense, tokenizer, "float32"), tokenizer, None)
    times = {"q8_0": 1.2, "q4_k_m": 20, "q2_k": 100}[kind]
    assert times * of_file["kl_divergence"] < of_model["kl_divergence"]


IN_TURN = """
import sys, torch
from pruning.models.gguf import llama
with llama.opened(sys.argv[1], "x", 1, n_ctx=64) as file:
    for _ in range(2):
        file.reset()
        file.eval(list(range(40)))
        print((torch.ones(256, 256, dtype=torch.bfloat16) @ torch.ones(256, 256, dtype=torch.bfloat16))[0, 0].item())
"""


@needs_llama_cpp
def test_torch_and_llama_cpp_take_turns_in_one_process(tmp_path):
    """Without a thread of its own llama.cpp dies here, where the processor has AMX; elsewhere this cannot fail."""
    file = converted(large(tmp_path, "qwen2"), "q8_0")
    done = subprocess.run([sys.executable, "-c", IN_TURN, file], capture_output=True, text=True, cwd=ROOT / "scripts")
    assert (done.returncode, done.stdout) == (0, "256.0\n" * 2), done.stderr


def test_a_file_of_another_model_is_refused(tmp_path):
    model, other = folder(tmp_path / "a", "qwen2"), folder(tmp_path / "b", "qwen2", UNEVEN)
    network, file = scrambled(model), converted(other)
    with pytest.raises(InputError, match=r"f16.gguf: holds no .*.0.mlp.gate_proj.weight of this model's shape"):
        dequantised.put(network, file)
    longer = dense(tmp_path / "longer", "qwen2", 5, intermediate_size=20)
    with pytest.raises(InputError, match="f16.gguf: holds blk.4.attn_norm.weight, which the model does not have"):
        dequantised.put(scrambled(model), converted(longer))


# the stage and the variant


def base(place: Path) -> Path:
    """A dense model with its manifest, as scripts/fetch_model.py leaves it."""
    model = tiny.save(tiny.qwen2(vocab_size=VOCABULARY, intermediate_size=64), place / "base")
    byte_level("qwen2").save_pretrained(model)
    tiny.record(model)
    return model


def test_a_variant_is_loaded_as_what_its_file_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, file = base(tmp_path), tmp_path / "q8_0.gguf"
    to_gguf.to_gguf(SETTINGS, file, variant={"model": model, "manifest": model / "manifest.json"})
    record = artifacts.read_json(file.with_suffix(".json"), "gguf")
    assert record["bytes"] == file.stat().st_size and record["widths"] == [64, 64] and record["type"] == "q8_0"
    assert record["parameters"] == Checkpoint(model).parameters and record["tensors"]["Q8_0"] == 15
    own = variants.Parts(model, model / "manifest.json", gguf=file)
    whole = variants.Parts(model, model / "manifest.json")
    found, wanted = own.load("float32", "cpu")[0], scrambled(model)
    dequantised.put(wanted, file)
    assert all(torch.equal(weight, weights(wanted)[name]) for name, weight in weights(found).items())
    assert not torch.equal(found.lm_head.weight, whole.load("float32", "cpu")[0].lm_head.weight)
    assert own.identity() != whole.identity()
    with pytest.raises(InputError, match=r"q8_0.gguf: its values .* `backend: hf`"), own.written("float32"):
        pass
    with file.open("r+b") as opened:
        opened.seek(-1, 2)
        opened.write(b"\xff")
    with pytest.raises(InputError, match=r"q8_0.gguf: is not the file that .*q8_0.json records"):
        own.load("float32", "cpu")


@needs_llama_cpp
def test_llama_cpp_answers_as_the_harness_does(tmp_path, monkeypatch):
    """On the same prompts, with the same ends: a limit, a stop string and the end token."""
    monkeypatch.chdir(tmp_path)
    model, file = base(tmp_path), tmp_path / "f16.gguf"
    to_gguf.to_gguf(SETTINGS | {"type": "f16"}, file, variant={"model": model, "manifest": model / "manifest.json"})
    texts = ["Question: Tom has 3 boxes", "It's 1,234", "x"]
    asked = [{"until": own, "max_gen_toks": tokens} for own, tokens in ((["e"], 12), ([], 5), (["?"], 30))]
    requests = [Instance("generate_until", {}, pair, 0) for pair in zip(texts, asked, strict=True)]
    parts = variants.Parts(model, model / "manifest.json", gguf=file)
    with llama_cpp.opened(parts, {"dtype": "float32"}) as (opened, tokenizer):
        theirs = llama_cpp.lm(opened, tokenizer, 2)
        found = theirs.generate_until(requests, disable_tqdm=True)
        wanted = hf.lm(opened.network, tokenizer, 2).generate_until(requests, disable_tqdm=True)
        assert found == wanted and all(found) and len({*found}) == 3
        origins = llama_cpp.origin(opened, tokenizer), hf.origin(opened.network, tokenizer)
        assert origins[0]["llama_cpp"] and origins[0]["generation"] == origins[1]["generation"]
        with pytest.raises(InputError, match="generates answers and scores no options"):
            theirs.loglikelihood([Instance("loglikelihood", {}, ("a", "b"), 0)], disable_tqdm=True)
        penalised = ("x", {"until": [], "max_gen_toks": 5, "repetition_penalty": 1.3})
        with pytest.raises(InputError, match="`repetition_penalty: 1.3`: answers are greedy, and these settings are"):
            theirs.generate_until([Instance("generate_until", {}, penalised, 0)], disable_tqdm=True)
        with pytest.raises(InputError, match="do not fit the model's context of 512"):
            theirs.greedy(opened.network, [[1] * 500], 20, lambda *_: False)


# speed in llama.cpp


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    model, found = base(tmp_path), {}
    for name, kind in (("dense", "f16"), ("other", "q8_0")):
        found[name] = tmp_path / f"{kind}.gguf"
        parts = variants.Parts(model, model / "manifest.json")
        gguf_files.of_variant(parts, found[name], SETTINGS | {"type": kind}, 1)
    return found


@needs_llama_cpp
def test_two_files_take_turns_in_llama_cpp(tmp_path, files, monkeypatch):
    """By a clock that only llama.cpp's evaluations move: a millisecond a token, half of it in the quantised file."""
    import llama_cpp  # the library

    now, seen = [0.0], []
    evaluate = llama_cpp.Llama.eval

    def count(model, tokens):
        now[0] += len(tokens) * (0.5 if "q8_0" in model.model_path else 1) / 1000
        seen.append(("q8_0" in model.model_path, len(tokens)))
        evaluate(model, tokens)

    monkeypatch.setattr(llama_cpp.Llama, "eval", count)
    monkeypatch.setattr(file_speed, "timer", lambda: now[0])
    given = [f"{name}={file}" for name, file in files.items()]
    settings = {"clock": "llama_cpp", "model": "tiny", **{k: v for k, v in CLOCK.items() if k != "threads"}, **CHANCE}
    stage.timing(settings, tmp_path / "speed.csv", file=given)
    table = artifacts.read_csv(tmp_path / "speed.csv").set_index("file")
    assert table["prefill_s"].tolist() == pytest.approx([0.006, 0.003])
    assert table["decode_tokens_per_s"].tolist() == pytest.approx([1000, 2000])
    assert table["prefill_speedup"].tolist() == table["decode_speedup_high"].tolist() == [1, 2]
    assert [length for _, length in seen] == [6, 1, 1] * (2 + 4 * 2) and {*seen[::3]} == {(True, 6), (False, 6)}
    assert (table["memory_mb"] >= 0).all() and table["threads"].tolist() == [1, 1]


@needs_llama_cpp
def test_more_tokens_than_the_context_are_refused(files):
    with pytest.raises(InputError, match=r"prompt_tokens \+ decode_tokens: 602 are more than the model's 512"):
        file_speed.of_files(files, CLOCK | CHANCE | {"prompt_tokens": 600})


def test_resident_memory_is_this_processs():
    before, block = file_speed.resident_mb(), np.ones(10**7)
    assert 75 < file_speed.resident_mb() - before < 90 and block.nbytes == 8 * 10**7
