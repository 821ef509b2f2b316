"""Sequential refits against augmented least squares on a model that is cut and refitted by hand."""

import copy
import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pytest
import torch
from test_second_moments import MODELS, SETTINGS, micro_batches, unpadded

import tiny
from pruning.calibration import layerwise, prepare
from pruning.core import chain
from pruning.core.errors import InputError
from pruning.methods import least_squares, training
from pruning.methods import refit as fitting
from pruning.methods.compact import Pruning
from pruning.models import families
from pruning.models.loading import load
from pruning.models.structures import ffn

LAYERS, N = 3, 48
KEEPS = tiny.keeps(30, 48, 20)
SCHEMES = ("sequential", "corrective", "attention")


PLAN = {"epochs": 8, "rates": [2e-3]}  # others are tried in test_training.py


def plan(scheme: str) -> dict[str, Any]:
    """What of a refit's arguments is for schemes that train."""
    return {"plan": PLAN} if scheme == "block" else {}


def model_of():
    return MODELS["llama"]()


def seen(model, batches) -> list[dict[str, np.ndarray]]:
    """Of each layer the inputs of down_proj and o_proj (`a`, `heads`), their outputs (`y`, `o`), and the residual
    stream after it (`h`), [tokens, ...] of one ordinary pass."""
    modules = [part for own in model.model.layers for part in (own.mlp.down_proj, own.self_attn.o_proj, own)]
    with tiny.watched(modules) as calls, torch.no_grad():
        for _, ids in unpadded(batches):
            model(ids)

    def rows(samples) -> np.ndarray:
        return torch.cat([own[0] for own in samples]).double().numpy()

    pairs = [(rows(inputs), rows(outputs)) for inputs, outputs in (zip(*own, strict=True) for own in calls)]
    layers = zip(pairs[::3], pairs[1::3], pairs[2::3], strict=True)
    return [{"a": a, "y": y, "heads": heads, "o": o, "h": h} for (a, y), (heads, o), (_, h) in layers]


def by_hand(model, batches, scheme: str, relative: float) -> list[dict[str, np.ndarray]]:
    """Layers cut and refitted one after the other, each weight by one augmented least-squares problem over tokens."""
    dense, weights = seen(model, batches), []
    pruned = copy.deepcopy(model)
    family = families.of(pruned)
    for index, layer in enumerate(pruned.model.layers):
        ffn.shrink(layer, index, KEEPS["ffn"], family)
        fitted = {}
        if scheme == "attention":
            now = seen(pruned, batches)[index]
            between = dense[index]["h"] - dense[index]["y"]
            wanted = between - (now["h"] - now["y"] - now["o"])
            fitted["attention"] = solved(layer.self_attn.o_proj, now["heads"], wanted, relative)
        now = seen(pruned, batches)[index]
        wanted = dense[index]["y"] if scheme == "sequential" else dense[index]["h"] - (now["h"] - now["y"])
        fitted["down"] = solved(layer.mlp.down_proj, now["a"], wanted, relative)
        weights.append(fitted)
    return weights


def solved(module, x, wanted, relative: float) -> np.ndarray:
    """The module's new weight, put in place."""
    present = module.weight.double().numpy()
    penalty = math.sqrt(relative * np.square(x).sum(0).mean())
    left = np.vstack([x, penalty * np.eye(x.shape[1])])
    found = np.linalg.lstsq(left, np.vstack([wanted, penalty * present.T]), rcond=None)[0].T
    module.weight.data = torch.from_numpy(found).float()
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_weight_is_the_least_squares_solution_given_those_before(scheme, monkeypatch):
    monkeypatch.setattr(least_squares, "LAMBDAS", (0.01,))
    batches = micro_batches()
    expected = by_hand(model_of(), batches, scheme, 0.01)
    own = [layer.mlp.down_proj.weight.numpy() for layer in model_of().model.layers]
    for index, (weights, _) in enumerate(fitting.refit(model_of(), batches, KEEPS, scheme)):
        assert weights.keys() == expected[index].keys()
        for name, wanted in expected[index].items():
            np.testing.assert_allclose(weights[name], wanted, rtol=2e-3, atol=3e-4 * np.abs(wanted).max())
        assert np.abs(weights["down"].numpy() - own[index][:, KEEPS["ffn"][index]]).max() > 1e-3


def test_tokens_beside_the_objectives_count_a_quarter(monkeypatch):
    """As if each token of the objectives were there four times."""
    monkeypatch.setattr(least_squares, "LAMBDAS", (0.0,))
    batches = micro_batches(lengths=(16,) * 20)
    halves = [dataclasses.replace(b, objective=b.counted & (torch.arange(16) % 2 == 0)) for b in batches]
    [found] = [w["down"] for w, _ in itertools.islice(fitting.refit(model_of(), halves, KEEPS, "sequential"), 1)]
    tokens = seen(model_of(), batches)[0]
    rows = np.concatenate([np.arange(len(tokens["a"]))] + 3 * [np.arange(0, len(tokens["a"]), 2)])
    expected = np.linalg.lstsq(tokens["a"][rows][:, KEEPS["ffn"][0]], tokens["y"][rows], rcond=None)[0].T
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=2e-3 * np.abs(expected).max())


def test_a_loud_token_counts_as_ten_times_the_median():
    ids = torch.ones(1, 7, dtype=torch.long)
    counted = torch.tensor([[True, True, True, True, True, False, False]])
    objective = torch.tensor([[False, True, True, True, True, False, False]])
    batch = prepare.Batch(torch.tensor([0]), ids, counted, objective)
    sizes = torch.tensor([1000.0, 2.0, 1.0, 4.0, 3.0, 9e9, 9e9])  # the median of those that count: 3; two are padding
    hidden = sizes.sqrt()[None, :, None] * torch.tensor([1.0, -1.0])
    [found] = fitting.weights_of([hidden], [batch])
    np.testing.assert_allclose(found[0, :5], [0.25 * 30 / 1000, 1, 1, 1, 1], rtol=1e-6)


def test_each_scheme_ends_nearer_to_the_dense_model_than_the_one_before():
    batches = micro_batches(lengths=(16,) * 60)
    dense = seen(model_of(), batches)[-1]["h"]
    errors = []
    for scheme in (*SCHEMES, "block"):
        model = model_of()
        list(fitting.refit(model, batches, KEEPS, scheme, **plan(scheme)))
        errors.append(np.square(seen(model, batches)[-1]["h"] - dense).sum())
    assert errors[2] < 0.98 * errors[1] < 0.95 * errors[0] and errors[3] < 0.9 * errors[2]


def test_nothing_removed_changes_nothing():
    model, whole = model_of(), tiny.keeps(N, N, N)
    own = [layer.mlp.down_proj.weight.clone().numpy() for layer in model.model.layers]
    for (weights, record), wanted in zip(fitting.refit(model, micro_batches(), whole, "attention"), own, strict=True):
        np.testing.assert_allclose(weights["down"], wanted, atol=1e-6)
        assert all(own["held_out_error_uncompensated"] < 1e-6 for own in record.values())


def test_held_out_errors_are_those_of_the_held_out_tokens(monkeypatch):
    """Of the first layer, whose inputs are the dense model's."""
    monkeypatch.setattr(least_squares, "LAMBDAS", (math.inf,))
    batches = micro_batches()
    _, record = next(fitting.refit(model_of(), batches, KEEPS, "sequential"))
    record, tokens = record["down"], seen(model_of(), batches)[0]
    rows = np.concatenate([np.full(ids.shape[1], sample in (4, 9)) for sample, ids in unpadded(batches)])
    down = model_of().model.layers[0].mlp.down_proj.weight.double().numpy()
    missing = tokens["a"][rows][:, ~KEEPS["ffn"][0]] @ down[:, ~KEEPS["ffn"][0]].T
    expected = np.linalg.norm(missing) / np.linalg.norm(tokens["y"][rows])
    assert record["held_out_error"] == pytest.approx(expected, rel=1e-4) and record["lambda"] == "inf"


@pytest.mark.parametrize("family", ["llama", "cohere"])  # whose FFN reads the stream before attention
@pytest.mark.parametrize(("dtype", "apart"), [("float32", 1e-4), ("bfloat16", 0.03)])
def test_a_cpu_hands_on_what_the_refitted_layer_puts_out_without_running_it(monkeypatch, family, dtype, apart):
    handed = []

    def seeing(model, layer, batch, hidden, looks=None):
        handed.append((layer, hidden))
        return run(model, layer, batch, hidden, looks)

    run = layerwise.run
    monkeypatch.setattr(layerwise, "run", seeing)
    model = tiny.of_family(family, layers=LAYERS, hidden_size=32, intermediate_size=N).to(getattr(torch, dtype))
    [batch] = micro_batches(lengths=(16,) * 10, size=10)
    list(fitting.refit(model, [batch], KEEPS, "attention"))
    layers = families.decoder_layers(model)
    assert [layer for layer, _ in handed] == [layer for layer in layers for _ in range(3)]  # dense, and before two fits
    before = handed[4][1]  # of the second layer: what the first one put out
    wanted = run(model, layers[0], batch, None)
    assert before.dtype == wanted.dtype and (before - wanted).abs().max() < apart * wanted.abs().max()
    assert (before - handed[3][1]).abs().max() > 2 * apart * wanted.abs().max()  # the dense layer's


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_norm_after_the_ffn_is_refused_for_the_corrective_one_alone(name):
    batches = micro_batches()
    with pytest.raises(
        InputError,
        match="compensate: ridge_corrective: model type .* normalises or scales .* use `compensate: ridge_sequential`",
    ):
        list(fitting.refit(MODELS[name](), batches, KEEPS, "corrective"))
    assert len(list(fitting.refit(MODELS[name](), batches, KEEPS, "sequential"))) == LAYERS


@pytest.fixture
def laid(tmp_path) -> Path:
    """A folder with a model, text to calibrate it on, and a mask."""
    tiny.to_calibrate(tmp_path)
    tiny.save(model_of(), tmp_path / "model")
    tiny.write_mask(tmp_path / "mask.parquet", KEEPS)
    return tmp_path


def stage(laid: Path, name: str, **settings) -> None:
    outputs, mask = [laid / f"{name}.json", laid / name], f"mask={laid / 'mask.parquet'}"
    measure.measure("methods/refit", outputs, SETTINGS | settings, laid / "model", laid / "data.parquet", [mask])


@pytest.mark.parametrize("scheme", (*SCHEMES, "block"))
def test_the_compact_model_is_the_one_that_was_fitted(scheme, laid):
    stage(laid, "fit", scheme=scheme, training=plan(scheme).get("plan"))
    pruning = Pruning.read(laid / "model", laid / "mask.parquet", f"ridge_{scheme}", laid / "fit.json")
    (laid / "compact").mkdir()
    pruning.write(laid / "compact")
    compact, memory = load(laid / "compact", "float32", "cpu")[0], load(laid / "model", "float32", "cpu")[0]
    pruning.apply(memory)
    fitted, tokenizer = load(laid / "model", "float32", "cpu")
    ids = tokenizer("Q: 3 + 4\nA: 7", return_tensors="pt")["input_ids"]
    batches = prepare.batches(laid / "data.parquet", tokenizer, SETTINGS)
    list(fitting.refit(fitted, batches, KEEPS, scheme, **plan(scheme)))
    assert torch.equal(compact(ids).logits, memory(ids).logits)
    assert torch.allclose(compact(ids).logits, fitted(ids).logits, atol=1e-5)
    record = pruning.compensate(0).record
    trains = r"ridge_block: \d+ calibration tokens to train \d{4,} weights"
    assert re.search(trains if scheme == "block" else "fewer than 10 a column", record["warning"])
    assert record["lambda"] is not None


@pytest.mark.parametrize("change", ["", "bit", "record", "code"])
@pytest.mark.parametrize(
    "scheme, module, function, calls_a_layer",
    [("block", training, "trained", 1), ("attention", least_squares, "fitted", 2)],
)
def test_a_run_that_was_killed_fits_the_layers_that_are_left(
    laid, monkeypatch, scheme, module, function, calls_a_layer, change
):
    """To the same files, to the bit. A kept layer that is not as it was written is fitted again, and all of them
    where the code is not the one that they were fitted by."""
    calls = tiny.killed_in(monkeypatch, module, function, after=2 * calls_a_layer)

    def run(name: str) -> dict[str, bytes]:
        stage(laid, name, scheme=scheme, training=plan(scheme).get("plan"))
        assert not any(file.is_dir() for file in laid.glob(f".{name}.*"))
        return {file.name: file.read_bytes() for file in sorted((laid / name).iterdir())}

    with pytest.raises(KeyboardInterrupt):
        run("fit")
    assert not (laid / "fit.json").exists()
    [kept] = laid.glob(".fit.*")  # no checked stamp yet
    assert sorted(file.name for file in kept.iterdir()) == ["0.safetensors", "1.safetensors"]
    if change == "bit":
        content = bytearray((kept / "1.safetensors").read_bytes())
        content[-1] ^= 1
        (kept / "1.safetensors").write_bytes(content)
    elif change == "record":
        content = (kept / "1.safetensors").read_bytes()
        (kept / "1.safetensors").write_bytes(content.replace(b"held_out", b"held_oud", 1))
    elif change == "code":
        monkeypatch.setattr(chain, "lineage", "0123456789")
        monkeypatch.setattr(chain, "parents", {None})  # the mask's
    resumed, made = run("fit"), 2 * calls_a_layer + 1
    again = calls_a_layer * {"": 1, "bit": 2, "record": 2, "code": 3}[change]
    assert len(calls) - made == again
    assert resumed == run("whole")
    assert len(calls) - made == again + 3 * calls_a_layer


def test_layers_take_the_rate_of_the_one_before_or_the_least_where_that_did_not_gain(monkeypatch):
    tried, best = [], iter((1e-3, 0.0, 5e-4))

    def trained(model, layer, fit, held, epochs, rates, seed):
        tried.append((epochs, *rates))
        matrices = {name: own.clone() for name, own in layer.named_parameters() if own.dim() == 2}
        return matrices, {"rate": next(best)}

    monkeypatch.setattr(training, "trained", trained)
    given = {"epochs": 3, "rates": [2e-3, 1e-3, 5e-4]}
    list(fitting.refit(model_of(), micro_batches(), KEEPS, "block", plan=given))
    assert tried == [(3, 2e-3, 1e-3, 5e-4), (3, 1e-3), (3, 5e-4)]
