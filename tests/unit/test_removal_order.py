"""Iterative pruning: the order against iterations made by hand of the parts that are tested elsewhere; GISP's against
whole backward passes of masked models."""

import measure
import numpy as np
import pytest
import torch
from test_parameter_gradients import brute_force, weights
from test_parameter_gradients import micro_batches as few_batches
from test_second_moments import MODELS, micro_batches

import tiny
from pruning.calibration import gisp, removal, second_moments
from pruning.calibration.output_gradients import output_gradients
from pruning.config.default import DEFAULT
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import refit as fitting
from pruning.methods import rounds, scores
from pruning.methods.scores import Layer, Weights, obs
from pruning.models.structures import ffn

LAYERS, N = 3, 48
LEAST = 1  # of a layer, one per cent


def order(ends=(25, 50)):
    return rounds.removal_order(MODELS["llama"], micro_batches(), ends, seed=0)


@pytest.fixture(scope="module")
def places() -> list[np.ndarray]:
    return order()


@pytest.fixture(scope="module")
def at_once() -> np.ndarray:
    """Without iterations."""
    return np.concatenate(order(ends=()))


def test_every_neuron_has_one_place_and_the_best_of_every_layer_leave_last(places):
    assert sorted(np.concatenate(places)) == list(range(LAYERS * N))
    assert all((own >= LAYERS * (N - LEAST)).sum() == LEAST for own in places)


def test_without_rounds_it_is_the_ranking_by_the_dense_models_losses(at_once):
    own = np.concatenate(list(rounds.losses(MODELS["llama"](), micro_batches(), 0)))
    early = at_once < LAYERS * (N - LEAST)
    assert (np.diff(own[early][np.argsort(at_once[early])]) >= 0).all()


@pytest.mark.parametrize("few", [None, 4])
def test_losses_are_those_of_the_score_obs(few):
    """In nats a token; gradients of fewer samples are of the first micro-batches, the second moments of all."""
    model, batches = MODELS["llama"](), micro_batches()
    looked_at = batches if few is None else batches[:2]  # of three samples each
    gradients, tokens = output_gradients(model, looked_at, 0)
    counts, own = second_moments.token_counts(batches), list(rounds.losses(model, batches, 0, few))
    measured = zip(ffn.sites(model), second_moments.second_moments(model, batches), gradients, own, strict=True)
    for site, moments, gradient, found in measured:
        kinds = {"second_moments": {name: each.numpy() for name, each in moments.items()} | counts}
        kinds["output_gradients"] = {"gradients": (gradient / tokens).numpy()}
        down = site.weight.detach().numpy()
        expected = obs.score(Layer(0, {}, Weights({"down": down}.__getitem__), kinds.__getitem__))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_round_ranks_what_the_round_before_left_of_the_model(places, at_once):
    model, batches = MODELS["llama"](), micro_batches()
    keeps = [own >= 36 for own in places]  # a quarter of 144 is gone
    list(fitting.refit(model, batches, {"ffn": keeps}, "attention"))
    second = [own[keep] for own, keep in zip(places, keeps, strict=True)]
    losses = list(rounds.losses(model, batches, 0))
    assert [len(own) for own in losses] == [int(keep.sum()) for keep in keeps]
    gone = [own < 72 for own in second]
    dearest_gone = max(own[left].max() for own, left in zip(losses, gone, strict=True) if left.any())
    rest = [np.sort(own[~left])[: len(own[~left]) - LEAST] for own, left in zip(losses, gone, strict=True)]
    assert dearest_gone <= min(own.min() for own in rest if len(own)) * (1 + 1e-9)
    assert not np.array_equal(at_once, np.concatenate(places))  # measuring again changes something


def test_rounds_remove_as_many_as_masks_of_their_sparsity(monkeypatch):
    """Of 144 neurons 20% are 28.8: 29, as at that sparsity a mask removes."""
    removed, refit = [], fitting.refit

    def spied(model, batches, keeps, scheme):
        removed.append(sum(int((~keep).sum()) for keep in keeps["ffn"]))
        return refit(model, batches, keeps, scheme)

    monkeypatch.setattr(fitting, "refit", spied)
    order(ends=(20, 45))
    assert removed == [29, 65]


def test_a_model_with_norms_after_its_ffns_is_refitted_sequentially():
    places = rounds.removal_order(MODELS["gemma2"], micro_batches(), (50,), seed=0)
    assert sorted(np.concatenate(places)) == list(range(sum(map(len, places))))


def test_equal_losses_leave_by_the_higher_layer_and_neuron():
    losses = [np.array([1.0, 2.0, 1.0]), np.array([1.0, 0.5, 3.0])]
    first, second = removal.order([3, 3], [100], lambda keeps: losses, [1, 1])
    assert first.tolist() == [3, 4, 2] and second.tolist() == [1, 0, 5]  # the best of each layer after all others


def stage(folder, name: str, **changes):
    settings, files = {**tiny.CALIBRATION, "rounds": [30], **changes}, tiny.to_calibrate(folder)
    module = {"rounds": "methods/rounds", "gisp": "calibration/gisp"}[name]
    measure.measure(module, [folder / f"{name}.parquet"], settings, *files)
    return artifacts.read_parquet(folder / f"{name}.parquet", name)


@pytest.mark.parametrize("name", ["rounds", "gisp"])
def test_the_stage_writes_what_the_score_reads(tmp_path, monkeypatch, name):
    monkeypatch.setattr(gisp, "STEP", 25)
    frame = stage(tmp_path, name, gradient_checkpointing=True)
    assert list(frame.columns) == ["layer", "unit", "place"] and sorted(frame["place"]) == list(range(96))
    layer = Layer(1, {"place": frame.loc[frame["layer"] == 1, "place"].to_numpy()}, Weights(lambda _: None))
    assert scores.plugin(name).score(layer).tolist() == layer["place"].tolist()
    assert stage(tmp_path, name, gradient_checkpointing=False).equals(frame)


def test_the_stage_takes_gradients_of_as_many_samples_as_its_calibration_says(tmp_path):
    every, few = (
        stage(tmp_path, "rounds", gradient_checkpointing=False, **own) for own in ({}, {"gradient_samples": 4})
    )
    assert not every.equals(few)
    rest = stage(tmp_path, "rounds", gradient_checkpointing=False, gradient_samples=11)  # all of them
    assert rest.equals(every)


def test_a_run_that_was_killed_measures_the_iterations_that_are_left(tmp_path, monkeypatch):
    """To the same order. Nothing is left over."""
    calls = tiny.killed_in(monkeypatch, rounds, "losses", after=2)
    own = {"gradient_checkpointing": False, "rounds": [30, 60]}
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path, "rounds", **own)
    [kept] = tmp_path.glob(".rounds.*")
    assert sorted(file.name for file in kept.iterdir()) == ["67.safetensors", "96.safetensors"]
    resumed = stage(tmp_path, "rounds", **own)
    assert len(calls) == 4 and not kept.exists()
    assert stage(tmp_path, "rounds", **own).equals(resumed)
    assert len(calls) == 4 + 3


def test_too_few_samples_are_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(InputError, match="raise `samples`"):
        stage(tmp_path, "rounds", samples=4, gradient_checkpointing=False)


def test_the_order_is_the_same_again(places):
    assert all(map(np.array_equal, places, order()))
    assert torch.is_grad_enabled()


# GISP


def by_hand(step: int) -> np.ndarray:
    """Removed neurons are masked, and the whole model is measured again; [LAYERS, N]."""
    model, batches, places = tiny.qwen2(layers=LAYERS).double(), few_batches(), np.full((LAYERS, N), -1)
    for end in range(step, 100 + step, step):
        scores = brute_force(model, batches)
        scores /= scores.sum(1, keepdims=True)  # those that were removed have none
        left = [(scores[at], at) for at in zip(*np.nonzero(places < 0), strict=True)]
        done, gone = LAYERS * N - len(left), int(LAYERS * N * end / 100 + 0.5)
        for place, (_, (layer, unit)) in enumerate(sorted(left)[: gone - done], start=done):
            places[layer, unit] = place
            weights(model, layer)["down"].data[:, unit] = 0
    return places


@pytest.mark.parametrize("step, layers_a_pass", [(25, 3), (20, 1)])
def test_the_order_is_that_of_iterations_by_hand(monkeypatch, step, layers_a_pass):
    monkeypatch.setattr(gisp, "STEP", step)
    found = gisp.removal_order(tiny.qwen2(layers=LAYERS).double(), few_batches(), layers_a_pass)
    assert np.array_equal(found, by_hand(step))
    monkeypatch.setattr(gisp, "STEP", 100)
    once = gisp.removal_order(tiny.qwen2(layers=LAYERS).double(), few_batches(), layers_a_pass)
    assert np.array_equal(once, by_hand(100)) and not np.array_equal(once, found)


def test_the_preset_is_the_papers():
    method = DEFAULT.method("gisp")
    assert method.score == "gisp" and method.allocate == "global" and method.compensate == "none"
