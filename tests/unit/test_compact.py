"""Compact models on disk: shards, biases that make up for what is removed, the stage, and what is refused.

That what is cut is what is silent, in every way and family, is in test_structures.py.
"""

import json
from pathlib import Path

import compact as stage
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, T5Config

import tiny
from pruning.calibration.gradients import Calibration
from pruning.calibration.prepare import as_batches
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods.compact import Pruning
from pruning.methods.compensation import bias
from pruning.models import sources
from pruning.models.checkpoint import Checkpoint
from pruning.models.loading import load, model_class
from pruning.models.structures import ffn

FAMILIES = {"qwen2": tiny.qwen2, "llama": tiny.llama}
TEXT = torch.tensor([[3, 77, 250, 14, 9, 120, 33, 8], [200, 5, 6, 91, 42, 42, 17, 255]])
UNIFORM, UNEVEN = tiny.keeps(20, 20), tiny.keeps(7, 31)


def write(base: Path, output: Path, keeps, compensate=None, export="exact") -> Path:
    return tiny.written(Pruning(Checkpoint(base), keeps, compensate), output, export=export)


def dense(base: Path):
    """The model in float64 by transformers alone."""
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)


def loaded(directory: Path):
    return load(directory, "float64", "cpu")[0]


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(TEXT).logits.double()


def expected_logits(base: Path, keeps, instead=None) -> torch.Tensor:
    return logits(tiny.silenced(dense(base), keeps, instead))


def assert_close(found: torch.Tensor, expected: torch.Tensor):
    """Up to float32 rounding, which transformers' norms have even in float64."""
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


def assert_whole_index(output: Path):
    """The index names every tensor once, with the file that holds it."""
    index = json.loads((output / "model.safetensors.index.json").read_text())["weight_map"]
    held = {name: file.name for file in output.glob("*.safetensors") for name in load_file(file)}
    assert index == held


@pytest.fixture(params=FAMILIES)
def base(request, tmp_path) -> Path:
    return tiny.save(FAMILIES[request.param](), tmp_path / "base")


# What is written


def test_keeping_everything_changes_nothing(base, tmp_path):
    output = write(base, tmp_path / "out", tiny.keeps(48, 48))
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_sharded_base_stays_sharded(tmp_path):
    model, base = tiny.qwen2(), tmp_path / "base"
    model.save_pretrained(base, max_shard_size="20KB")
    tiny.tokenizer().save_pretrained(base)
    output = write(base, tmp_path / "out", UNEVEN)
    files = {file.name for file in base.glob("*.safetensors")}
    assert len(files) > 3
    assert {file.name for file in output.glob("*.safetensors")} == files
    assert_close(logits(loaded(output)), expected_logits(base, UNEVEN))
    padded = write(base, tmp_path / "padded", UNEVEN, export="pad")
    assert_close(logits(dense(padded)), expected_logits(base, UNEVEN))
    assert_whole_index(output)


def test_one_shard_that_an_index_names_is_found_again(tmp_path):
    """As Qwen3-1.7B's, whose second shard is a copy of the embedding alone and is taken out."""
    base, index = tiny.save(tiny.qwen2(), tmp_path / "base"), "model.safetensors.index.json"
    shard = (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    (base / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(load_file(shard), shard.name)}))
    output = write(base, tmp_path / "out", UNIFORM)
    assert_whole_index(output)
    for model in (loaded(output), dense(output)):
        assert_close(logits(model), expected_logits(base, UNIFORM))


def test_tokenizer_and_chat_template_are_copied_and_old_weights_and_papers_are_not(tmp_path):
    """Of a local folder as well."""
    model, base = tiny.save(tiny.qwen2(), tmp_path / "model"), tmp_path / "base"
    (model / "chat_template.jinja").write_text("{{ messages }}")
    base.mkdir()
    sources.from_local(model, base)
    expected = {file.name for file in base.iterdir()}
    for name in ("README.md", "manifest.json"):
        (base / name).write_text("about the dense model")
    output = write(base, tmp_path / "out", UNIFORM)
    assert {file.name for file in output.iterdir()} == expected
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (output / name).read_bytes() == (model / name).read_bytes()


def test_loading_gives_a_tokenizer_that_pads_on_the_left(base, tmp_path):
    model, tokenizer = load(write(base, tmp_path / "out", UNEVEN), "float32", "cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", "<|end|>")


def test_config_records_widths_only_where_they_differ():
    stock = {"model_type": "qwen2", "intermediate_size": 48}
    assert ffn.STRUCTURE.compact_config(stock, [7, 7]) == {"model_type": "qwen2", "intermediate_size": 7}
    uneven = ffn.STRUCTURE.compact_config(stock, [7, 9])
    assert uneven["intermediate_size"] == 9
    assert uneven["ffn_widths"] == [7, 9]
    assert "ffn_widths" not in ffn.STRUCTURE.compact_config(uneven | {"auto_map": {}}, [5, 5])
    assert stock["intermediate_size"] == 48


# Biases that make up for what is removed


def calibrated(model) -> list[dict[str, np.ndarray]]:
    """Statistics of the activations on TEXT, a layer each."""
    with Calibration(model, objectives=("ce",)) as run:
        run.run(as_batches([TEXT]))
    return [{name: rows[name].to_numpy() for name in rows} for _, rows in run.frames()[0].groupby("layer")]


def activation_means(base: Path) -> list[np.ndarray]:
    """Mean down_proj input over TEXT of the dense model."""
    model = dense(base)
    with tiny.watched([layer.mlp.down_proj for layer in model.model.layers]) as calls:
        logits(model)
    return [x.mean((0, 1)).numpy() for [(x, _)] in calls]


def compensated(base: Path, keeps):
    statistics, down = calibrated(load(base, "float32", "cpu")[0]), Checkpoint(base).matrix
    return lambda layer: bias.compensate(down(layer, "down"), keeps["ffn"][layer], statistics[layer])


MADE = {  # family, keeps, export, shards: where stock classes have a slot for the bias, and where not
    f"{name}, {widths}, {export}, {shards}": (model, keeps, export, shards)
    for name, model in {
        "llama": tiny.llama(),
        "llama with biases": tiny.llama(mlp_bias=True),
        "qwen2": tiny.qwen2(),
    }.items()
    for widths, keeps in {"uniform": UNIFORM, "uneven": UNEVEN}.items()
    for export in ("exact", "pad")
    for shards in ("5GB", "1KB")
    if (name != "qwen2" or export == "exact") and (widths != "uniform" or export == "exact")
}


@pytest.mark.parametrize("case", MADE)
def test_flap_bias_is_the_removed_neurons_at_their_means(tmp_path, case):
    """With or without biases of the model's own, which stay."""
    (model, keeps, export, shards), base = MADE[case], tmp_path / "base"
    model.save_pretrained(base, max_shard_size=shards)
    tiny.tokenizer().save_pretrained(base)
    output = write(base, tmp_path / "out", keeps, compensated(base, keeps), export)
    found, expected = loaded(output), expected_logits(base, keeps, activation_means(base))
    assert_close(logits(found), expected)
    assert (expected - expected_logits(base, keeps)).abs().max() > 0.01
    config = json.loads((output / "config.json").read_text())
    slot = "mlp_bias" if model.config.model_type == "llama" else "ffn_down_bias"
    assert config[slot] is True and ("ffn_down_bias" in config) == (slot == "ffn_down_bias")
    greedy = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    wanted = tiny.silenced(dense(base), keeps, activation_means(base)).generate(TEXT, **greedy)
    assert wanted.tolist() == found.generate(TEXT, **greedy).tolist()
    if shards == "1KB":
        assert_whole_index(output)


def test_weights_keep_their_dtype_or_have_the_one_that_is_asked_for(tmp_path):
    base = tiny.save(tiny.qwen2().to(torch.bfloat16), tmp_path / "base")
    output = write(base, tmp_path / "out", UNIFORM, tiny.biased(Checkpoint(base), UNIFORM))
    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.bfloat16}
    assert {p.dtype for p in load(output, "float16", "cpu")[0].parameters()} == {torch.float16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [tiny.qwen2, tiny.llama, lambda: tiny.llama(mlp_bias=True)])
def test_in_memory_both_round_alike(tmp_path, make, dtype):
    """Biases that were there are cut and added to; of a checkpoint stored in bfloat16 as well."""
    base = tiny.save(make().to(getattr(torch, dtype)), tmp_path / "base")
    pruning = Pruning(Checkpoint(base), UNEVEN, compensated(base, UNEVEN), biased=True)
    tiny.written(pruning, tmp_path / "out")
    expected, found = (load(folder, dtype, "cpu")[0] for folder in (tmp_path / "out", base))
    pruning.apply(found)
    weights = dict(expected.named_parameters())
    assert all(torch.equal(own, weights.pop(name)) for name, own in found.named_parameters())
    assert all(not tensor.any() for tensor in weights.values()), list(weights)  # gate's and up's, with `mlp_bias`
    assert torch.equal(logits(found), logits(expected))
    assert pruning.parameters() == Checkpoint(tmp_path / "out").parameters


def test_down_bias_by_hand():
    down = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 4.0]], dtype=np.float32)
    statistics = {"act_sum": np.array([10.0, 20.0, 30.0]), "n_tokens": np.full(3, 10.0)}  # means 1, 2, 3
    found = bias.compensate(down, np.array([True, False, False]), statistics)
    assert found.bias.dtype == found.weight.dtype == np.float32
    assert found.bias.tolist() == [2 * 2 + 3 * 3, -1 * 2 + 4 * 3]
    assert found.weight.tolist() == [[1], [0.5]]
    assert found.record == {"bias_norm": pytest.approx((13**2 + 10**2) ** 0.5)}


def test_a_layer_without_neurons_has_the_mean_of_all_for_a_bias(tmp_path):
    """Of a model pruned before there are no statistics of such a layer, and no bias."""
    model, keeps = tiny.qwen2(), tiny.keeps(0, 31)
    base = tiny.save(model, tmp_path / "base")
    statistics = calibrated(model)
    output = write(base, tmp_path / "out", keeps, compensated(base, keeps))
    expected = Checkpoint(base).matrix(0, "down") @ (statistics[0]["act_sum"] / statistics[0]["n_tokens"])
    found = loaded(output).model.layers[0].mlp.down_proj(torch.zeros(1, 0, dtype=torch.float64))[0]
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    left = pd.DataFrame(statistics[1])
    artifacts.write_parquet(tmp_path / "left.parquet", left, "statistics", {})
    of_layer = bias.evidence(tmp_path / "left.parquet", [0, 48])
    made = bias.compensate(np.zeros((8, 0), np.float32), np.zeros(0, dtype=bool), of_layer(0))
    assert made.weight.shape == (8, 0) and not made.bias.any() and len(of_layer(1)["act_sum"]) == 48


def test_a_model_with_the_bias_may_be_saved_loaded_and_pruned_again(tmp_path):
    base = tiny.save(tiny.qwen2(), tmp_path / "base")
    model = loaded(write(base, tmp_path / "out", UNIFORM, compensated(base, UNIFORM)))
    tiny.save(model, tmp_path / "saved")
    assert_close(logits(loaded(tmp_path / "saved")), logits(model))
    fewer = {"ffn": [np.arange(20) < 11, np.arange(20) >= 11]}
    compensate = tiny.biased(Checkpoint(tmp_path / "saved"), fewer)
    again = write(tmp_path / "saved", tmp_path / "again", fewer, compensate)
    for number, layer in enumerate(model.model.layers):
        layer.mlp.down_proj.weight.data[:, torch.tensor(~fewer["ffn"][number])] = 0
        layer.mlp.down_proj.bias.data += torch.from_numpy(compensate(number).bias)
    assert_close(logits(loaded(again)), logits(model))


def test_stock_transformers_leave_the_bias_out_and_say_so(tmp_path):
    """The reason for `loads_with` in the manifest."""
    base = tiny.save(tiny.qwen2(), tmp_path / "base")
    output = write(base, tmp_path / "out", UNIFORM, compensated(base, UNIFORM))
    model, said = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float64, output_loading_info=True)
    assert set(said["unexpected_keys"]) == {f"model.layers.{layer}.mlp.down_proj.bias" for layer in (0, 1)}
    assert_close(logits(model), expected_logits(base, UNIFORM))


@pytest.mark.parametrize("keeps", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
def test_padding_for_stock_tools_is_refused_where_they_have_no_slot_for_the_bias(tmp_path, keeps):
    base = tiny.save(tiny.qwen2(), tmp_path / "base")
    with pytest.raises(
        InputError, match=r"export: pad .* no slot for the bias of down_proj in qwen2 .* `export: exact`"
    ):
        write(base, tmp_path / "out", keeps, compensated(base, keeps), export="pad")


def test_a_llama_whose_config_is_older_than_mlp_bias_gets_it(tmp_path):
    base = tiny.save(tiny.llama(), tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    del config["mlp_bias"]
    (base / "config.json").write_text(json.dumps(config))
    output = write(base, tmp_path / "out", UNEVEN, compensated(base, UNEVEN), "pad")
    assert json.loads((output / "config.json").read_text())["mlp_bias"] is True
    assert_close(logits(dense(output)), expected_logits(base, UNEVEN, activation_means(base)))


# The stage: a mask in, a model directory and its manifest out


def run_stage(base: Path, keeps, tmp_path: Path, **settings) -> dict:
    rows = [pd.DataFrame(s) for s in calibrated(tiny.llama())]
    artifacts.write_parquet(tmp_path / "statistics.parquet", pd.concat(rows), "statistics", {})
    stage.compact(
        {"compensate": "none", "export": "exact", **settings},
        base,
        tiny.record(base),
        tiny.write_mask(tmp_path / "mask.parquet", keeps),
        tmp_path / "model",
        tmp_path / "manifest.json",
        tmp_path / "statistics.parquet",
    )
    return artifacts.read_json(tmp_path / "manifest.json", "compact")


CODE = "transformers, trust_remote_code=True"


@pytest.mark.parametrize(
    ("family", "keeps", "settings", "loader"),
    [
        ("qwen2", UNIFORM, {}, "transformers"),
        ("qwen2", UNEVEN, {}, CODE),
        ("qwen2", UNEVEN, {"export": "pad"}, "transformers"),
        ("qwen2", UNIFORM, {"compensate": "bias"}, CODE),
        ("llama", UNIFORM, {"compensate": "bias"}, "transformers"),
        ("llama", UNEVEN, {"compensate": "bias"}, CODE),
        ("llama", UNEVEN, {"export": "pad"}, "transformers"),
    ],
)
def test_the_manifest_says_what_is_left_and_what_loads_it(tmp_path, family, keeps, settings, loader):
    base = tiny.save(FAMILIES[family](), tmp_path / "base")
    manifest = run_stage(base, keeps, tmp_path, **settings)
    widths = [int(keep.sum()) for keep in keeps["ffn"]]
    biased, stored = settings.get("compensate") == "bias", 2 * max(widths) if "export" in settings else sum(widths)
    assert (manifest["loads_with"], manifest["widths"]) == (loader, widths)
    assert manifest["achieved_sparsity"] == pytest.approx(1 - sum(widths) / 96)
    whole = sum(p.numel() for p in dense(base).parameters())
    assert manifest["parameters"] == whole
    own_slots = 2 * sum(widths) if family == "llama" else 0  # zeros on gate and up
    assert manifest["parameters_kept"] == whole - (96 - stored) * 3 * 32 + biased * (2 * 32 + own_slots)
    assert manifest["parameters_kept"] == sum(p.numel() for p in loaded(tmp_path / "model").parameters())
    assert set(manifest["files"]) == {file.name for file in (tmp_path / "model").iterdir()}
    assert [list(record) for record in manifest.get("compensation", [])] == biased * [["bias_norm"]] * 2


def test_a_mask_of_another_model_is_refused(base, tmp_path):
    keeps = {"ffn": [UNIFORM["ffn"][0], UNIFORM["ffn"][1][:40]]}
    with pytest.raises(InputError, match=r"mask.parquet: not a mask of .*: layer widths \[48, 40\], not \[48, 48\]"):
        run_stage(base, keeps, tmp_path)
    assert not (tmp_path / "model").exists()


# What is no model


def test_a_folder_without_weights_is_refused(base):
    (base / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no \*\.safetensors here"):
        Checkpoint(base)


def test_a_model_that_is_no_causal_lm_is_refused(tmp_path):
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'t5' is no causal language model"):
        model_class(tmp_path)
