"""Pruning in rounds: the order against rounds made by hand of the parts that are tested elsewhere."""

from pathlib import Path

import measure
import numpy as np
import pandas as pd
import pytest
import torch
from test_second_moments import MODELS, SETTINGS, micro_batches

import tiny
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import refit as fitting
from pruning.methods import rounds
from pruning.methods.scores import Layer, Weights
from pruning.methods.scores import rounds as plugin

LAYERS, N = 3, 48
LEAST = 5  # of a layer, as `min_keep` 0.1 has it


def order(ends=(25, 50), **changes):
    return rounds.removal_order(MODELS["llama"], micro_batches(), ends, seed=0, min_keep=0.1, **changes)


def test_every_neuron_has_one_place():
    places = np.concatenate(order())
    assert sorted(places) == list(range(LAYERS * N))


def test_the_best_of_every_layer_leave_last():
    for places in order():
        assert (places >= LAYERS * (N - LEAST)).sum() == LEAST


def test_without_rounds_it_is_the_ranking_by_the_dense_models_losses():
    model, batches = MODELS["llama"](), micro_batches()
    own = np.concatenate(list(rounds.losses(model, batches, 0)))
    places = np.concatenate(order(ends=()))
    early = places < LAYERS * (N - LEAST)
    assert (np.diff(own[early][np.argsort(places[early])]) >= 0).all()


def test_a_round_ranks_what_the_round_before_left_of_the_model():
    places, batches = order(), micro_batches()
    keeps = [own >= 36 for own in places]  # a quarter of 144 is gone
    model = MODELS["llama"]()
    assert [site.in_features for site in rounds.ffn.sites(model)] == [N] * LAYERS
    list(fitting.refit(model, batches, {"ffn": keeps}, "attention"))
    second = [own[keep] for own, keep in zip(places, keeps, strict=True)]
    losses = list(rounds.losses(model, batches, 0))
    assert [len(own) for own in losses] == [int(keep.sum()) for keep in keeps]
    gone = [own < 72 for own in second]
    dearest_gone = max(own[left].max() for own, left in zip(losses, gone, strict=True) if left.any())
    rest = [np.sort(own[~left])[: len(own[~left]) - LEAST] for own, left in zip(losses, gone, strict=True)]
    assert dearest_gone <= min(own.min() for own in rest if len(own)) * (1 + 1e-9)
    whole = np.concatenate(order(ends=()))
    assert not np.array_equal(whole, np.concatenate(places))  # measuring again changes something


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
    assert rounds.ranked(losses, [1, 1]) == [(1, 1), (1, 0), (0, 2), (0, 0), (0, 1), (1, 2)]


def stage(settings: dict, folder: Path, name: str) -> None:
    files = folder / "model", folder / "data.parquet"
    measure.measure("methods/rounds", [folder / f"{name}.parquet"], settings, *files)


def test_the_stage_writes_what_the_score_reads(tmp_path):
    tiny.save(tiny.llama(), tmp_path / "model")
    texts = pd.DataFrame({"question": [f"{i} + {3 * i % 7}" for i in range(12)], "answer": [4 * i for i in range(12)]})
    artifacts.write_parquet(tmp_path / "data.parquet", texts, "dataset", {})
    settings = {**SETTINGS, "gradient_checkpointing": True, "rounds": [30]}
    stage(settings, tmp_path, "rounds")
    frame = artifacts.read_parquet(tmp_path / "rounds.parquet", "rounds")
    assert list(frame.columns) == ["layer", "unit", "place"] and sorted(frame["place"]) == list(range(96))
    rows = frame[frame["layer"] == 1]
    layer = Layer(1, {"place": rows["place"].to_numpy()}, Weights(lambda _: None))
    assert plugin.score(layer).tolist() == rows["place"].tolist()
    stage({**settings, "gradient_checkpointing": False}, tmp_path, "plain")
    assert artifacts.read_parquet(tmp_path / "plain.parquet", "rounds").equals(frame)


def test_too_few_samples_are_refused_before_anything_is_measured(tmp_path):
    tiny.save(tiny.llama(), tmp_path / "model")
    texts = pd.DataFrame({"question": ["1"] * 4, "answer": [1] * 4})
    artifacts.write_parquet(tmp_path / "data.parquet", texts, "dataset", {})
    settings = {**SETTINGS, "samples": 4, "gradient_checkpointing": False, "rounds": [30]}
    with pytest.raises(InputError, match="raise `samples`"):
        stage(settings, tmp_path, "rounds")


def test_the_order_is_the_same_again():
    assert all(map(np.array_equal, order(), order()))
    assert torch.is_grad_enabled()
