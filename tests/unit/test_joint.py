"""Allocations over neurons and key-value groups, and by what cuts cost: by hand and against every combination."""

import tracemalloc
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from pruning.methods import allocation
from pruning.methods.allocation import Others, Problem, joint, sensitivity_joint
from pruning.methods.allocation import greedy as greedy_widths
from pruning.methods.allocation import sensitivity as knapsack


def beside(sparsity, second, groups, least) -> Problem:
    """Two layers of four neurons and two groups, a group as large as two neurons; so many of either are safe."""
    scores = [np.array([9.0, 1.0, 5.0, 4.0]), np.array(second)]
    others = {"kv_groups": Others([np.array(own) for own in groups], 2.0, least)}
    return Problem(scores, np.array([4, 4]), sparsity, np.ones(2), np.full(2, least), others=others)


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


def test_the_knapsack_drops_an_attention_that_costs_nothing():
    rows = [("ffn", 0, 0, 9.0), ("ffn", 1, 0, 9.0), *(("kv_groups", n, 0, float(n)) for n in (0, 1))]
    rows += [("kv_groups", n, 1, 0.9 * n) for n in (0, 1)]
    cuts = pd.DataFrame(rows, columns=["structure", "layer", "width", "divergence"])
    for least, counts in ((0, [0, 2]), (1, [1, 1])):
        own = replace(beside(50, *DROPS[:2], least), floor=np.zeros(2, int), measured=cuts)
        found = sensitivity_joint.widths(own)
        assert found["kv_groups"].tolist() == counts and (least or found["ffn"].tolist() == [4, 4])


# what cuts cost


def problem(measured: pd.DataFrame, sizes, sparsity: int, floor=(1, 1, 1)) -> Problem:
    own = [np.arange(size, dtype=float) for size in sizes]
    ones = np.ones(len(sizes))
    return Problem(own, np.array(sizes), sparsity, ones, np.array(floor), measured)


@pytest.mark.parametrize("sparsity", [10, 35, 50, 77])
@pytest.mark.parametrize("seed", range(3))
def test_the_knapsack_finds_the_best_of_all_combinations(sparsity, seed):
    rng, sizes = np.random.default_rng(seed), (9, 12, 7)
    rows = [(n, w, v) for n, s in enumerate(sizes) for w, v in zip(range(s), rng.random(s).cumsum()[::-1], strict=True)]
    measured = pd.DataFrame(rows, columns=["layer", "width", "divergence"]).sample(frac=1, random_state=seed)
    cost = {(n, w): v for n, w, v in rows} | {(n, s): 0.0 for n, s in enumerate(sizes)}
    most = allocation.kept(sum(sizes), sparsity)
    every = [w for w in product(*(range(1, s + 1) for s in sizes)) if sum(w) <= most]
    best = min(every, key=lambda widths: sum(cost[pair] for pair in enumerate(widths)))
    found = knapsack.widths(problem(measured, sizes, sparsity))
    assert sum(found) <= most
    assert sum(cost[pair] for pair in enumerate(found)) == pytest.approx(sum(cost[pair] for pair in enumerate(best)))


@pytest.mark.parametrize("sparsity", [35, 60, 90])
def test_the_knapsack_prices_a_dropped_ffn_as_it_was_measured(sparsity):
    rng, sizes = np.random.default_rng(sparsity), (9, 12, 7)
    rows = [(n, w, v) for n, s in enumerate(sizes) for w, v in zip(range(s), rng.random(s).cumsum()[::-1], strict=True)]
    rows[:9] = [(0, w, 0.01) for w in range(9)]  # without the first FFN the model is hardly another
    measured = pd.DataFrame(rows, columns=["layer", "width", "divergence"])
    cost = {(n, w): v for n, w, v in rows} | {(n, s): 0.0 for n, s in enumerate(sizes)}
    most = allocation.kept(sum(sizes), sparsity)
    every = [own for own in product(*(range(s + 1) for s in sizes)) if sum(own) <= most]
    best = min(sum(cost[pair] for pair in enumerate(own)) for own in every)
    found = knapsack.widths(problem(measured, sizes, sparsity, (0, 0, 0)))
    assert sum(cost[pair] for pair in enumerate(found)) == pytest.approx(best) and found[0] == 0
    # A layer that has no neuron left from an earlier iteration does not make the steps small.
    assert knapsack.widths(problem(measured, (0, 640), 45, (0, 0))).tolist() == [0, 350]  # in tens, of 352


def test_one_narrow_layer_does_not_make_the_knapsack_large():
    """28 layers of 18,944 neurons and one of 7: in steps of the narrow one, a table of 46 GiB a layer."""
    sizes = [18944] * 28 + [7]
    rows = [(n, s * part // 16, float(16 - part)) for n, s in enumerate(sizes) for part in range(16)]
    measured = pd.DataFrame(rows, columns=["layer", "width", "divergence"])
    own = problem(measured, sizes, 40, floor=[1] * 29)
    own = replace(own, original=np.full(29, 18944))
    tracemalloc.start()
    found = knapsack.widths(own)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert 0 <= allocation.kept(29 * 18944, 40) - found.sum() < 18944 // 64 and found[-1] == 7


def test_costs_between_measured_widths_are_interpolated():
    measured = pd.DataFrame({"layer": [0, 0], "width": [4, 1], "divergence": [0.4, 1.0]})
    assert knapsack.cost(measured, 0, 8, np.array([1, 2, 4, 6, 8])).tolist() == pytest.approx([1, 0.8, 0.4, 0.2, 0])


def test_a_floor_holds_where_more_is_asked_than_may_go():
    measured = pd.DataFrame({"layer": [0, 1], "width": [1, 1], "divergence": [1.0, 1.0]})
    assert knapsack.widths(problem(measured, (10, 10), 90, (3, 4))).tolist() == [3, 4]


def test_greedy_widths_are_whole_steps_and_a_part_of_the_next():
    measured = pd.DataFrame({"layer": [1, 0, 1], "width": [6, 5, 2], "divergence": [0.1, 0.2, 0.3]})
    found = {s: greedy_widths.widths(problem(measured, (10, 10), s)).tolist() for s in (10, 20, 30, 45, 60, 95)}
    assert found == {10: [10, 8], 20: [10, 6], 30: [8, 6], 45: [5, 6], 60: [5, 3], 95: [5, 2]}
