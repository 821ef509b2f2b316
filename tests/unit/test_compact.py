"""Compact models against the dense one with the same neurons switched off."""

import json
from contextlib import contextmanager
from pathlib import Path

import compact as stage
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, T5Config

import tiny
from pruning.calibration.gradients import Calibration
from pruning.calibration.prepare import micro_batches
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.evaluation import recovery
from pruning.methods.compact import write_compact
from pruning.methods.compensation import Compensated, bias
from pruning.models.checkpoint import Checkpoint, read_config
from pruning.models.loading import load, model_class
from pruning.models.structures.ffn import compact_config, widths_of

FAMILIES = {"qwen2": tiny.qwen2, "llama": tiny.llama}
TEXT = torch.tensor([[3, 77, 250, 14, 9, 120, 33, 8], [200, 5, 6, 91, 42, 42, 17, 255]])
UNIFORM, UNEVEN = (20, 20), (7, 31)


def masks(widths, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    keeps = [np.zeros(48, dtype=bool) for _ in widths]
    for keep, width in zip(keeps, widths, strict=True):
        keep[rng.permutation(48)[:width]] = True
    return keeps


def write(base: Path, output: Path, keeps, compensate=None, export="exact") -> Path:
    output.mkdir()
    write_compact(Checkpoint(base), output, keeps, compensate, export)
    return output


def ones_as_bias(base: Path, keeps):
    """A compensation that adds 1 to every output of down_proj and leaves its weights alone."""

    def compensate(layer: int) -> Compensated:
        weight = Checkpoint(base).matrix(layer, "down")[:, keeps[layer]]
        return Compensated(weight, np.ones(len(weight), dtype=np.float32), {})

    return compensate


def dense(base: Path):
    """The model in float64 by transformers alone."""
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)


def loaded(directory: Path):
    return load(directory, "float64", "cpu")[0]


@contextmanager
def without(model, keeps, instead=None):
    """The dense model with the removed neurons' activations at zero, or at the values of `instead` [layers, n]."""
    hooks = []
    for layer, keep in enumerate(keeps):
        constant = torch.tensor(np.zeros(48) if instead is None else instead[layer])
        off = torch.tensor(~keep)

        def switch_off(_, args, off=off, constant=constant):
            return (torch.where(off, constant, args[0]),)

        hooks.append(model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(switch_off))
    yield model
    for hook in hooks:
        hook.remove()


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(TEXT).logits.double()


def expected_logits(base: Path, keeps, instead=None) -> torch.Tensor:
    with without(dense(base), keeps, instead) as model:
        return logits(model)


def assert_close(found: torch.Tensor, expected: torch.Tensor):
    """Up to float32 rounding, which transformers' norms have even in float64."""
    assert expected.abs().max() > 1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)


@pytest.fixture(params=FAMILIES)
def base(request, tmp_path) -> Path:
    return tiny.save(FAMILIES[request.param](), tmp_path / "base")


# equal to the masked dense model


@pytest.mark.parametrize("widths", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
@pytest.mark.parametrize("export", ["exact", "pad"])
def test_compact_is_the_dense_model_without_the_removed_neurons(base, tmp_path, widths, export):
    keeps = masks(widths)
    found = logits(loaded(write(base, tmp_path / "out", keeps, export=export)))
    assert_close(found, expected_logits(base, keeps))
    assert (found - logits(dense(base))).abs().max() > 0.1  # and not the dense model itself


@pytest.mark.parametrize(("widths", "export"), [(UNIFORM, "exact"), (UNIFORM, "pad"), (UNEVEN, "pad")])
def test_stock_transformers_load_equal_and_padded_widths(base, tmp_path, widths, export):
    keeps = masks(widths)
    output = write(base, tmp_path / "out", keeps, export=export)
    assert_close(logits(dense(output)), expected_logits(base, keeps))
    config = json.loads((output / "config.json").read_text())
    assert config["intermediate_size"] == max(widths)
    assert not {"ffn_widths", "auto_map"} & config.keys() and not (output / "modeling_pruned.py").exists()


def test_uneven_widths_are_what_the_loaded_layers_have(base, tmp_path):
    output = write(base, tmp_path / "out", masks(UNEVEN))
    assert widths_of(read_config(output)) == {0: 7, 1: 31}
    for layer, width in zip(loaded(output).model.layers, UNEVEN, strict=True):
        shapes = [tuple(getattr(layer.mlp, f"{name}_proj").weight.shape) for name in ("gate", "up", "down")]
        assert shapes == [(width, 32), (width, 32), (32, width)]


def test_greedy_generation_is_that_of_the_masked_dense_model(base, tmp_path):
    keeps = masks(UNEVEN)
    uneven = loaded(write(base, tmp_path / "uneven", keeps))
    padded = dense(write(base, tmp_path / "padded", keeps, export="pad"))
    with without(dense(base), keeps) as masked:
        texts = [generate(model).tolist() for model in (masked, uneven, padded)]
    assert texts[0] == texts[1] == texts[2]
    assert texts[0] != generate(dense(base)).tolist()


def generate(model) -> torch.Tensor:
    mask = torch.ones_like(TEXT)
    mask[1, :3] = 0  # padded on the left, as in evaluation
    limits = {"max_new_tokens": 8, "min_new_tokens": 8}
    return model.generate(TEXT, attention_mask=mask, do_sample=False, pad_token_id=0, **limits)[:, TEXT.shape[1] :]


def test_keeping_everything_changes_nothing(base, tmp_path):
    output = write(base, tmp_path / "out", masks((48, 48)))
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_layer_may_keep_a_single_neuron(base, tmp_path):
    keeps = masks((1, 48))
    assert_close(logits(loaded(write(base, tmp_path / "out", keeps))), expected_logits(base, keeps))


def test_a_sharded_base_stays_sharded(tmp_path):
    model, base, keeps = tiny.qwen2(), tmp_path / "base", masks(UNEVEN)
    model.save_pretrained(base, max_shard_size="20KB")
    tiny.tokenizer().save_pretrained(base)
    output = write(base, tmp_path / "out", keeps)
    files = {file.name for file in base.glob("*.safetensors")}
    assert len(files) > 3
    assert {file.name for file in output.glob("*.safetensors")} == files
    assert_close(logits(loaded(output)), expected_logits(base, keeps))
    padded = write(base, tmp_path / "padded", keeps, export="pad")
    assert_close(logits(dense(padded)), expected_logits(base, keeps))
    assert_whole_index(output)


def assert_whole_index(output: Path):
    """The index names every tensor once, with the file that holds it."""
    index = json.loads((output / "model.safetensors.index.json").read_text())["weight_map"]
    held = {name: file.name for file in output.glob("*.safetensors") for name in load_file(file)}
    assert index == held


def test_weights_keep_their_dtype(tmp_path):
    base = tiny.save(tiny.llama().to(torch.bfloat16), tmp_path / "base")
    keeps = masks(UNIFORM)
    output = write(base, tmp_path / "out", keeps, ones_as_bias(base, keeps))
    assert {tensor.dtype for tensor in load_file(output / "model.safetensors").values()} == {torch.bfloat16}


# bias compensation


def calibrated(model) -> list[dict[str, np.ndarray]]:
    """Statistics of the activations on TEXT, a layer each."""
    samples = [(row, [True] * len(row)) for row in TEXT.tolist()]
    with Calibration(model, objectives=("ce",)) as run:
        run.run(micro_batches(samples, 2, pad=0, token_mask="all"))
    return [{name: rows[name].to_numpy() for name in rows} for _, rows in run.frames()[0].groupby("layer")]


def activation_means(base: Path) -> list[np.ndarray]:
    """Mean down_proj input over TEXT of the dense model, by plain hooks."""
    model, means = dense(base), []
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _, args: means.append(args[0].mean((0, 1)).detach().numpy())
        )
    logits(model)
    return means


def compensated(base: Path, model, keeps):
    statistics = calibrated(model)
    return lambda layer: bias.compensate(Checkpoint(base).matrix(layer, "down"), keeps[layer], statistics[layer])


@pytest.mark.parametrize("mlp_bias", [False, True], ids=["without", "with"])
@pytest.mark.parametrize("shards", ["5GB", "1KB"], ids=["one_file", "a_file_a_tensor"])
@pytest.mark.parametrize(("widths", "export"), [(UNIFORM, "exact"), (UNEVEN, "exact"), (UNEVEN, "pad")])
def test_flap_bias_is_the_removed_neurons_at_their_means(tmp_path, mlp_bias, shards, widths, export):
    """With or without biases of the model's own, which stay."""
    model, keeps, base = tiny.llama(mlp_bias=mlp_bias), masks(widths), tmp_path / "base"
    model.save_pretrained(base, max_shard_size=shards)
    tiny.tokenizer().save_pretrained(base)
    output = write(base, tmp_path / "out", keeps, compensated(base, model, keeps), export)
    found = logits(loaded(output))
    assert_close(found, expected_logits(base, keeps, activation_means(base)))
    assert (found - expected_logits(base, keeps)).abs().max() > 0.01
    assert json.loads((output / "config.json").read_text())["mlp_bias"] is True
    if shards == "1KB":
        assert_whole_index(output)


def test_own_biases_are_cut_with_their_neurons(tmp_path):
    base, keeps = tiny.save(tiny.llama(mlp_bias=True), tmp_path / "base"), masks(UNEVEN)
    assert_close(logits(loaded(write(base, tmp_path / "out", keeps))), expected_logits(base, keeps))


def test_down_bias_by_hand():
    down = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 4.0]], dtype=np.float32)
    statistics = {"act_sum": np.array([10.0, 20.0, 30.0]), "n_tokens": np.full(3, 10.0)}  # means 1, 2, 3
    found = bias.compensate(down, np.array([True, False, False]), statistics)
    assert found.bias.dtype == found.weight.dtype == np.float32
    assert found.bias.tolist() == [2 * 2 + 3 * 3, -1 * 2 + 4 * 3]
    assert found.weight.tolist() == [[1], [0.5]]
    assert found.record == {"bias_norm": pytest.approx((13**2 + 10**2) ** 0.5)}


# bias compensation of a family whose stock class has no bias on down_proj

DOWN_BIASES = {f"model.layers.{layer}.mlp.down_proj.bias" for layer in (0, 1)}


@pytest.fixture
def qwen2(tmp_path):
    """A base model, and a function that writes it compact with FLAP's bias."""
    base = tiny.save(tiny.qwen2(), tmp_path / "base")

    def make(keeps, name="out", **options) -> Path:
        return write(base, tmp_path / name, keeps, compensated(base, tiny.qwen2(), keeps), **options)

    return base, make


@pytest.mark.parametrize("widths", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
def test_flap_bias_without_a_slot_is_carried_by_our_loader(qwen2, widths):
    base, make = qwen2
    keeps = masks(widths)
    output = make(keeps)
    found = logits(loaded(output))
    assert_close(found, expected_logits(base, keeps, activation_means(base)))
    assert (found - expected_logits(base, keeps)).abs().max() > 0.01
    config = json.loads((output / "config.json").read_text())
    assert config["ffn_down_bias"] is True
    assert "mlp_bias" not in config
    assert {n for n in load_file(output / "model.safetensors") if ".mlp." in n and n.endswith("bias")} == DOWN_BIASES


def test_a_sharded_base_keeps_its_biases_beside_the_weights(tmp_path):
    model, keeps, base = tiny.qwen2(), masks(UNEVEN), tmp_path / "base"
    model.save_pretrained(base, max_shard_size="20KB")
    tiny.tokenizer().save_pretrained(base)
    output = write(base, tmp_path / "out", keeps, compensated(base, model, keeps))
    assert_whole_index(output)
    assert_close(logits(loaded(output)), expected_logits(base, keeps, activation_means(base)))


def test_generation_with_the_bias_is_that_of_the_dense_model_at_the_means(qwen2):
    base, make = qwen2
    keeps = masks(UNEVEN)
    with without(dense(base), keeps, activation_means(base)) as model:
        assert generate(loaded(make(keeps))).tolist() == generate(model).tolist()


def test_a_model_with_the_bias_may_be_saved_loaded_and_pruned_again(qwen2, tmp_path):
    base, make = qwen2
    keeps = masks(UNIFORM)
    model = loaded(make(keeps))
    tiny.save(model, tmp_path / "saved")
    assert_close(logits(loaded(tmp_path / "saved")), logits(model))
    fewer = [np.arange(20) < 11, np.arange(20) >= 11]
    again = write(tmp_path / "saved", tmp_path / "again", fewer, ones_as_bias(tmp_path / "saved", fewer))
    for layer, keep in zip(model.model.layers, fewer, strict=True):
        layer.mlp.down_proj.weight.data[:, torch.tensor(~keep)] = 0
        layer.mlp.down_proj.bias.data += 1
    assert_close(logits(loaded(again)), logits(model))


def test_the_bias_has_the_dtype_that_is_asked_for(qwen2):
    _, make = qwen2
    model = load(make(masks(UNEVEN)), "bfloat16", "cpu")[0]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())


def test_lora_is_merged_beside_the_bias(qwen2, tmp_path):
    base, make = qwen2
    output = make(masks(UNEVEN))
    settings = {"seed": 0, "rank": 2, "alpha": 4, "targets": ["q_proj", "up_proj", "down_proj"]}
    tuned = recovery.with_adapters(loaded(output), settings)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:  # zero at first
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    merged = load(output, "float64", "cpu", tmp_path / "adapter")[0]
    assert merged.model.layers[1].mlp.down_proj.bias.abs().max() > 0.01
    assert_close(logits(merged), logits(tuned))
    assert (logits(merged) - logits(loaded(output))).abs().max() > 0.1


def test_stock_transformers_leave_the_bias_out_and_say_so(qwen2):
    """The reason for `loads_with` in the manifest."""
    base, make = qwen2
    keeps = masks(UNIFORM)
    stock, said = AutoModelForCausalLM.from_pretrained(make(keeps), dtype=torch.float64, output_loading_info=True)
    assert set(said["unexpected_keys"]) == DOWN_BIASES
    assert_close(logits(stock), expected_logits(base, keeps))


@pytest.mark.parametrize("widths", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
def test_padding_for_stock_tools_is_refused_where_they_have_no_slot_for_the_bias(qwen2, widths):
    _, make = qwen2
    with pytest.raises(
        InputError, match=r"export: pad .* no slot for the bias of down_proj in qwen2 .* `export: exact`"
    ):
        make(masks(widths), export="pad")


def test_a_llama_whose_config_is_older_than_mlp_bias_gets_it(tmp_path):
    base, keeps = tiny.save(tiny.llama(), tmp_path / "base"), masks(UNEVEN)
    config = json.loads((base / "config.json").read_text())
    del config["mlp_bias"]
    (base / "config.json").write_text(json.dumps(config))
    output = write(base, tmp_path / "out", keeps, compensated(base, tiny.llama(), keeps), "pad")
    assert json.loads((output / "config.json").read_text())["mlp_bias"] is True
    assert_close(logits(dense(output)), expected_logits(base, keeps, activation_means(base)))


# what else a compact directory holds


def test_tokenizer_is_copied_and_old_weights_and_papers_are_not(tmp_path):
    base = tiny.save(tiny.qwen2(), tmp_path / "base")
    for name in ("README.md", "manifest.json"):
        (base / name).write_text("about the dense model")
    output = write(base, tmp_path / "out", masks(UNIFORM))
    expected = {file.name for file in base.iterdir()} - {"README.md", "manifest.json"}
    assert {file.name for file in output.iterdir()} == expected
    assert (output / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_loading_gives_a_frozen_model_that_pads_on_the_left(base, tmp_path):
    model, tokenizer = load(write(base, tmp_path / "out", masks(UNEVEN)), "float32", "cpu")
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token == "<|end|>"


def test_config_records_widths_only_where_they_differ():
    stock = {"model_type": "qwen2", "intermediate_size": 48}
    assert compact_config(stock, [7, 7]) == {"model_type": "qwen2", "intermediate_size": 7}
    uneven = compact_config(stock, [7, 9])
    assert uneven["intermediate_size"] == 9
    assert uneven["ffn_widths"] == [7, 9]
    assert "ffn_widths" not in compact_config(uneven | {"auto_map": {}}, [5, 5])
    assert stock["intermediate_size"] == 48


def test_a_model_that_is_no_causal_lm_is_refused(tmp_path):
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'t5' is no causal language model"):
        model_class(tmp_path)


# the stage: a mask in, a model directory and its manifest out


def run_stage(base: Path, keeps, tmp_path: Path, evidence: bool = True, **settings) -> dict:
    frames = [pd.DataFrame({"layer": i, "unit": range(len(k)), "keep": k}) for i, k in enumerate(keeps)]
    artifacts.write_parquet(tmp_path / "mask.parquet", pd.concat(frames), "mask", {})
    rows = [pd.DataFrame(s) for s in calibrated(tiny.llama())]
    artifacts.write_parquet(tmp_path / "statistics.parquet", pd.concat(rows), "statistics", {})
    stage.compact(
        {"compensate": "none", "export": "exact", **settings},
        base,
        tiny.manifest(base),
        tmp_path / "mask.parquet",
        tmp_path / "model",
        tmp_path / "manifest.json",
        tmp_path / "statistics.parquet" if evidence else None,
    )
    return artifacts.read_json(tmp_path / "manifest.json", "compact")


@pytest.mark.parametrize(
    ("family", "widths", "settings", "loader"),
    [
        ("qwen2", UNIFORM, {}, "transformers"),
        ("qwen2", UNEVEN, {}, "transformers, trust_remote_code=True"),
        ("qwen2", UNEVEN, {"export": "pad"}, "transformers"),
        ("qwen2", UNIFORM, {"compensate": "bias"}, "transformers, trust_remote_code=True"),
        ("llama", UNIFORM, {"compensate": "bias"}, "transformers"),
    ],
)
def test_the_manifest_says_what_loads_the_model(tmp_path, family, widths, settings, loader):
    base = tiny.save(FAMILIES[family](), tmp_path / "base")
    assert run_stage(base, masks(widths), tmp_path, **settings)["loads_with"] == loader


@pytest.mark.parametrize("export", ["exact", "pad"])
def test_manifest_counts_what_is_left(base, tmp_path, export):
    manifest = run_stage(base, masks(UNEVEN), tmp_path, export=export)
    assert manifest["widths"] == [7, 31]
    assert manifest["achieved_sparsity"] == pytest.approx(1 - 38 / 96)
    whole = sum(p.numel() for p in dense(base).parameters())
    stored = 2 * 31 if export == "pad" else 38
    assert manifest["parameters"] == whole
    assert manifest["parameters_kept"] == whole - (96 - stored) * 3 * 32
    assert manifest["parameters_kept"] == sum(p.numel() for p in loaded(tmp_path / "model").parameters())
    assert set(manifest["files"]) == {file.name for file in (tmp_path / "model").iterdir()}


def test_the_stage_compensates_with_the_statistics(tmp_path):
    base, keeps = tiny.save(tiny.llama(), tmp_path / "base"), masks(UNEVEN)
    manifest = run_stage(base, keeps, tmp_path, compensate="bias")
    assert_close(logits(loaded(tmp_path / "model")), expected_logits(base, keeps, activation_means(base)))
    whole = sum(p.numel() for p in dense(base).parameters())
    assert manifest["parameters_kept"] == whole - (96 - 38) * 3 * 32 + 2 * 38 + 2 * 32


@pytest.mark.parametrize("scheme", ["none", "bias"])
def test_the_manifest_tells_of_compensation_where_there_is_any(tmp_path, scheme):
    manifest = run_stage(tiny.save(tiny.llama(), tmp_path / "base"), masks(UNEVEN), tmp_path, compensate=scheme)
    if scheme == "none":
        assert "compensation" not in manifest
    else:
        assert [list(record) for record in manifest["compensation"]] == [["bias_norm"], ["bias_norm"]]


def test_compensation_without_its_evidence_is_refused(base, tmp_path):
    with pytest.raises(InputError, match="compensate: ridge needs --evidence"):
        run_stage(base, masks(UNEVEN), tmp_path, evidence=False, compensate="ridge")


def test_a_mask_of_another_model_is_refused(base, tmp_path):
    keeps = [masks(UNIFORM)[0], masks(UNIFORM)[1][:40]]
    with pytest.raises(InputError, match=r"mask.parquet: not a mask of .*: layer widths \[48, 40\], not \[48, 48\]"):
        run_stage(base, keeps, tmp_path)
    assert not (tmp_path / "model").exists()


# broken checkpoints


def test_a_directory_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"no \*\.safetensors here"):
        Checkpoint(tmp_path)


def test_a_truncated_file_is_named(base):
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors: not a whole safetensors file"):
        Checkpoint(base)


def test_a_checkpoint_that_lacks_a_layers_weight_is_refused(base):

    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(InputError, match="not a whole checkpoint: looked for gate_proj, .* in mlp .* found 5 tensors"):
        Checkpoint(base)


def test_checkpoint_reads_matrices_in_their_orientation(base):
    checkpoint, mlp = Checkpoint(base), dense(base).model.layers[1].mlp
    assert checkpoint.widths == [48, 48]
    for proj, shape in (("gate", (48, 32)), ("up", (48, 32)), ("down", (32, 48))):
        found = checkpoint.matrix(1, proj)
        assert found.shape == shape
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, getattr(mlp, f"{proj}_proj").weight.detach().numpy())
