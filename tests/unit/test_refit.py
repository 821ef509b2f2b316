"""Sequential refits against augmented least squares on a model that is cut and refitted by hand."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import refit as stage
import torch
from test_second_moments import MODELS, SETTINGS, micro_batches

import tiny
from pruning.calibration import prepare
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import refit as fitting
from pruning.methods.compact import compensation, cut, write_compact
from pruning.models.checkpoint import Checkpoint
from pruning.models.loading import load
from pruning.models.structures import ffn

LAYERS, N = 3, 48
KEEPS = [np.random.default_rng(layer).permutation(N) < kept for layer, kept in enumerate((30, 48, 20))]


def model_of():
    return MODELS["llama"]()


def seen(model, batches) -> list[dict[str, np.ndarray]]:
    """Each layer's down_proj inputs, outputs, and the residual stream after it, [tokens, ...] of one ordinary pass."""
    found = [{"a": [], "y": [], "h": []} for _ in model.model.layers]
    hooks = []
    for own, layer in zip(found, model.model.layers, strict=True):

        def at_down(_, args, output, own=own):
            own["a"].append(args[0][0])
            own["y"].append(output[0])

        def at_end(_, __, output, own=own):
            own["h"].append(output[0])

        hooks += [layer.mlp.down_proj.register_forward_hook(at_down), layer.register_forward_hook(at_end)]
    with torch.no_grad():
        for batch in batches:
            for ids, counted in zip(batch.ids, batch.counted, strict=True):
                model(ids[counted][None])
    for hook in hooks:
        hook.remove()
    return [{key: torch.cat(rows).double().numpy() for key, rows in own.items()} for own in found]


def by_hand(model, batches, corrective: bool, relative: float) -> list[np.ndarray]:
    """Layers cut and refitted one after the other, each by one augmented least-squares problem over tokens."""
    dense, weights = seen(model, batches), []
    pruned = copy.deepcopy(model)
    family = ffn.families.of(pruned)
    for index, layer in enumerate(pruned.model.layers):
        ffn.shrink(layer, index, KEEPS, family)
        now = seen(pruned, batches)[index]
        a, present = now["a"], layer.mlp.down_proj.weight.double().numpy()
        wanted = dense[index]["h"] - (now["h"] - now["y"]) if corrective else dense[index]["y"]
        penalty = math.sqrt(relative * np.square(a).sum(0).mean())
        left = np.vstack([a, penalty * np.eye(a.shape[1])])
        found = np.linalg.lstsq(left, np.vstack([wanted, penalty * present.T]), rcond=None)[0].T
        layer.mlp.down_proj.weight.data = torch.from_numpy(found).float()
        weights.append(found)
    return weights


@pytest.mark.parametrize("corrective", [False, True])
def test_each_layer_is_the_least_squares_solution_given_those_before(corrective, monkeypatch):
    monkeypatch.setattr(fitting, "LAMBDAS", (0.01,))
    batches = micro_batches()
    expected = by_hand(model_of(), batches, corrective, 0.01)
    found = [weight for weight, _ in fitting.refit(model_of(), batches, KEEPS, corrective)]
    for weight, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=2e-3, atol=2e-4 * np.abs(wanted).max())
    kept = [model_of().model.layers[i].mlp.down_proj.weight.numpy()[:, keep] for i, keep in enumerate(KEEPS)]
    assert all(np.abs(weight - own).max() > 1e-3 for weight, own in zip(found, kept, strict=True))


def test_corrective_ends_nearer_to_the_dense_model():
    batches = micro_batches(lengths=(16,) * 60)
    dense = seen(model_of(), batches)[-1]["h"]
    errors = {}
    for corrective in (False, True):
        model = model_of()
        list(fitting.refit(model, batches, KEEPS, corrective))
        errors[corrective] = np.square(seen(model, batches)[-1]["h"] - dense).sum()
    assert errors[True] < 0.95 * errors[False]


def test_nothing_removed_changes_nothing():
    model, whole = model_of(), [np.ones(N, dtype=bool)] * LAYERS
    own = [layer.mlp.down_proj.weight.clone().numpy() for layer in model.model.layers]
    for (weight, record), wanted in zip(fitting.refit(model, micro_batches(), whole, True), own, strict=True):
        np.testing.assert_allclose(weight, wanted, atol=1e-6)
        assert record["held_out_error_uncompensated"] < 1e-6


def test_held_out_errors_are_those_of_the_held_out_tokens(monkeypatch):
    """Of the first layer, whose inputs are the dense model's."""
    monkeypatch.setattr(fitting, "LAMBDAS", (math.inf,))
    batches = micro_batches()
    _, record = next(fitting.refit(model_of(), batches, KEEPS, False))
    tokens = seen(model_of(), batches)[0]
    samples = np.repeat(
        np.concatenate([b.samples for b in batches]), np.concatenate([b.counted.sum(1) for b in batches])
    )
    rows = np.isin(samples, (4, 9))
    down = model_of().model.layers[0].mlp.down_proj.weight.double().numpy()
    missing = tokens["a"][rows][:, ~KEEPS[0]] @ down[:, ~KEEPS[0]].T
    expected = np.linalg.norm(missing) / np.linalg.norm(tokens["y"][rows])
    assert record["held_out_error"] == pytest.approx(expected, rel=1e-4) and record["lambda"] == "inf"


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_norm_after_the_ffn_is_refused_for_the_corrective_one_alone(name):
    batches = micro_batches()
    with pytest.raises(InputError, match="use `compensate: ridge_sequential`"):
        list(fitting.refit(MODELS[name](), batches, KEEPS, True))
    assert len(list(fitting.refit(MODELS[name](), batches, KEEPS, False))) == LAYERS


@pytest.mark.parametrize("scheme", ["ridge_sequential", "ridge_corrective"])
def test_the_compact_model_is_the_one_that_was_fitted(scheme, tmp_path):
    tiny.save(model_of(), tmp_path / "model")
    texts = pd.DataFrame({"question": [f"{i} + {3 * i % 7}" for i in range(12)], "answer": [4 * i for i in range(12)]})
    artifacts.write_parquet(tmp_path / "data.parquet", texts, "dataset", {})
    rows = [(layer, unit, bool(k)) for layer, keep in enumerate(KEEPS) for unit, k in enumerate(keep)]
    artifacts.write_parquet(
        tmp_path / "mask.parquet", pd.DataFrame(rows, columns=["layer", "unit", "keep"]), "mask", {}
    )
    files = [tmp_path / name for name in ("model", "data.parquet", "mask.parquet", "fit", "fit.json")]
    stage.refit({**SETTINGS, "corrective": scheme == "ridge_corrective"}, *files)
    base = Checkpoint(tmp_path / "model")
    compensate = compensation(scheme, tmp_path / "fit.json", base, KEEPS)
    (tmp_path / "compact").mkdir()
    write_compact(base, tmp_path / "compact", KEEPS, compensate)
    compact, memory = load(tmp_path / "compact", "float32", "cpu")[0], load(tmp_path / "model", "float32", "cpu")[0]
    cut(memory, base, KEEPS, compensate)
    fitted, tokenizer = load(tmp_path / "model", "float32", "cpu")
    ids = tokenizer("Q: 3 + 4\nA: 7", return_tensors="pt")["input_ids"]
    list(fitting.refit(fitted, prepare.batches(files[1], tokenizer, SETTINGS), KEEPS, scheme == "ridge_corrective"))
    assert torch.equal(compact(ids).logits, memory(ids).logits)
    assert torch.allclose(compact(ids).logits, fitted(ids).logits, atol=1e-5)
    assert compensate(0).record["lambda"] is not None and "fewer than 10 a column" in compensate(0).record["warning"]
    with pytest.raises(InputError, match="refit of another mask: 30 neurons, not 31"):
        compensation(scheme, tmp_path / "fit.json", base, [np.arange(N) < 31, *KEEPS[1:]])(0)
