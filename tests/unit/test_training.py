"""Layers trained towards a target, from a start that is known."""

import copy
import math

import numpy as np
import pytest
import torch
from test_second_moments import MODELS, micro_batches

from pruning.calibration import layerwise
from pruning.methods import training
from pruning.models import families


@pytest.fixture
def given():
    """A model, its second layer, micro-batches, the layer's inputs and outputs, and weights of tokens."""
    model = MODELS["llama"]()
    first, layer = families.decoder_layers(model)[:2]
    batches = micro_batches(lengths=(16, 12) * 15)
    streams = [layerwise.run(model, first, batch, None) for batch in batches]
    targets = [layerwise.run(model, layer, batch, own) for batch, own in zip(batches, streams, strict=True)]
    weights = [torch.where(batch.counted, 0.5, 7.0) for batch in batches]
    return model, layer, batches, streams, targets, weights


def test_every_sample_is_fitted_or_held_out_once_and_padding_counts_nothing(given):
    _, _, batches, *rest = given
    fit, held = training.pieces(batches, *rest)
    numbers = [torch.cat([piece.cut()[0].samples for piece in own]).tolist() for own in (fit, held)]
    assert sorted(numbers[0]) == [n for n in range(30) if n % 5 != 4] and sorted(numbers[1]) == [4, 9, 14, 19, 24, 29]
    for piece in (*fit, *held):
        batch, stream, target, weight = piece.cut()
        assert batch.counted.all() and (weight == 0.5).all() and len(batch.samples) == 1  # without padding
        assert target.shape == stream.shape == (*batch.ids.shape, stream.shape[-1])


def test_micro_batches_are_cut_to_a_32nd_of_the_samples():
    batches = micro_batches(lengths=(8,) * 66)  # of three samples
    ones = [torch.ones(batch.ids.shape) for batch in batches]
    for own in training.pieces(batches, ones, ones, ones):
        assert max(len(piece.rows) for piece in own) <= 2
    assert max(len(piece.rows) for piece in training.pieces(batches * 2, ones * 2, ones * 2, ones * 2)[0]) == 3


def test_the_error_is_of_weighted_tokens(given):
    model, layer, batches, streams, targets, weights = given
    for factor, expected in ((0.9, pytest.approx(0.1 / 0.9, rel=1e-4)), (math.nan, math.inf)):
        _, held = training.pieces(batches, streams, [factor * target for target in targets], weights)
        assert training.Training(model, layer, [], held, torch.float32).error() == expected


def test_the_rate_falls_as_a_cosine(given, monkeypatch):
    model, layer, *rest = given
    fit, held = training.pieces(*rest)
    rates, step = [], torch.optim.Adam.step

    def spied(self):
        rates.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", spied)
    training.trained(model, layer, fit, held, 2, (0.001,), 0)
    expected = 0.0005 * (1 + np.cos(np.pi * np.arange(2 * len(fit)) / (2 * len(fit))))
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_padding_counts_nothing(given, monkeypatch):
    model, layer, batches, streams, targets, weights = given
    monkeypatch.setattr(training, "STEPS", 1)  # whole micro-batches, of 16, 12 and 16 tokens
    moved = [torch.where(b.counted[..., None], 0.9 * y, 100.0) for b, y in zip(batches, targets, strict=True)]
    fit, held = training.pieces(batches, streams, moved, weights)
    assert {(len(piece.rows), piece.cut()[0].counted.all().item()) for piece in fit} >= {(3, False)}
    assert training.Training(model, layer, [], fit + held, torch.float32).error() == pytest.approx(0.1 / 0.9, rel=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_were_lost_are_found_again(given, dtype):
    """All matrices are disturbed; the targets are what they put out before."""
    model, layer, batches, *rest = given
    model.to(getattr(torch, dtype))
    rest[:2] = [[each.to(getattr(torch, dtype)) for each in own] for own in rest[:2]]
    with torch.no_grad():
        for own in layer.parameters():
            own += (
                0.3
                * own.std().nan_to_num()
                * torch.randn(own.shape, generator=torch.Generator().manual_seed(1)).to(own)
            )
    before = {name: own.clone() for name, own in model.named_parameters()}
    fit, held = training.pieces(batches, *rest)
    found, record = training.trained(model, layer, fit, held, 8, (2e-3, 1e-9), 0)
    assert record["rate"] == 2e-3 and record["epoch"] > 0
    assert record["held_out_error"] < 0.9 * record["held_out_error_untrained"]
    for name, own in layer.named_parameters():
        assert own.dtype == getattr(torch, dtype) and not own.requires_grad and own.grad is None
        assert (name in found) == (own.dim() == 2)
        if name in found:
            assert torch.equal(found[name].to(own.dtype), own)  # what is added up is finer than what is kept
            assert (dtype == "float32") == torch.equal(found[name], own.float())
    changed = {name for name, own in model.named_parameters() if not torch.equal(own, before[name])}
    assert changed == {f"model.layers.1.{name}" for name in found}


def test_what_training_does_not_better_stays_to_the_bit(given):
    model, layer, batches, *rest = given
    own = copy.deepcopy(layer.state_dict())
    found, record = training.trained(model, layer, *training.pieces(batches, *rest), 8, (10.0,), 0)  # far too large
    assert record["rate"] == record["epoch"] == 0 and record["held_out_error"] == record["held_out_error_untrained"]
    assert all(torch.equal(weight, own[name]) for name, weight in layer.state_dict().items())
    assert all(torch.equal(weight, own[name]) for name, weight in found.items())


def test_rates_are_tried_until_one_gains_less_than_another(given, monkeypatch):
    """The errors of two epochs of each; 0.5 is the start's."""
    model, layer, *rest = given
    errors, tried = {4.0: (0.9, 0.6), 3.0: (0.4, 0.3), 2.0: (0.2, 0.2), 1.0: (0.4, 0.25), 0.5: (0.1, 0.1)}, []

    def epochs(_, __, number, rate, ___):
        tried.append(rate)
        assert number == 2
        yield from errors[rate]

    monkeypatch.setattr(training.Training, "epochs", epochs)
    monkeypatch.setattr(training.Training, "error", lambda _: 0.5)
    _, record = training.trained(model, layer, [], [], 2, list(errors), 0)
    assert tried == [4.0, 3.0, 2.0, 1.0] and record["rate"] == 2.0 and record["epoch"] == 1
    assert record["held_out_error"] == 0.2 and record["held_out_error_untrained"] == 0.5


def test_the_same_seed_gives_the_same_weights(given):
    model, layer, batches, *rest = given
    rest[1] = [1.1 * target for target in rest[1]]
    runs = []
    for seed in (0, 0, 1):
        own = copy.deepcopy(layer.state_dict())
        found, _ = training.trained(model, layer, *training.pieces(batches, *rest), 8, (1e-3,), seed)
        runs.append(np.concatenate([weight.flatten().numpy() for weight in found.values()]))
        layer.load_state_dict(own)
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).any()
