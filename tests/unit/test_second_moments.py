"""Second moments a layer at a time, against hooks on every down_proj of an ordinary forward."""

from functools import partial

import measure
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3nTextConfig, Gemma3TextConfig

import tiny
from pruning.calibration import prepare
from pruning.calibration.second_moments import held_out, second_moments, token_counts
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.core.layer_files import read
from pruning.models.loading import load

WINDOWS = {"sliding_window": 4, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}


def gemma(model, config):
    """Scaled embeddings, and layers of which one sees 4 tokens only."""
    return tiny._spread(model, config, 3, 0, head_dim=8, pad_token_id=0, eos_token_id=0, bos_token_id=0, **WINDOWS)


MODELS = {
    "qwen2": tiny.qwen2,
    "qwen2_windows": lambda: tiny.qwen2(layers=3, use_sliding_window=True, **WINDOWS),
    "llama": partial(tiny.llama, layers=3, attn_implementation="eager"),
    "gemma2": lambda: gemma(Gemma2ForCausalLM, Gemma2Config),
    "gemma3": lambda: gemma(Gemma3ForCausalLM, Gemma3TextConfig),
}


def micro_batches(lengths=(12, 9, 16, 7, 10, 16, 5, 11, 16, 13, 8), size=3) -> list[prepare.Batch]:
    """Samples of uneven lengths, thus padding; those of numbers 4 and 9 are held out."""
    rng = np.random.default_rng(0)
    samples = [(rng.integers(1, 257, n).tolist(), [True] * n) for n in lengths]
    return prepare.micro_batches(samples, size, pad=0, token_mask="all")


def unpadded(batches):
    """Each sample's number, and its tokens alone [1, T]."""
    for batch in batches:
        for sample, ids, counted in zip(batch.samples.tolist(), batch.ids, batch.counted, strict=True):
            yield sample, ids[counted][None]


SITES = {"ffn": "mlp.down_proj", "kv_groups": "self_attn.o_proj"}


def by_hooks(model, batches, structure="ffn") -> list[dict[str, np.ndarray]]:
    """Σ a aᵀ in float64, of one ordinary forward pass a sample, unpadded."""
    sums = [{"fit": 0, "held_out": 0} for _ in model.model.layers]
    with tiny.watched(layer.get_submodule(SITES[structure]) for layer in model.model.layers) as calls:
        for sample, ids in unpadded(batches):
            model(ids)
            for own, seen in zip(sums, calls, strict=True):
                a = seen.pop()[0][0].double().numpy()
                own["held_out" if sample in (4, 9) else "fit"] += a.T @ a
    return sums


def assert_moments(found, expected):
    assert len(found) == len(expected)
    for layer, sums in enumerate(expected):
        for part, total in sums.items():
            assert found[layer][part].dtype == torch.float32
            scale = np.abs(total).max()
            np.testing.assert_allclose(found[layer][part], total, rtol=1e-4, atol=2e-6 * scale)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("structure", SITES)
def test_equal_to_hooks_on_an_ordinary_forward(name, size, structure):
    model, batches = MODELS[name](), micro_batches(size=size)
    assert_moments(list(second_moments(model, batches, structure)), by_hooks(model, batches, structure))


def test_the_windows_matter():
    """So that the test above can fail for masks of the wrong layer."""
    windows, full = tiny.qwen2(layers=3, use_sliding_window=True, **WINDOWS), tiny.qwen2(layers=3)
    batches = micro_batches()
    found = [list(second_moments(model, batches)) for model in (windows, full)]
    assert torch.equal(found[0][0]["fit"], found[1][0]["fit"])
    assert not torch.allclose(found[0][1]["fit"], found[1][1]["fit"], rtol=0.01)


def test_the_model_is_left_as_it_was():
    model, batches = tiny.qwen2(), micro_batches()
    before = model(batches[0].ids).logits
    model.model.layers[1].forward = model.model.layers[1].forward  # as accelerate does
    own = model.model.layers[1].forward
    list(second_moments(model, batches))
    assert torch.equal(model(batches[0].ids).logits, before)
    assert "forward" not in vars(model.model.layers[0])
    assert vars(model.model.layers[1])["forward"] is own
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_half_precision_is_summed_in_single(tmp_path):
    model = load(tiny.save(tiny.llama(), tmp_path), "bfloat16", "cpu")[0]
    batches = micro_batches(size=1)
    assert_moments(list(second_moments(model, batches)), by_hooks(model, batches))


def test_every_fifth_sample_is_held_out():
    assert held_out(torch.arange(11)).nonzero().flatten().tolist() == [4, 9]
    assert token_counts(micro_batches()) == {"tokens_fit": 123 - 10 - 13, "tokens_held_out": 10 + 13}


def test_a_broken_weight_is_named():
    model = tiny.qwen2()
    model.model.layers[1].mlp.up_proj.weight[3, 3] = torch.nan
    moments = second_moments(model, micro_batches())
    next(moments)
    with pytest.raises(InputError, match="NaN or Inf in activations of layer 1"):
        next(moments)


def test_layers_that_share_keys_and_values_are_refused():
    model = tiny.qwen2()
    model.config = Gemma3nTextConfig()
    with pytest.raises(InputError, match="share keys and values"):
        next(second_moments(model, micro_batches()))


# the stage

SETTINGS = tiny.CALIBRATION


def run_stage(tmp_path, **changes):
    outputs = [tmp_path / "out.json", tmp_path / "out"]
    measure.measure("second_moments", outputs, {**SETTINGS, **changes}, *tiny.to_calibrate(tmp_path))
    return outputs


def test_the_stage_writes_a_file_a_layer_and_a_manifest(tmp_path):
    """The manifest lies beside the files, so that the workflow can keep it when it deletes the layers."""
    path, output = run_stage(tmp_path)
    model, tokenizer = load(tmp_path / "model", "float32", "cpu")
    batches = prepare.batches(tmp_path / "data.parquet", tokenizer, SETTINGS | {"micro_batch": 1})
    assert {file.name for file in output.iterdir()} == {"0.safetensors", "1.safetensors"}
    assert_moments([load_file(output / f"{layer}.safetensors") for layer in (0, 1)], by_hooks(model, batches))
    manifest = artifacts.read_json(path, "second_moments")
    lengths = [ids.shape[1] for _, ids in unpadded(batches)]
    assert manifest["tokens_held_out"] == lengths[4] + lengths[9]
    assert manifest["tokens_fit"] == sum(lengths) - lengths[4] - lengths[9]
    assert (manifest["layers"], manifest["widths"]) == (2, [48, 48])
    moments = read(path, "second_moments", [48, 48])[0](1)
    assert moments["tokens_fit"] == manifest["tokens_fit"]
    np.testing.assert_array_equal(moments["fit"], load_file(output / "1.safetensors")["fit"])


def test_the_stage_measures_attention_where_it_is_told_to(tmp_path):
    path, output = run_stage(tmp_path, structure="kv_groups")
    manifest = artifacts.read_json(path, "attention_second_moments")
    assert manifest["widths"] == [32, 32] and load_file(output / "1.safetensors")["fit"].shape == (32, 32)
    with pytest.raises(InputError, match="not a second_moments artefact"):
        read(path, "second_moments", [32, 32])


def test_too_few_samples_leave_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="raise `samples` to 5 or more"):
        run_stage(tmp_path, samples=4)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.json").exists()


def test_moments_of_another_model_or_half_a_directory_are_refused(tmp_path):
    path, output = run_stage(tmp_path)
    with pytest.raises(InputError, match=r"another model: layer widths \[48, 48\], not \[48, 40\]"):
        read(path, "second_moments", [48, 40])
    (output / "1.safetensors").unlink()
    with pytest.raises(InputError, match=r"1\.safetensors: no such file"):
        read(path, "second_moments", [48, 48])
