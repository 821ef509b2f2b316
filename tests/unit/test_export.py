"""Exported folders: what stock tools make of them, what their card says, and what is refused."""

import json
from itertools import product
from pathlib import Path

import compact as compact_stage
import export as stage
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.core.names import Variant
from pruning.evaluation import recovery
from pruning.evaluation.samples import frame
from pruning.models import loading, remote_code
from pruning.models.families import DENSE
from pruning.report import card, measures
from tiny import logits

METHOD = {"score": "wanda", "options": {}, "normalise": "none", "allocate": "uniform", "compensate": "none"}
TASKS = {
    "gsm8k": {"task": "gsm8k", "tuning": None, "metrics": ["acc"], "kind": "accuracy", "title": "GSM8K"},
    "text": {"task": "text", "tuning": None, "metrics": ["perplexity"], "kind": "perplexity", "title": "Text"},
}
SETTINGS = {"name": "tiny-wanda-50", "dtype": "float32", "note": None, "tuning": None, "method": METHOD, "tasks": TASKS}
SETTINGS |= {"source": {"kind": "hub", "repo": "a/b", "revision": "0" * 40}, "seed": 0, "confidence": 0.95}
SETTINGS |= {"variant": {"calib": "c", "method": "wanda", "sparsity": 50, "tuning": None}, "resamples": 100}
SETTINGS |= {"calibration": {"dataset": "gsm8k", "samples": 8, "sequence_length": 64, "seed": 0}}


def pruned(folder, model, widths=(20, 20), compensate="none"):
    """results/m with a base and a compact model, and the arguments of the stage."""
    results = folder / "results/m"
    base, place = tiny.save(model, results / "base"), results / "compact"
    (base / "training_log.csv").write_text("not of the model")
    (base / "recipe.json").write_text("{}")
    (base / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    (base / "config.json").chmod(0o600)
    manifest, mask = tiny.record(base), tiny.write_mask(results / "mask.parquet", tiny.keeps(*widths))
    fitted = tiny.write_statistics(results / "statistics.parquet") if compensate == "bias" else None
    settings, made = {"compensate": compensate, "export": "exact"}, place / "manifest.json"
    compact_stage.compact(settings, base, manifest, mask, place / "model", made, fitted)
    return place / "model", made, manifest, mask


UNIFORM, UNEVEN = (20, 20), (7, 31)


@pytest.mark.parametrize(
    ("family", "widths", "compensate"), [*product(DENSE, (UNIFORM, UNEVEN), ["none"]), ("qwen2", UNEVEN, "bias")]
)
def test_every_family_is_exported_and_loads_in_stock_tools(tmp_path, family, widths, compensate):
    """And FLAP's bias goes with it."""
    arguments, out = pruned(tmp_path, tiny.of_family(family), widths, compensate), tmp_path / "out"
    stage.export(SETTINGS | {"method": METHOD | {"compensate": compensate}}, *arguments, out)
    own = widths == UNEVEN
    stock = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=own)
    assert torch.equal(logits(stock), logits(loading.load(arguments[0], "float32", "cpu")[0]))
    checks = artifacts.read_json(out / "manifest.json", "export")["checks"]
    masked = set() if compensate == "bias" else {"the dense model, masked"}
    assert set(checks) == {"transformers", "peft", "lm_eval"} | masked
    assert checks["transformers"]["same_text"] is True
    assert ("trust_remote_code=True" in (out / "README.md").read_text()) == own
    if compensate == "bias":
        assert stock.model.layers[0].mlp.down_proj.bias.abs().max() > 0


def test_the_folder_holds_a_model_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    stage.export(SETTINGS, *pruned(tmp_path, tiny.qwen2()), out)
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "README.md", "manifest.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o644}
    messages = [{"role": "user", "content": "hello"}]
    assert AutoTokenizer.from_pretrained(out).apply_chat_template(messages, tokenize=False) == "hello"
    assert "Nothing has been measured of this model." in (out / "README.md").read_text()
    manifest = artifacts.read_json(out / "manifest.json", "export")
    assert manifest["files"] == artifacts.directory_hashes(out)
    (out / "config.json").write_text((out / "config.json").read_text() + " ")
    with pytest.raises(InputError, match="config.json: is not the file that"):
        loading.load(out, "float32", "cpu")


@pytest.mark.parametrize("widths", [UNIFORM, UNEVEN])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_recovery_is_merged(tmp_path, widths, stored):
    """Whatever the base is stored in: what it is measured in is what is exported."""
    arguments, out = pruned(tmp_path, tiny.qwen2().to(stored), widths), tmp_path / "out"
    network, _ = loading.load(arguments[0], "float32", "cpu")
    tuned = recovery.with_adapters(network, {"seed": 0, "rank": 2, "alpha": 4, "targets": ["q_proj", "down_proj"]})
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    recovery.save(tmp_path / "adapter", tuned)
    tuning = {"dataset": "gsm8k", "rank": 2, "steps": 3}
    stage.export(SETTINGS | {"tuning": tuning}, *arguments, out, adapter=tmp_path / "adapter")
    stock = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=widths == UNEVEN)
    assert stock.dtype == torch.float32
    torch.testing.assert_close(logits(stock), logits(tuned), rtol=1e-4, atol=1e-5)
    assert "LoRA of rank 2, 3 steps" in (out / "README.md").read_text()


def samples(path, metric, values, weight) -> None:
    rows = {"item": range(len(values)), "metric": metric, "value": values, "weight": weight}
    artifacts.write_parquet(path, frame(rows), "samples", {})


def test_the_card_says_what_was_measured(tmp_path, monkeypatch):
    arguments = pruned(tmp_path, tiny.qwen2())
    monkeypatch.chdir(tmp_path)
    variant, found = Variant(**SETTINGS["variant"]), []
    for name, right in ((variant, 30), (Variant(), 40)):
        found.append(Path(name.samples("m", "gsm8k")))
        samples(found[-1], "acc", [1.0] * right + [0.0] * (50 - right), 1)
    found.append(Path(variant.samples("m", "text")))
    samples(found[-1], "perplexity", [7.0 + n % 3 for n in range(40)], 7)
    stage.export(SETTINGS, *arguments, tmp_path / "out", measured=found)
    text = (tmp_path / "out/README.md").read_text()
    assert "| GSM8K, acc | 60.0% [46.2, 72.4] | 80.0% [67.0, 88.8] | 50 items |" in text  # Wilson, by statsmodels
    line = next(line for line in text.splitlines() if line.startswith("| Text, perplexity"))
    assert line.endswith("| not measured | 40 windows |")
    assert "base_model: a/b\n" in text and f"a/b at {'0' * 40}" in text
    assert "58.3% (asked: 50%)" in text and "20 in each of 2 layers" in text


@pytest.mark.parametrize(
    ("metric", "kind", "parts", "measured"),
    [
        ("kl", "perplexity", {}, "0.1000 [0.1000, 0.1000] | not measured | 40 windows |"),  # in nats
        ("kl", "perplexity", {"parts": "records"}, "0.1000 [0.1000, 0.1000] | not measured | 40 records |"),
        ("bits_per_byte", "bits", {}, "0.1000 [0.1000, 0.1000] | not measured | 40 pieces |"),
    ],
)
def test_what_is_measured_of_texts_beside_perplexity_is_no_share(tmp_path, monkeypatch, metric, kind, parts, measured):
    monkeypatch.chdir(tmp_path)
    path = Path(Variant(**SETTINGS["variant"]).samples("m", "text"))
    samples(path, metric, [0.7] * 40, 7)
    tasks = {"text": {"title": "Text", "metrics": [metric], "kind": kind, **parts}}
    rows = list(measures.measures(SETTINGS | {"tasks": tasks}, [path]))
    assert card.table(rows, 0.95).splitlines()[2] == f"| Text, {metric} | {measured}"


def test_what_stock_tools_load_wrongly_is_not_exported(tmp_path, monkeypatch):
    """As if the written code left the widths' order out."""
    arguments = pruned(tmp_path, tiny.qwen2(), (20, 20), "bias")
    file = arguments[0] / remote_code.FILE
    file.write_text(file.read_text().replace("or biased", ""))
    manifest = json.loads(arguments[1].read_text())
    manifest["files"] = artifacts.directory_hashes(arguments[0])
    del manifest["provenance"]
    artifacts.write_json(arguments[1], manifest, "compact", {})
    with pytest.raises(InputError, match="in transformers the logits are up to .* not exported"):
        stage.export(SETTINGS, *arguments, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        ({}, "m.gguf, dequantised"),
        ({"package": "some"}, "m.gguf in the Python package some, dequantised"),
        ({"package": "some", "version": "1.2"}, "m.gguf in the Python package some 1.2, dequantised"),
        (
            {"package": "p{part}", "path": "d/{part:02}.bin", "parts": 22, "version": "1"},
            "d/01.bin … d/22.bin in the Python packages p1 … p22 1, dequantised",
        ),
        ({"path": "d/{part}.bin", "parts": 1}, "d/1.bin, dequantised"),
        ({"path": "odd {name}.gguf"}, "odd {name}.gguf, dequantised"),
    ],
)
def test_a_card_says_which_files_a_gguf_model_came_from(changes: dict, written: str):
    source = {"kind": "gguf", "path": "m.gguf", "package": None, "version": None, "parts": None}
    assert card.origin(source | changes) == written
