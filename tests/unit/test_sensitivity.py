"""What cuts cost: against whole forward passes of masked copies; widths against every combination."""

import copy
from functools import partial
from types import SimpleNamespace

import measure
import numpy as np
import pandas as pd
import pytest
import torch
from test_second_moments import MODELS, micro_batches

import tiny
from pruning.calibration import prepare
from pruning.core import artifacts, layer_files
from pruning.core.errors import InputError
from pruning.methods import sensitivity
from pruning.methods.compensation import ridge
from pruning.models import tokenizers
from pruning.models.checkpoint import Checkpoint
from pruning.models.loading import load
from pruning.models.structures import STRUCTURES, ffn

N = 48
LEAST = [40, 5, 44]
RNG = np.random.default_rng(0)
RANKS = [RNG.permutation(N).astype(float) for _ in range(3)]
CUT = {"ffn": (RANKS, LEAST), "kv_groups": ([np.array(own) for own in ([1, 2], [2, 1], [1, 2])], [1, 0, 1])}
"""Of each layer, scores, the largest of which are the best, and how many stay at least. A group has two query heads."""


def probe(family="llama", fit=None, structure="ffn"):
    """Answers are the second halves of the samples."""
    batches = micro_batches()
    for batch in batches:
        batch.objective[:, : batch.ids.shape[1] // 2] = False
    return sensitivity.Probe(MODELS[family](), batches, *CUT[structure], fit, structure)


@torch.no_grad()
def divergence(dense, cut, batches) -> float:
    """Mean KL over the batches' answers, by whole forward passes."""
    apart = []
    for batch in batches:
        inputs = {"input_ids": batch.ids, "attention_mask": batch.counted.long()}
        p, q = (model(**inputs).logits.double().log_softmax(-1)[:, :-1] for model in (dense, cut))
        apart.append((p.exp() * (p - q)).sum(-1)[batch.objective[:, 1:]])
    return float(torch.cat(apart).mean())


def brute_force(own: sensitivity.Probe, dense, widths, factor=1.0, structure="ffn") -> float:
    """Mean KL over answers of the model whose layers have these widths, by masks on what down_proj, or o_proj, gets; in
    layers that are cut its weight is so many times as large."""
    cut, keeps = copy.deepcopy(dense), []
    for site, ranks, width in zip(STRUCTURES[structure].sites(cut), own.scores, widths, strict=True):
        site.weight.mul_(factor if width < len(ranks) else 1)
        keeps.append(ranks.argsort().argsort() >= len(ranks) - width)
    return divergence(dense, tiny.silenced(cut, {structure: keeps}), own.batches)


def test_levels_by_hand():
    assert sensitivity.levels(48, 1) == [45, 42, 39, 36, 33, 30, 27, 24, 21, 18, 15, 12, 9, 6, 3, 1]
    assert sensitivity.levels(48, 30) == [45, 42, 39, 36, 33, 30]
    assert sensitivity.levels(5, 2) == [4, 3, 2]
    assert sensitivity.levels(20, 1) == [18, 17, 16, 15, 13, 12, 11, 10, 8, 7, 6, 5, 3, 2, 1]  # rounded down
    assert sensitivity.levels(3, 3) == []


@pytest.mark.parametrize("structure", CUT)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_each_cut_is_measured_as_a_whole_forward_pass_would(family, structure):
    own = probe(family, structure=structure)
    dense, rows = copy.deepcopy(own.model), list(sensitivity.layers(own))
    levels = [sensitivity.levels(*pair) for pair in zip(own.widths, own.least, strict=True)]
    assert [row[:2] for row in rows] == [(n, width) for n in range(3) for width in levels[n]]
    for layer, width, found in rows[:: len(rows) // 4]:
        widths = [width if n == layer else whole for n, whole in enumerate(own.widths)]
        assert found == pytest.approx(brute_force(own, dense, widths, structure=structure), rel=2e-3, abs=1e-7)
    for left, right in zip(own.model.parameters(), dense.parameters(), strict=True):
        assert torch.equal(left, right)  # the model is left as it was


def test_what_is_left_is_refitted_where_there_is_a_fit():
    base = ffn.sites(MODELS["llama"]())

    def doubled(layer: int, order: np.ndarray):
        return lambda kept: 2 * base[layer].weight.detach().numpy()[:, order[:kept]]

    own = probe(fit=doubled)
    dense = copy.deepcopy(own.model)
    layer, width, found = list(sensitivity.layers(own))[10]
    widths = [width if n == layer else N for n in range(3)]
    assert found == pytest.approx(brute_force(own, dense, widths, 2), rel=2e-3)


@pytest.mark.parametrize("search", [sensitivity.layers, sensitivity.greedy])
def test_a_model_that_overflows_is_refused_by_its_layer(search):
    own = probe()
    own.model.model.layers[1].mlp.down_proj.weight.data[:] = 3e38
    with pytest.raises(InputError, match=r"NaN or Inf with layer \d pruned: check the weights, or use a wider dtype"):
        list(search(own))


def test_passes_are_counted():
    """The dense model; each level of each layer runs it and those after it; then the layer itself once."""
    own = probe()
    list(sensitivity.layers(own))
    levels = [len(sensitivity.levels(N, least)) for least in LEAST]
    assert own.passes == (3 + sum(levels[n] * (3 - n) for n in range(3)) + 3) / 3


def test_greedy_takes_the_cheapest_next_cut_of_the_present_model():
    own = probe()
    dense = copy.deepcopy(own.model)
    rows = list(sensitivity.greedy(own, exact=True))
    assert len(rows) == sum(len(sensitivity.levels(N, least)) for least in LEAST)
    widths, present = [N] * 3, 0.0
    for layer, width, found in rows:
        rates, tried = {}, {}
        for each in range(3):
            if following := [w for w in sensitivity.levels(N, LEAST[each]) if w < widths[each]]:
                tried[each] = brute_force(own, dense, [following[0] if n == each else w for n, w in enumerate(widths)])
                rates[each] = (tried[each] - present) / (widths[each] - following[0])
        assert rates[layer] == pytest.approx(min(rates.values()), rel=1e-2, abs=1e-8)
        assert found == pytest.approx(tried[layer], rel=2e-3, abs=1e-7)
        widths[layer], present = width, found
    assert widths == LEAST


def test_greedy_takes_the_cheapest_next_cut_as_each_was_last_measured(monkeypatch):
    """Its own is measured on the present model."""
    own = probe()
    dense, measured, measure = copy.deepcopy(own.model), {}, own.divergences

    def spied(layer, *rest):
        following = next(w for w in sensitivity.levels(N, LEAST[layer]) if w < widths[layer])
        found = measure(layer, *rest)
        measured[layer] = (found[0] - present) / (widths[layer] - following)
        return found

    monkeypatch.setattr(own, "divergences", spied)
    widths, present, steps = [N] * 3, 0.0, 0
    for layer, width, cost in sensitivity.greedy(own):
        open_still = [n for n in range(3) if widths[n] > LEAST[n]]
        assert measured[layer] == min(measured[n] for n in open_still)
        assert measured[layer] == pytest.approx((cost - present) / (widths[layer] - width))
        widths[layer], present, steps = width, cost, steps + 1
        assert cost == pytest.approx(brute_force(own, dense, widths), rel=2e-3, abs=1e-7)
    assert widths == LEAST and steps == sum(len(sensitivity.levels(N, least)) for least in LEAST)


class Convex:
    """Stands for a probe whose steps cost more, the more is gone: of all layers together, and of its own."""

    def __init__(self, layers: int):
        self.prices = np.random.default_rng(layers).uniform(0.5, 2, layers)
        self.widths, self.least, self.start, self.tried = [N] * layers, [1 + n for n in range(layers)], None, 0
        self.sites = [SimpleNamespace(weight=torch.tensor(float(N))) for _ in range(layers)]

    def weight(self, layer, width):
        return torch.tensor(float(width))

    def after(self, layer, states):
        return states

    def divergences(self, layer, weights, states):
        [weight] = weights
        self.tried += 1
        left = [float(weight if n == layer else site.weight) for n, site in enumerate(self.sites)]
        return [self.cost(left)]

    def cost(self, widths) -> float:
        return float((self.prices * (N - np.array(widths)) ** 1.5).sum() ** 1.3)


def test_greedy_finds_what_trying_every_layer_in_every_step_would_where_steps_only_get_dearer():
    own = Convex(7)
    expected, widths, tried = [], list(own.widths), 0
    while any(w > least for w, least in zip(widths, own.least, strict=True)):
        costs = {}
        for layer, least in enumerate(own.least):
            if following := [w for w in sensitivity.levels(N, least) if w < widths[layer]]:
                cut = [following[0] if n == layer else w for n, w in enumerate(widths)]
                costs[layer] = (own.cost(cut) - own.cost(widths)) / (widths[layer] - following[0]), cut
        tried += len(costs)
        chosen = min(costs, key=lambda layer: costs[layer][0])
        widths = costs[chosen][1]
        expected.append((chosen, widths[chosen], pytest.approx(own.cost(widths))))
    assert list(sensitivity.greedy(own)) == expected
    assert list(sensitivity.greedy(Convex(7), exact=True)) == expected
    assert own.tried < 0.6 * tried


def test_whole_micro_batches_are_looked_at():
    batches = micro_batches()
    starts = [int(batch.samples[0]) for batch in batches]
    assert prepare.first_samples(batches, 1) == batches[:1]
    assert prepare.first_samples(batches, starts[1] + 1) == batches[:2]
    assert prepare.first_samples(batches, 10**6) == batches


@pytest.mark.parametrize(("least", "floors"), [({"min_keep": 0.9}, (44, 1)), ({"drop_layers": True}, (0, 0))])
def test_the_stage_measures_neurons_and_then_groups_on_the_first_samples(tmp_path, monkeypatch, least, floors):
    """Neurons are refitted, as their second moments are there, with the layer's own strength; groups are not. Killed,
    it goes on with the layer that it was at, to the same cuts."""
    model, data = tiny.to_calibrate(tmp_path)
    tiny.record(model)
    settings = {**tiny.CALIBRATION, "search": "layers", "probed": 4, **least}
    moments = tmp_path / "second_moments.json"
    measure.measure("calibration/second_moments", [moments, tmp_path / "second_moments"], settings, model, data)
    ranks = {"ffn": [own[:N] for own in RANKS[:2]], "kv_groups": [np.array([1.0, 2.0]), np.array([2.0, 1.0])]}
    frames = [prepare.unit_rows("score", own).assign(structure=name) for name, own in ranks.items()]
    artifacts.write_parquet(tmp_path / "scores.parquet", pd.concat(frames, ignore_index=True), "scores", {})
    evidence = [f"scores={tmp_path / 'scores.parquet'}", f"second_moments={moments}"]
    run = partial(measure.measure, "methods/sensitivity", [tmp_path / "cuts.parquet"], settings, model, data, evidence)
    run()
    cuts = artifacts.read_parquet(tmp_path / "cuts.parquet", "sensitivity")

    base, of_layer = Checkpoint(model), layer_files.read(moments, "second_moments", [N, N])[0]

    def fit(layer, order):
        own = base.matrix(layer, "down"), order, of_layer(layer)
        return ridge.nested(*own, ridge.strength(*own))

    batches, expected, passes = prepare.batches(data, tokenizers.load(model), settings)[:1], [], 0.0
    for (name, own), floor in zip(ranks.items(), floors, strict=True):
        network, _ = load(model, "float32")
        probe = sensitivity.Probe(network, batches, own, [floor] * 2, fit if name == "ffn" else None, name)
        for row in sensitivity.layers(probe):
            expected.append((*row, pytest.approx(passes + probe.passes), name))
        passes += probe.passes
    columns = ["layer", "width", "divergence", "passes", "structure"]
    assert list(cuts[columns].itertuples(index=False, name=None)) == expected
    calls = tiny.killed_in(monkeypatch, sensitivity.Probe, "cuts", after=3)  # in the last layer, of its groups
    with pytest.raises(KeyboardInterrupt):
        run()
    run()
    assert len(calls) == 4 + 1 and artifacts.read_parquet(tmp_path / "cuts.parquet", "sensitivity").equals(cuts)
    assert not [*tmp_path.glob(".cuts.parquet.*.unfinished")]
