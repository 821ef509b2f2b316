"""Allocations over neurons and key-value groups, by what cuts cost and by latency tables: by hand and against every
combination."""

import tracemalloc
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pruning.config.methods import Method
from pruning.core.errors import InputError
from pruning.methods import allocation, latency_table
from pruning.methods.allocation import Others, Problem, expert_neurons, joint, sensitivity, sensitivity_joint
from pruning.methods.allocation import greedy as greedy_widths


def table(ffn, groups=(), column="prefill") -> pd.DataFrame:
    """Of (units, seconds) pairs."""
    rows = [("ffn", *pair) for pair in ffn] + [("kv_groups", *pair) for pair in groups]
    return pd.DataFrame(rows, columns=["structure", "units", column])


def problem(scores, sparsity, cuts=None, times=None, floor=1, **groups) -> Problem:
    """scores: of each layer, or how many neurons it has."""
    scores = [np.arange(float(own)) if np.isscalar(own) else np.array(own) for own in scores]
    ones = np.ones(len(scores), int)
    return Problem(scores, np.array(list(map(len, scores))), sparsity, 1.0 * ones, floor * ones, cuts, times, **groups)


CUT = ["layer", "width", "divergence"]


def random_cuts(seed: int, sizes) -> tuple[pd.DataFrame, dict[tuple[int, int], float]]:
    """Costs of all widths of all layers, in any order; and the same by (layer, width), of whole layers too."""
    rng = np.random.default_rng(seed)
    rows = [(n, w, v) for n, s in enumerate(sizes) for w, v in zip(range(s), rng.random(s).cumsum()[::-1], strict=True)]
    frame = pd.DataFrame(rows, columns=CUT).sample(frac=1, random_state=seed)
    return frame, {(n, w): v for n, w, v in rows} | {(n, s): 0.0 for n, s in enumerate(sizes)}


def total(cost, widths) -> float:
    return sum(cost[pair] for pair in enumerate(widths))


def beside(sparsity, second, groups, least) -> Problem:
    """Two layers of four neurons and two groups, a group as large as two neurons; so many of either are safe."""
    others = {"kv_groups": Others([np.array(own) for own in groups], 2.0, least)}
    return problem([[9.0, 1.0, 5.0, 4.0], second], sparsity, floor=least, others=others)


SAFE = ([8.0, 2.0, 6.0, 3.0], [[7.0, 20.0], [30.0, 3.0]], 1)
DROPS = ([0.8, 0.2, 0.6, 0.3], [[1.0, 0.5], [30.0, 3.0]], 0)


@pytest.mark.parametrize(
    ("example", "sparsity", "left", "counts"),
    [
        # Safe: 9, 8, and the groups 20, 30. By score for each neuron's worth: 6, 5, 4, 7/2, 3, 2, 3/2, 1.
        (SAFE, 0, [4, 4], [2, 2]),
        (SAFE, 12, [3, 4], [2, 2]),  # one neuron's worth: the 1
        (SAFE, 25, [3, 4], [2, 1]),  # two: the 1 and a group, which is two
        (SAFE, 50, [3, 3], [2, 1]),  # four: and the 2
        (SAFE, 62, [3, 2], [2, 1]),  # five
        (SAFE, 75, [3, 2], [1, 1]),  # six: the group of 7/2 makes it seven
        # Nothing is safe: 30/2, 9, 5, 4, 3/2, 1, 0.8, 0.6, 1/2 (a group), 0.3, 0.5/2, 0.2.
        (DROPS, 50, [4, 2], [1, 2]),  # twelve neurons' worth: up to the group of 1/2
        (DROPS, 75, [4, 2], [0, 2]),  # ten: without it
        (DROPS, 99, [4, 0], [0, 2]),  # eight: up to the neuron of 1
    ],
)
def test_units_leave_in_the_order_of_score_for_each_parameter(example, sparsity, left, counts):
    found = joint.widths(beside(sparsity, *example))
    assert {name: units.tolist() for name, units in found.items()} == {"ffn": left, "kv_groups": counts}


@pytest.mark.parametrize("worth", [10 / 3, 0.1, 2.6])
def test_rounding_of_a_groups_worth_removes_nothing(worth):
    """Sizes that add up to a little more than what there is room for."""
    others = {"kv_groups": Others([np.arange(2.0)] * 5, worth)}
    assert [units.tolist() for units in joint.widths(problem([8] * 5, 0, others=others)).values()] == [[8] * 5, [2] * 5]


@pytest.mark.parametrize(("sparsity", "left"), [(0, 24), (50, 16), (97, 8)])
def test_an_expert_keeps_the_nearest_multiple_of_eight_neurons_and_eight_at_least(sparsity, left):
    own = problem([6, 6], sparsity, others={"expert_neurons": Others([np.arange(144.0)] * 2, 1 / 24)})
    found = expert_neurons.widths(own)
    assert found["ffn"].tolist() == [6, 6] and found["expert_neurons"].tolist() == [6 * left] * 2


def test_the_knapsack_drops_an_attention_that_costs_nothing():
    rows = [("ffn", 0, 0, 9.0), ("ffn", 1, 0, 9.0), *(("kv_groups", n, 0, float(n)) for n in (0, 1))]
    rows += [("kv_groups", n, 1, 0.9 * n) for n in (0, 1)]
    cuts = pd.DataFrame(rows, columns=["structure", "layer", "width", "divergence"])
    for least, counts in ((0, [0, 2]), (1, [1, 1])):
        own = replace(beside(50, *DROPS[:2], least), floor=np.zeros(2, int), measured=cuts)
        found = sensitivity_joint.widths(own)
        assert found["kv_groups"].tolist() == counts and (least or found["ffn"].tolist() == [4, 4])


# what cuts cost


STEPS = [(0, 0.0), (1, 1.0), (3, 1.2), (4, 3.0), (7, 3.3), (8, 6.0), (12, 6.5)]
"""As on a GPU, whose tiles are of four neurons."""


@pytest.mark.parametrize("sparsity", [10, 35, 50, 77])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("per", ["parameters", "prefill"])
def test_the_knapsack_finds_the_best_of_all_combinations(sparsity, seed, per):
    """Times are rounded up to a 1024th of the longest: what is only just as fast may be missed, nothing else."""
    sizes = (9, 12, 7)
    cuts, cost = random_cuts(seed, sizes)
    price, most, slack = dict(zip(range(13), range(13), strict=True)), allocation.kept(sum(sizes), sparsity), 0
    if per == "prefill":
        price = dict(enumerate(np.interp(range(13), *zip(*STEPS, strict=True))))
        most, slack = sum(price[allocation.kept(size, sparsity)] for size in sizes), 0.02
    every = [w for w in product(*(range(1, s + 1) for s in sizes)) if sum(map(price.get, w)) <= most - slack]
    found = sensitivity.widths(problem(sizes, sparsity, cuts, table(STEPS)), per=per)
    assert sum(price[width] for width in found) <= most + 1e-9
    assert total(cost, found) <= min(total(cost, widths) for widths in every) + 1e-9


@pytest.mark.parametrize("sparsity", [35, 60, 90])
def test_the_knapsack_prices_a_dropped_ffn_as_it_was_measured(sparsity):
    """Without the first FFN the model is hardly another."""
    sizes = (9, 12, 7)
    cuts, cost = random_cuts(sparsity, sizes)
    cuts.loc[cuts["layer"] == 0, "divergence"] = 0.01
    cost |= {(0, width): 0.01 for width in range(9)}
    most = allocation.kept(sum(sizes), sparsity)
    best = min(total(cost, own) for own in product(*(range(s + 1) for s in sizes)) if sum(own) <= most)
    found = sensitivity.widths(problem(sizes, sparsity, cuts, floor=0))
    assert total(cost, found) == pytest.approx(best) and found[0] == 0
    # Steps of two that end at one neuron: none is a width as well.
    assert sensitivity.options(problem((129, 130), sparsity, cuts, floor=0))[1][0][:3].tolist() == [0, 1, 3]
    # A layer that has no neuron left from an earlier iteration does not make the steps small.
    assert sensitivity.widths(problem((0, 640), 45, cuts, floor=0)).tolist() == [0, 350]  # in tens, of 352


def test_one_narrow_layer_does_not_make_the_knapsack_large():
    """28 layers of 18,944 neurons and one of 7: in steps of the narrow one, a table of 46 GiB a layer."""
    sizes = [18944] * 28 + [7]
    rows = [(n, s * part // 16, float(16 - part)) for n, s in enumerate(sizes) for part in range(16)]
    measured = pd.DataFrame(rows, columns=CUT)
    own = replace(problem(sizes, 40, measured), original=np.full(29, 18944))
    tracemalloc.start()
    found = sensitivity.widths(own)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert 0 <= allocation.kept(29 * 18944, 40) - found.sum() < 18944 // 64 and found[-1] == 7


def test_costs_between_measured_widths_are_interpolated():
    measured = pd.DataFrame({"layer": [0, 0], "width": [4, 1], "divergence": [0.4, 1.0]})
    assert sensitivity.cost(measured, 0, 8, np.array([1, 2, 4, 6, 8])).tolist() == pytest.approx([1, 0.8, 0.4, 0.2, 0])


def test_a_floor_holds_where_more_is_asked_than_may_go():
    measured = pd.DataFrame({"layer": [0, 1], "width": [1, 1], "divergence": [1.0, 1.0]})
    assert sensitivity.widths(problem((10, 10), 90, measured, floor=np.array([3, 4]))).tolist() == [3, 4]


def test_greedy_widths_are_whole_steps_and_a_part_of_the_next():
    measured = pd.DataFrame({"layer": [1, 0, 1], "width": [6, 5, 2], "divergence": [0.1, 0.2, 0.3]})
    found = {s: greedy_widths.widths(problem((10, 10), s, measured)).tolist() for s in (10, 20, 30, 45, 60, 95)}
    assert found == {10: [10, 8], 20: [10, 6], 30: [8, 6], 45: [5, 6], 60: [5, 3], 95: [5, 2]}


# Latency tables


def test_prices_by_hand():
    """Above what no neurons cost, linear between, and where the clock says that more is cheaper their mean."""
    price = latency_table.prices(table([(8, 5.0), (0, 1.0), (4, 4.0), (6, 2.0)]), "prefill", "ffn")
    assert price(np.array([[0, 2], [4, 8]])).tolist() == [[0, 1], [2, 4]]
    assert price(6) == 2 and price(7) == 3 and price(5) == 2


def test_a_group_is_worth_as_many_neurons_as_take_its_time():
    own = table([(0, 1.0), (10, 3.0)], [(1, 2.0), (2, 2.9), (3, 3.0)])
    assert latency_table.neurons_worth(own, "prefill", "kv_groups") == pytest.approx(0.5 / 0.2)


@pytest.mark.parametrize("groups", [[(1, 2.0), (2, 1.9)], [(1, 2.0)], []], ids=["cheaper", "one", "none"])
def test_what_costs_nothing_has_no_price(groups):
    with pytest.raises(InputError, match="prefill of a model does not grow with its kv_groups: use `per: parameters`"):
        latency_table.neurons_worth(table([(0, 1.0), (10, 3.0)], groups), "prefill", "kv_groups")


def test_rounding_of_times_makes_no_model_slower_than_asked():
    """Times of a half, and of one and a half, steps of the resolution."""
    cuts = pd.DataFrame([(n, w, 3.0 - w) for n in range(8) for w in range(3)], columns=CUT)
    own = problem([3] * 8, 60, cuts, table([(0, 0.0), (1, 0.5), (2, 1.4), (3, 1024.0)]))
    assert sensitivity.widths(own, per="prefill").tolist() == [1] * 8


def test_speed_that_is_linear_in_width_is_a_number_of_neurons():
    cuts = pd.DataFrame([(0, 16, 0.1), (0, 1, 9.0), (1, 16, 0.4), (1, 1, 0.45)], columns=CUT)
    own = problem([32, 32], 50, cuts, table([(0, 2.0), (32, 4.0)], column="decode"))
    assert sensitivity.widths(own).tolist() == sensitivity.widths(own, per="decode").tolist() == [31, 1]


def test_speed_is_that_of_the_model_before_any_pruning():
    """64 neurons, of which an earlier iteration left 48; half of them are the 32 of sparsity 50."""
    cuts = pd.DataFrame([(0, 12, 0.1), (0, 1, 9.0), (1, 16, 0.4), (1, 1, 0.45)], columns=CUT)
    own = problem([16, 32], 50, cuts, table([(0, 2.0), (32, 4.0)], column="decode"))
    own = replace(own, original=np.array([32, 32]))
    assert sensitivity.widths(own, per="decode").sum() == sensitivity.widths(own).sum() == 32


def test_groups_and_neurons_compete_by_the_time_that_they_take():
    """Two layers of four neurons and two groups; a group has as many parameters as two neurons, and takes the time of
    four: so one goes, where all stayed."""
    scores = [[9.0, 1.0, 5.0, 4.0], [8.0, 2.0, 6.0, 3.0]]
    both = {"others": {"kv_groups": Others([np.array([12.0, 20])] * 2, 2.0)}}
    own = problem(scores, 50, **both)
    assert [units.tolist() for units in joint.widths(own).values()] == [[2, 2], [2, 2]]
    own = problem(scores, 50, times=table([(0, 1.0), (4, 2.0)], [(1, 1.0), (2, 2.0)]), **both)
    # Beside the safe, by score for each neuron's worth: 6, 12/2, 12/2, 5, 4, 3, 2, 1; in time 6, 5, 4, 3, 12/4, 12/4,
    # 2, 1. Four neurons' worth goes, or up to a group's more.
    assert [units.tolist() for units in joint.widths(own, per="prefill").values()] == [[3, 3], [2, 1]]


@pytest.mark.parametrize("sparsity", [20, 45, 60, 80])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("per", ["parameters", "prefill"])
def test_widths_and_groups_are_the_best_of_all_combinations(sparsity, seed, per):
    """Two layers of eight neurons and two groups, of 2.5 neurons' parameters each; in time of two and four."""
    rng, rows = np.random.default_rng(seed), []
    for structure, size, scale in (("ffn", 8, 1.0), ("kv_groups", 2, 3.0)):
        for layer in range(2):
            for units, value in zip(range(1, size), scale * rng.random(size - 1).cumsum()[::-1], strict=True):
                rows.append((structure, layer, units, value))
    cuts = pd.DataFrame(rows, columns=["structure", *CUT]).sample(frac=1, random_state=1)
    costs = {tuple(row[:3]): row[3] for row in rows}
    of_groups = {1: 2.0, 2: 6.0} if per == "prefill" else {1: 2.5, 2: 5.0}
    times = table([(0, 1.0), (8, 9.0)], [(1, 3.0), (2, 7.0)])
    others = {"kv_groups": Others([np.arange(2.0)] * 2, 2.5)}
    own = problem([8, 8], sparsity, cuts, times, others=others)
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
    cuts = pd.DataFrame(rows, columns=["structure", *CUT])
    own = problem([160] * 4, sparsity, cuts, others={"kv_groups": Others([np.arange(2.0)] * 4, worth)})
    found = sensitivity_joint.widths(own)
    assert found["kv_groups"].tolist() == [1, 1, 1, 2]
    gone = 640 - found["ffn"].sum() + 3 * worth
    assert 0 <= gone - (640 - allocation.kept(640, sparsity)) < 3


@pytest.mark.parametrize(
    ("scheme", "per", "message"),
    [
        ("sensitivity", "seconds", "per: unknown 'seconds'; known: parameters"),
        ("global", "decode", "per: decode is not for 'global', but for: joint, sensitivity, sensitivity_joint"),
    ],
)
def test_what_cannot_be_kept_to_is_refused(scheme, per, message):
    with pytest.raises(ValidationError, match=message):
        Method(score="wanda", allocate=scheme, allocate_options={"per": per})
