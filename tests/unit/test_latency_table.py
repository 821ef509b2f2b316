"""Latency tables: prices by hand, and allocations that keep to a speed against every combination."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pruning.config.methods import Method
from pruning.core.errors import InputError
from pruning.methods import allocation, latency_table
from pruning.methods.allocation import Others, Problem, joint, sensitivity, sensitivity_joint


def table(ffn, groups=(), column="prefill") -> pd.DataFrame:
    """Of (units, seconds) pairs."""
    rows = [("ffn", *pair) for pair in ffn] + [("kv_groups", *pair) for pair in groups]
    return pd.DataFrame(rows, columns=["structure", "units", column])


def problem(scores, sparsity, cuts=None, times=None, **groups) -> Problem:
    """scores: of each layer, or how many neurons it has; one neuron of a layer is safe."""
    scores = [np.arange(float(own)) if np.isscalar(own) else np.array(own) for own in scores]
    ones = np.ones(len(scores), int)
    return Problem(scores, np.array(list(map(len, scores))), sparsity, 1.0 * ones, ones, cuts, times, **groups)


CUT = ["layer", "width", "divergence"]

# prices


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


# allocations


STEPS = [(0, 0.0), (1, 1.0), (3, 1.2), (4, 3.0), (7, 3.3), (8, 6.0), (12, 6.5)]
"""As on a GPU, whose tiles are of four neurons."""


@pytest.mark.parametrize("sparsity", [10, 35, 50, 77])
@pytest.mark.parametrize("seed", range(3))
def test_the_knapsack_finds_the_best_of_all_that_are_as_fast(sparsity, seed):
    rng, sizes = np.random.default_rng(seed), (9, 12, 7)
    rows = [(n, w, v) for n, s in enumerate(sizes) for w, v in zip(range(s), rng.random(s).cumsum()[::-1], strict=True)]
    cost = {(n, w): v for n, w, v in rows} | {(n, s): 0.0 for n, s in enumerate(sizes)}
    own = problem(sizes, sparsity, pd.DataFrame(rows, columns=CUT), table(STEPS))
    times = dict(zip(range(13), np.interp(range(13), *zip(*STEPS, strict=True)), strict=True))
    most = sum(times[allocation.kept(size, sparsity)] for size in sizes)
    every = [w for w in product(*(range(1, s + 1) for s in sizes)) if sum(map(times.get, w)) <= most - 0.02]
    best = min(sum(cost[pair] for pair in enumerate(widths)) for widths in every)
    found = sensitivity.widths(own, per="prefill")
    assert sum(times[width] for width in found) <= most + 1e-9
    # Times are rounded up to a 1024th of the longest: what is only just as fast may be missed, nothing else.
    assert sum(cost[pair] for pair in enumerate(found)) <= best + 1e-9


def test_rounding_of_times_makes_no_model_slower_than_asked():
    """Times of a half, and of one and a half, steps of the resolution."""
    cuts = pd.DataFrame([(n, w, 3.0 - w) for n in range(8) for w in range(3)], columns=CUT)
    own = problem([3] * 8, 60, cuts, table([(0, 0.0), (1, 0.5), (2, 1.4), (3, 1024.0)]))
    assert sensitivity.widths(own, per="prefill").tolist() == [1] * 8


def test_speed_that_is_linear_in_width_is_a_number_of_neurons():
    cuts = pd.DataFrame([(0, 16, 0.1), (0, 1, 9.0), (1, 16, 0.4), (1, 1, 0.45)], columns=CUT)
    own = problem([32, 32], 50, cuts, table([(0, 2.0), (32, 4.0)], column="decode"))
    assert sensitivity.widths(own).tolist() == sensitivity.widths(own, per="decode").tolist() == [31, 1]


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
