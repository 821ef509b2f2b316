"""Latency tables: prices by hand, allocations that keep to a speed against every combination, and what is measured."""

import json
from itertools import product

import latency_table as stage
import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

import tiny
from pruning.analysis import latency
from pruning.analysis import latency_table as measured
from pruning.config.methods import Method
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import allocation, latency_table
from pruning.methods.allocation import Others, Problem, joint, sensitivity, sensitivity_joint
from pruning.models.structures import ffn, kv_groups

CPU = torch.device("cpu")


def table(ffn, groups=(), column="prefill") -> pd.DataFrame:
    """Of (units, seconds) pairs."""
    rows = [("ffn", *pair) for pair in ffn] + [("kv_groups", *pair) for pair in groups]
    return pd.DataFrame(rows, columns=["structure", "units", column])


# prices


def test_prices_by_hand():
    """Above what no neurons cost, linear between, and where the clock says that more is cheaper their mean."""
    price = latency_table.prices(table([(8, 5.0), (0, 1.0), (4, 4.0), (6, 2.0)]), "prefill", "ffn")
    assert price(np.array([[0, 2], [4, 8]])).tolist() == [[0, 1], [2, 4]]
    assert price(6) == 2 and price(7) == 3 and price(5) == 2


def test_a_group_is_worth_as_many_neurons_as_take_its_time():
    own = table([(0, 1.0), (10, 3.0)], [(1, 2.0), (2, 2.9), (3, 3.0)])
    assert latency_table.neurons_worth(own, "prefill") == pytest.approx(0.5 / 0.2)


@pytest.mark.parametrize("groups", [[(1, 2.0), (2, 1.9)], [(1, 2.0)], []], ids=["cheaper", "one", "none"])
def test_what_costs_nothing_has_no_price(groups):
    with pytest.raises(InputError, match="prefill of a model does not grow with its kv_groups: use `per: parameters`"):
        latency_table.neurons_worth(table([(0, 1.0), (10, 3.0)], groups), "prefill")


# allocations


STEPS = [(0, 0.0), (1, 1.0), (3, 1.2), (4, 3.0), (7, 3.3), (8, 6.0), (12, 6.5)]
"""As on a GPU, whose tiles are of four neurons."""


@pytest.mark.parametrize("sparsity", [10, 35, 50, 77])
@pytest.mark.parametrize("seed", range(3))
def test_the_programme_finds_the_best_of_all_that_are_as_fast(sparsity, seed):
    rng, sizes = np.random.default_rng(seed), (9, 12, 7)
    rows = [(n, w, v) for n, s in enumerate(sizes) for w, v in zip(range(s), rng.random(s).cumsum()[::-1], strict=True)]
    cuts = pd.DataFrame(rows, columns=["layer", "width", "divergence"])
    cost = {(n, w): v for n, w, v in rows} | {(n, s): 0.0 for n, s in enumerate(sizes)}
    scores = [np.arange(size, dtype=float) for size in sizes]
    own = Problem(scores, np.array(sizes), sparsity, np.ones(3), np.ones(3, int), cuts, table(STEPS))
    times = dict(zip(range(13), np.interp(range(13), *zip(*STEPS, strict=True)), strict=True))
    most = sum(times[allocation.kept(size, sparsity)] for size in sizes)
    every = [w for w in product(*(range(1, s + 1) for s in sizes)) if sum(map(times.get, w)) <= most - 0.02]
    best = min(sum(cost[pair] for pair in enumerate(widths)) for widths in every)
    found = sensitivity.widths(own, per="prefill")
    assert sum(times[width] for width in found) <= most + 1e-9
    # Times are rounded up to a 1024th of the longest: what is only just as fast may be missed, nothing else.
    assert sum(cost[pair] for pair in enumerate(found)) <= best + 1e-9


def test_rounding_of_times_makes_no_model_slower_than_asked():
    """Times of a half and of one and a half grains."""
    cuts = pd.DataFrame([(n, w, 3.0 - w) for n in range(8) for w in range(3)], columns=["layer", "width", "divergence"])
    times = table([(0, 0.0), (1, 0.5), (2, 1.4), (3, 1024.0)])
    scores = [np.arange(3.0)] * 8
    own = Problem(scores, np.full(8, 3), 60, np.ones(8), np.ones(8, int), cuts, times)
    assert sensitivity.widths(own, per="prefill").tolist() == [1] * 8


def test_speed_that_is_linear_in_width_is_a_number_of_neurons():
    cuts = pd.DataFrame({"layer": [0, 0, 1, 1], "width": [16, 1, 16, 1], "divergence": [0.1, 9.0, 0.4, 0.45]})
    scores = [np.arange(32.0)] * 2
    linear = table([(0, 2.0), (32, 4.0)], column="decode")
    own = Problem(scores, np.array([32, 32]), 50, np.ones(2), np.ones(2, int), cuts, linear)
    assert sensitivity.widths(own).tolist() == sensitivity.widths(own, per="decode").tolist() == [31, 1]


def test_groups_and_neurons_compete_by_the_time_that_they_take():
    """Two layers of four neurons and two groups; a group has as many parameters as two neurons, and takes the time of
    four: so one goes, where all stayed."""
    scores, groups = [np.array([9.0, 1.0, 5.0, 4.0]), np.array([8.0, 2.0, 6.0, 3.0])], [np.array([12.0, 20])] * 2
    others = {"kv_groups": Others(groups, 2.0)}
    own = Problem(scores, np.array([4, 4]), 50, np.ones(2), np.ones(2, int), others=others)
    assert [units.tolist() for units in joint.widths(own).values()] == [[2, 2], [2, 2]]
    slow = table([(0, 1.0), (4, 2.0)], [(1, 1.0), (2, 2.0)])
    own = Problem(scores, np.array([4, 4]), 50, np.ones(2), np.ones(2, int), None, slow, others)
    # Beside the safe, by score for each neuron's worth: 6, 12/2, 12/2, 5, 4, 3, 2, 1; in time 6, 5, 4, 3, 12/4, 12/4,
    # 2, 1. Four neurons' worth goes, or up to a group's more.
    assert [units.tolist() for units in joint.widths(own, per="prefill").values()] == [[3, 3], [2, 1]]


@pytest.mark.parametrize("sparsity", [20, 45, 60, 80])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("per", ["parameters", "prefill"])
def test_widths_and_groups_are_the_best_of_all_combinations(sparsity, seed, per):
    """Two layers of eight neurons and two groups, of 2.5 neurons' parameters each; in time of two and four."""
    rng, costs, rows = np.random.default_rng(seed), {}, []
    for structure, size, scale in (("ffn", 8, 1.0), ("kv_groups", 2, 3.0)):
        for layer in range(2):
            for units, value in zip(range(1, size), scale * rng.random(size - 1).cumsum()[::-1], strict=True):
                rows.append((structure, layer, units, value))
    cuts = pd.DataFrame(rows, columns=["structure", "layer", "width", "divergence"]).sample(frac=1, random_state=1)
    costs = {tuple(row[:3]): row[3] for row in rows}
    of_groups = {1: 2.0, 2: 6.0} if per == "prefill" else {1: 2.5, 2: 5.0}
    times = table([(0, 1.0), (8, 9.0)], [(1, 3.0), (2, 7.0)])
    own = Problem(
        *([np.arange(8.0)] * 2, np.array([8, 8]), sparsity, np.ones(2), np.ones(2, int), cuts, times),
        {"kv_groups": Others([np.arange(2.0)] * 2, 2.5)},
    )
    most = allocation.kept(16, sparsity) if per == "parameters" else 2 * allocation.kept(8, sparsity)
    most, best = most + 2 * of_groups[2], {}
    for widths in product(range(1, 9), repeat=2):
        for counts in product((1, 2), repeat=2):
            size = sum(widths) + sum(map(of_groups.get, counts))
            pairs = [("ffn", n, w) for n, w in enumerate(widths)] + [("kv_groups", n, c) for n, c in enumerate(counts)]
            best[widths, counts] = size <= most, sum(costs.get(pair, 0.0) for pair in pairs)
    fits, cost = best[tuple(tuple(units) for units in sensitivity_joint.widths(own, per=per).values())]
    assert fits and cost == pytest.approx(min(cost for fits, cost in best.values() if fits))


@pytest.mark.parametrize(
    ("worth", "sparsity"),
    # A neuron is 6.5 parts. Four groups are a third of a part less or more than whole ones; three are 210.93 neurons of
    # the 211 that are to go, in whole parts 1371 of 1371.5.
    [(30 - 1 / 19.5, 50), (30 + 1 / 19.5, 50), (30 + 1 / 19.5, 70), (457.02 / 6.5, 33)],
)
def test_no_more_is_kept_than_asked_where_groups_are_no_whole_numbers_of_parts(worth, sparsity):
    rows = [("ffn", n, 1, 1.0) for n in range(4)] + [("kv_groups", n, 1, [0.0, 9.0][n == 3]) for n in range(4)]
    cuts = pd.DataFrame(rows, columns=["structure", "layer", "width", "divergence"])
    own = Problem(
        *([np.arange(160.0)] * 4, np.full(4, 160), sparsity, np.ones(4), np.ones(4, int), cuts),
        others={"kv_groups": Others([np.arange(2.0)] * 4, worth)},
    )
    found = sensitivity_joint.widths(own)
    assert found["kv_groups"].tolist() == [1, 1, 1, 2]
    gone = 640 - found["ffn"].sum() + 3 * worth
    assert 0 <= gone - (640 - allocation.kept(640, sparsity)) < 3


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            {"allocate": "sensitivity", "allocate_options": {"per": "seconds"}},
            "per: unknown 'seconds'; known: parameters",
        ),
        (
            {"allocate": "global", "allocate_options": {"per": "decode"}},
            "per: decode is not for 'global', but for: joint, sensitivity, sensitivity_joint",
        ),
    ],
)
def test_what_cannot_be_kept_to_is_refused(method, message):
    with pytest.raises(ValidationError, match=message):
        Method(score="wanda", **method)


# what is measured


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3_text", "phi3"])
def test_operations_of_a_row_are_what_torch_counts(family):
    """But the upper triangle of attention's scores: of T^2, (T + 1) / 2T are causal."""
    dense, tokens = tiny.of_family(family, attn_implementation="eager"), 10
    rows = measured.by_units(latency.build(dense.config, torch.float32, CPU), tokens, 1, 1, 0, 0)
    groups = [] if family == "phi3" else [1, 2]
    assert rows["structure"].tolist() == ["ffn"] * 17 + ["kv_groups"] * len(groups)
    assert rows["units"].tolist() == [*range(0, 49, 3), *groups]
    for row in rows.itertuples():
        narrow = (
            {"widths": [row.units] * 2} if row.structure == "ffn" else {"widths": [48] * 2, "groups": [row.units] * 2}
        )
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            latency.narrowed(dense, **narrow)(input_ids=torch.zeros(1, tokens, dtype=torch.long), logits_to_keep=1)
        counts = counter.get_flop_counts()["Global"]
        linear = sum(count for operation, count in counts.items() if operation is not torch.ops.aten.bmm)
        assert row.flops == linear + counts[torch.ops.aten.bmm] * (tokens + 1) / (2 * tokens), row


def test_times_are_ratios_to_the_dense_models_in_its_median(monkeypatch):
    """The machine is three times as slow in the second round: unpaired medians would show that."""
    dense = latency.build(tiny.qwen2().config, torch.float32, CPU)

    def measure(models, prompt_tokens, decode_tokens, rounds, warmup, seed):
        rows = []
        for number, slow in enumerate([1, 3, 1]):
            for name, model in models.items():
                size = sum(site.in_features for site in (*ffn.sites(model), *kv_groups.sites(model)))
                late = number == 2 and name != "dense"  # a hiccup
                rows.append(
                    {"round": number, "variant": name, "prefill_s": size * slow + 1e6 * late, "decode_s": 4 * slow}
                )
        return pd.DataFrame(rows)

    monkeypatch.setattr(measured, "measure", measure)
    rows = measured.by_units(dense, 8, 2, 3, 0, 0).set_index(["structure", "units"])
    assert rows["decode"].unique().tolist() == [2]
    assert rows["prefill"]["ffn", 48] == rows["prefill"]["kv_groups", 2] == 2 * (48 + 32)
    assert rows["prefill"]["ffn", 12] == 2 * (12 + 32) and rows["prefill"]["kv_groups", 1] == 2 * (48 + 16)


def test_groups_share_the_dense_models_memory():
    dense = latency.build(tiny.qwen2().config, torch.float32, CPU)
    narrow = latency.narrowed(dense, (24, 48), (2, 1))
    owned = {p.untyped_storage().data_ptr() for p in dense.parameters()}
    assert {p.untyped_storage().data_ptr() for p in narrow.parameters()} <= owned
    assert [site.in_features for site in kv_groups.sites(narrow)] == [32, 16]
    assert [site.in_features for site in ffn.sites(narrow)] == [24, 48]
    assert narrow(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


SETTINGS = {
    "dtype": "float32",
    "device": "cpu",
    "prompt_tokens": 8,
    "decode_tokens": 2,
    "rounds": 5,
    "warmup": 0,
    "seed": 0,
}


def test_the_stage_measures_a_pruned_models_whole_shape(tmp_path):
    """A further round is of a model that has its widest layer everywhere."""
    raw = {**json.loads(tiny.qwen2().config.to_json_string(use_diff=False)), "ffn_widths": [40, 48], "auto_map": {}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    stage.latency_table(SETTINGS, tmp_path, tmp_path / "table.parquet")
    rows = artifacts.read_parquet(tmp_path / "table.parquet", "latency_table")
    assert rows["units"].tolist() == [*range(0, 49, 3), 1, 2]
    assert (rows[["flops", "prefill", "decode"]] > 0).all(axis=None)


@pytest.mark.parametrize(
    ("changes", "message"), [({"prompt_tokens": 511}, "511 [+] 2 is longer"), (None, "config.json")]
)
def test_what_cannot_be_measured_is_refused(tmp_path, changes, message):
    if changes:
        (tmp_path / "config.json").write_text(tiny.qwen2().config.to_json_string(use_diff=False))
    with pytest.raises(InputError, match=message):
        stage.latency_table({**SETTINGS, **(changes or {})}, tmp_path, tmp_path / "table.parquet")
    assert not list(tmp_path.glob("*.parquet"))
