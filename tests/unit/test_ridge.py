"""Ridge compensation against augmented least squares, and compact models that carry it."""

import math

import compact as compact_stage
import measure
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tiny
from pruning.core import artifacts
from pruning.methods import least_squares
from pruning.methods.compensation import ridge
from pruning.models.loading import load

D, N = 5, 12
KEEP = np.random.default_rng(4).permutation(N) < 8


def activations(tokens: int, seed: int = 0, mix: float = 1.0, n: int = N) -> np.ndarray:
    """[tokens, n]: correlated neurons of uneven sizes; with mix 0 independent ones."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(n) + mix * np.random.default_rng(99).normal(size=(n, n))
    return rng.normal(size=(tokens, n)) @ mixing + 0.3


def weights(n: int = N) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(D, n)).astype(np.float32)


def evidence(fit: np.ndarray, held_out: np.ndarray) -> dict:
    counts = {"tokens_fit": len(fit), "tokens_held_out": len(held_out)}
    return {"fit": np.float32(fit.T @ fit), "held_out": np.float32(held_out.T @ held_out), **counts}


def by_tokens(down, keep, a, penalty: float) -> np.ndarray:
    """argmin_W' Σ_t ‖W a - W' a_k‖² + λ ‖W' - W_k‖², as one least-squares system with a row a token and column."""
    kept = a[:, keep]
    left = np.vstack([kept, math.sqrt(penalty) * np.eye(keep.sum())])
    right = np.vstack([a @ down.T, math.sqrt(penalty) * down[:, keep].T])
    return np.linalg.lstsq(left, right, rcond=None)[0].T


def changed(down, keep, moments, relative: float) -> np.ndarray:
    own = ridge.sums(down, keep, moments)
    return least_squares.changed(own.inner, own.outer, relative)


def summed(down, keep, a) -> least_squares.Sums:
    return ridge.sums(down, keep, a.T @ a)


def relative_error(down, keep, weight, a) -> float:
    """By the tokens themselves."""
    return np.linalg.norm(a @ down.T - a[:, keep] @ weight.T) / np.linalg.norm(a @ down.T)


@pytest.mark.parametrize("relative", [1e-4, 1e-2, 1.0, 100.0])
def test_the_refit_is_the_penalised_least_squares_solution(relative):
    down, a = weights().astype(np.float64), activations(60)
    s = a.T @ a
    change = changed(down, KEEP, s, relative)
    penalty = relative * s.diagonal()[KEEP].mean()
    np.testing.assert_allclose(down[:, KEEP] + change, by_tokens(down, KEEP, a, penalty), rtol=1e-8, atol=1e-9)
    assert np.abs(change).max() > 1e-3


def test_an_infinite_penalty_changes_nothing_and_a_huge_one_nearly_nothing():
    down, s = weights(), activations(60).T @ activations(60)
    assert not changed(down, KEEP, s, math.inf).any()
    assert 0 < np.abs(changed(down, KEEP, s, 1e8)).max() < 1e-6


def test_nothing_removed_leaves_the_weights_alone():
    down, keep = weights(), np.ones(N, dtype=bool)
    made = ridge.compensate(down, keep, evidence(activations(200), activations(50, seed=1)))
    np.testing.assert_array_equal(made.weight, down)
    assert (made.weight.dtype, made.bias) == (np.float32, None)
    assert made.record == {"lambda": "inf", "held_out_error": 0, "held_out_error_uncompensated": 0}


def test_a_removed_twin_is_recovered_exactly_as_the_penalty_goes_to_zero():
    a, down = activations(200), weights()
    kept, removed = np.flatnonzero(KEEP)[0], np.flatnonzero(~KEEP)
    keep = KEEP.copy()
    keep[removed[1:]] = True  # one neuron only is removed
    a[:, removed[0]] = a[:, kept]
    change = changed(down, keep, a.T @ a, 1e-11)
    expected = np.zeros_like(down, dtype=np.float64)
    expected[:, kept] = down[:, removed[0]]
    np.testing.assert_allclose(change, expected[:, keep], atol=1e-6)


@pytest.mark.parametrize(("scale", "n"), [(1.0, N), (1e-6, N), (1.0, N - 1)])
def test_nested_refits_are_each_the_penalised_least_squares_solution(scale, n):
    """One λ for all of them: that of half of the columns, rounded up."""
    down, fit, held_out = weights(n), scale * activations(60)[:, :n], scale * activations(30, seed=1)[:, :n]
    order, both = np.random.default_rng(6).permutation(n), np.vstack([fit, held_out])
    of_tokens = evidence(fit, held_out)
    half = np.isin(np.arange(n), order[: (n + 1) // 2])
    relative = ridge.strength(down, order, of_tokens)
    assert relative == ridge.compensate(down, half, of_tokens).record["lambda"] < math.inf
    refitted = ridge.nested(down, order, of_tokens, relative)
    for kept in (n, 9, 6, 1):
        keep = np.isin(np.arange(n), order[:kept])
        expected = by_tokens(down, keep, both, relative * (both**2).sum(0)[half].mean())
        in_order = expected[:, np.argsort(np.argsort(order[:kept]))]
        assert refitted(kept).dtype == np.float32
        np.testing.assert_allclose(refitted(kept), in_order, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(refitted(n), down[:, order], atol=1e-5)


def test_nested_refits_that_do_not_help_leave_the_weights_as_they_are():
    down, order = weights(), np.arange(N)[::-1]
    noise = [np.random.default_rng(seed).normal(size=(8, N)) for seed in (0, 1)]
    relative = ridge.strength(down, order, evidence(*noise))
    assert relative == math.inf
    np.testing.assert_array_equal(ridge.nested(down, order, evidence(*noise), relative)(3), down[:, order[:3]])


def test_errors_are_those_of_the_tokens():
    down, fit, held_out = weights(), activations(40), activations(30, seed=1)
    lambdas = [math.inf, 1.0, 1e-3]
    every_change = [changed(down, KEEP, fit.T @ fit, relative) for relative in lambdas]
    found = [summed(down, KEEP, held_out).error(change) for change in every_change]
    expected = [relative_error(down, KEEP, down[:, KEEP] + change, held_out) for change in every_change]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    one = np.ones((1, 1))
    assert least_squares.Sums(one, one, missing=1 - 1e-15, whole=1).error(one) == 0  # below 0 by rounding


def test_lambda_has_the_least_held_out_error_and_the_last_fit_sees_all_tokens():
    down, fit, held_out = weights(), activations(25), activations(30, seed=1)
    made = ridge.compensate(down, KEEP, evidence(fit, held_out))
    scale = (fit**2).sum(0)[KEEP].mean()
    candidates = {"inf": down[:, KEEP]} | {
        relative: by_tokens(down, KEEP, fit, relative * scale) for relative in least_squares.LAMBDAS[1:]
    }
    errors = {relative: relative_error(down, KEEP, weight, held_out) for relative, weight in candidates.items()}
    chosen = min(errors, key=errors.get)
    assert made.record["lambda"] == chosen not in ("inf", least_squares.LAMBDAS[-1])
    assert made.record["held_out_error"] == pytest.approx(errors[chosen], rel=1e-5)
    assert made.record["held_out_error_uncompensated"] == pytest.approx(errors["inf"], rel=1e-5)
    both = np.vstack([fit, held_out])
    expected = by_tokens(down, KEEP, both, chosen * (both**2).sum(0)[KEEP].mean())
    np.testing.assert_allclose(made.weight, expected, rtol=1e-4, atol=1e-5)


QUESTIONS = {  # errors, and those that are asked for
    (4, 3, 2, 1, 2, 3, 4, 5): {2, 3, 4},
    (8, 7, 6, 5, 4, 1, 2, 3): {3, 4, 5, 6},
    (3, 2, 3, 4, 5, 6, 7, 8): {0, 1, 2, 3, 4},
    (0, 1, 2, 3, 4, 5, 6, 7): {0, 1, 2, 3, 4},
    (8, 7, 6, 5, 4, 3, 2, 1): {3, 4, 5, 6, 7},
    (0,) * 8: {0, 1, 2, 3, 4},
}


@pytest.mark.parametrize("values", QUESTIONS)
def test_the_lowest_of_a_valley_is_found_by_few_questions(values):
    asked = []

    def error(candidate):
        asked.append(candidate)
        return values[candidate]

    assert least_squares.lowest(range(8), error) == values.index(min(values))
    assert {*asked} == QUESTIONS[values]


@pytest.mark.parametrize("tokens", [30, 100, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_walking_downhill_finds_what_asking_all_finds(tokens, seed):
    n, keep = 40, np.arange(40) < 25
    own = [summed(weights(n), keep, a) for a in (activations(tokens, seed + i, 0.3, n) for i in (0, 50))]
    errors = [own[1].error(least_squares.changed(own[0].inner, own[0].outer, r)) for r in least_squares.LAMBDAS]
    assert least_squares.fitted(*own)[1]["held_out_error"] == min(errors)


def test_no_fit_is_worse_on_held_out_samples_than_none():
    """Where errors have two valleys, that of the walk may lie above no change."""
    values = {0: 1.0, 1: 1.2, 2: 1.3, 3: 1.2, 4: 1.1, 5: 1.2, 6: 1.3, 7: 1.4}
    assert least_squares.lowest(range(8), values.get) == 4
    for seed in range(400):
        rng = np.random.default_rng(seed)
        tokens, keep = rng.integers(3, 9, 2), np.arange(8) < 5
        own = [summed(rng.normal(size=(4, 8)), keep, rng.normal(size=(count, 8))) for count in tokens]
        record = least_squares.fitted(*own)[1]
        assert record["held_out_error"] <= record["held_out_error_uncompensated"]


@pytest.mark.parametrize("seed", range(5))
def test_few_tokens_of_noise_are_left_alone_and_many_of_structure_are_fitted(seed):
    n, keep = 60, np.arange(60) < 40
    noise = [np.random.default_rng(seed + i).normal(size=(tokens, n)) for i, tokens in ((10, 20), (20, 400))]
    cautious = ridge.compensate(weights(n), keep, evidence(*noise)).record
    assert cautious["lambda"] in ("inf", 100.0, 10.0)
    bold_data = activations(4000, seed, n=n), activations(1000, seed + 50, n=n)
    bold = ridge.compensate(weights(n), keep, evidence(*bold_data)).record
    assert bold["lambda"] <= 1e-2
    assert bold["held_out_error"] < 0.9 * bold["held_out_error_uncompensated"]


@pytest.mark.parametrize(("tokens", "warned"), [(79, True), (80, False)])
def test_fewer_than_ten_tokens_a_column_are_warned_of(tokens, warned):
    record = ridge.compensate(weights(), KEEP, evidence(activations(tokens), activations(20, seed=1))).record
    assert ("warning" in record) is warned
    if warned:
        assert record["warning"].startswith("compensate: ridge: 79 calibration tokens to fit 8 columns")


def test_silent_neurons_are_no_obstacle():
    fit, held_out = activations(100), activations(40, seed=1)
    fit[:, np.flatnonzero(KEEP)[0]] = held_out[:, np.flatnonzero(KEEP)[0]] = 0
    made = ridge.compensate(weights(), KEEP, evidence(fit, held_out))
    assert np.isfinite(made.weight).all()
    np.testing.assert_array_equal(made.weight[:, 0], weights()[:, np.flatnonzero(KEEP)[0]])


# from the model to the compact model

SETTINGS = {**tiny.CALIBRATION, "samples": 60, "sequence_length": 40, "seed": 1, "micro_batch": 8, "token_mask": "all"}
SETTINGS |= {"prompt": "{question} = ", "completion": "{answer}."}


def records() -> list[dict]:
    rng = np.random.default_rng(5)
    pairs = rng.integers(1, 1000, (60, 2)).tolist()
    return [{"question": f"What is {a} plus {b}", "answer": str(a + b)} for a, b in pairs]


def moments_of(base, tmp_path, **changes):
    artifacts.write_parquet(tmp_path / "data.parquet", pd.DataFrame(records()), "dataset", {})
    output = tmp_path / "second_moments.json"
    outputs = [output, tmp_path / "second_moments"]
    measure.measure("second_moments", outputs, {**SETTINGS, **changes}, base, tmp_path / "data.parquet")
    return output


def compact(base, tmp_path, keeps, name, moments=None, **settings):
    tiny.write_mask(tmp_path / "mask.parquet", {"ffn": keeps})
    settings = {"compensate": "ridge" if moments else "none", "export": "exact", **settings}
    paths = base, tiny.record(base), tmp_path / "mask.parquet", tmp_path / name, tmp_path / f"{name}.json"
    compact_stage.compact(settings, *paths, evidence=moments)
    return load(tmp_path / name, "float32", "cpu")[0], artifacts.read_json(tmp_path / f"{name}.json", "compact")


@torch.inference_mode()
def outputs(model) -> torch.Tensor:
    """Hidden states after the last layer on the calibration text [tokens, d]."""
    tokenizer = tiny.tokenizer()
    texts = ["{question} = {answer}.".format_map(record) for record in records()]
    return torch.cat([model.model(torch.tensor([tokenizer(t)["input_ids"][:40]]))[0][0] for t in texts])


def masks(keep: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).permutation(48) < keep for seed in (0, 1)]


@pytest.fixture(params=["qwen2", "llama"])
def base(request, tmp_path):
    return tiny.save(getattr(tiny, request.param)(), tmp_path / "base")


@pytest.mark.parametrize("export", ["exact", "pad"])
def test_the_compensated_model_is_closer_to_the_dense_one(base, tmp_path, export, capsys):
    dense = outputs(load(base, "float32", "cpu")[0])
    keeps = [masks(30)[0], masks(36)[1]]
    plain, _ = compact(base, tmp_path, keeps, "plain", export=export)
    made, manifest = compact(base, tmp_path, keeps, "ridge", moments_of(base, tmp_path), export=export)
    assert (outputs(made) - dense).norm() < 0.9 * (outputs(plain) - dense).norm()
    assert [record["lambda"] < 1 for record in manifest["compensation"]] == [True, True]
    for record in manifest["compensation"]:
        assert record["held_out_error"] < record["held_out_error_uncompensated"]
        assert "warning" not in record
    assert "warning" not in capsys.readouterr().out
    if export == "pad":
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / "ridge")
        assert torch.equal(outputs(stock), outputs(made))
    others = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", "ridge")]
    assert others[0].keys() == others[1].keys()
    for name in others[0]:
        assert torch.equal(others[0][name], others[1][name]) is ("down_proj" not in name)


def test_what_nothing_is_removed_of_and_own_biases_stay_and_the_dtype_too(tmp_path):
    base = tiny.save(tiny.llama(mlp_bias=True).to(torch.bfloat16), tmp_path / "base")
    keeps = [masks(30)[0], np.ones(48, dtype=bool)]
    _, manifest = compact(base, tmp_path, keeps, "ridge", moments_of(base, tmp_path))
    before, after = (load_file(d / "model.safetensors") for d in (base, tmp_path / "ridge"))
    assert before.keys() == after.keys()
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    stay = [name for name in before if name.endswith("down_proj.bias") or "layers.1." in name]
    assert all(torch.equal(before[name], after[name]) for name in stay)
    assert [record["lambda"] == "inf" for record in manifest["compensation"]] == [False, True]


def test_removed_twins_cost_nothing(tmp_path, monkeypatch):
    """Neurons 40 to 47 do what 0 to 7 do, with other output weights."""
    monkeypatch.setattr(least_squares, "LAMBDAS", (math.inf, 1.0, 1e-9))
    model = tiny.llama()
    for layer in model.model.layers:
        for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
            projection.weight[40:] = projection.weight[:8]
    base = tiny.save(model, tmp_path / "base")
    keeps = [np.arange(48) < 40] * 2
    made, manifest = compact(base, tmp_path, keeps, "ridge", moments_of(base, tmp_path))
    plain, _ = compact(base, tmp_path, keeps, "plain")
    assert [record["lambda"] for record in manifest["compensation"]] == [1e-9, 1e-9]
    assert (outputs(plain) - outputs(model)).abs().max() > 0.1
    torch.testing.assert_close(outputs(made), outputs(model), rtol=0, atol=2e-3)


def test_few_tokens_are_warned_of_in_the_log_and_the_manifest(base, tmp_path, capsys):
    moments = moments_of(base, tmp_path, samples=10, sequence_length=15)
    _, manifest = compact(base, tmp_path, masks(30), "ridge", moments)
    text = "compensate: ridge: 120 calibration tokens to fit 30 columns"
    assert all(record["warning"].startswith(text) for record in manifest["compensation"])
    assert f"warning: layer 1: {text}" in capsys.readouterr().out
