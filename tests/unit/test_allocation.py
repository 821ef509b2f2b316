"""Allocation: small examples worked by hand, and what holds for every scheme, whatever the scores."""

import importlib
import inspect
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.core.errors import InputError
from pruning.methods import allocation
from pruning.methods.allocation import Others, Problem, finish, floors, kept, masks
from pruning.methods.scoring import NORMALISATIONS

KNAPSACKS = ("sensitivity", "sensitivity_joint")
ALL = sorted(path.stem for path in Path(allocation.__file__).parent.glob("*.py") if path.stem != "__init__")
SCHEMES = [name for name in ALL if "expert_neurons" not in allocation.structures_of(name)]
"""Those that remove FFN neurons; of experts': tests/unit/test_experts.py."""


def scheme(name: str):
    return importlib.import_module(f"pruning.methods.allocation.{name}").widths


def problem(scores, sparsity, importance=None, min_keep=0.0) -> Problem:
    scores = [np.array(layer, dtype=np.float64) for layer in scores]
    sizes = np.array([len(layer) for layer in scores])
    importance = np.ones(len(scores)) if importance is None else np.array(importance)
    return Problem(scores, sizes, sparsity, importance, floors(sizes, min_keep), measured(scores))


def measured(scores) -> pd.DataFrame:
    """Costs of cuts, a sixteenth of every layer after the other: the sum of what leaves."""
    cuts = dict.fromkeys((n, max(1, len(own) * p // 16)) for p in range(15, -1, -1) for n, own in enumerate(scores))
    rows = [(n, width, float(np.sort(scores[n])[: len(scores[n]) - width].sum())) for n, width in cuts]
    return pd.DataFrame(rows, columns=["layer", "width", "divergence"]).assign(structure="ffn")


def units(name: str, p: Problem, round_to: int = 1, **options) -> dict[str, np.ndarray]:
    return allocation.units(p, p.sparsity, {"allocate": name, "options": options, "round_to": round_to})


def widths(name: str, p: Problem, round_to: int = 1, **options) -> list[int]:
    return units(name, p, round_to, **options)["ffn"].tolist()


def keep(name: str, p: Problem) -> list[list[int]]:
    """Neurons kept, a list a layer."""
    return best(p, widths(name, p))


def best(p: Problem, found: list[int]) -> list[list[int]]:
    """So many neurons of each layer."""
    return [np.flatnonzero(k).tolist() for k in masks(p.scores, found)]


# uniform and global

LAYERS_OF_FOUR = [[1, 2, 3, 4], [50, 60, 70, 80], [5, 6, 7, 90]]


@pytest.mark.parametrize(
    ("name", "scores", "sparsity", "min_keep", "kept_neurons"),
    [
        ("uniform", [[4, 1, 3, 2], [10, 40, 20, 30]], 50, 0, [[0, 2], [1, 3]]),
        ("uniform", [[1, 2, 2, 2], [5, 5, 5, 5]], 50, 0, [[1, 2], [0, 1]]),  # ties to the lower index
        ("uniform", [[3, 2, 1], [0, 0, 9, 9]], 90, None, [[], []]),  # layers may be dropped
        ("global", [[4, 1, 3, 2], [10, 40, 20, 30]], 50, 0, [[0], [1, 2, 3]]),
        ("global", [[1, 7, 7], [7, 7, 9]], 50, 0, [[1, 2], [2]]),  # ties to the lower layer, then the lower neuron
        ("global", LAYERS_OF_FOUR, 50, 0.5, [[2, 3], [2, 3], [2, 3]]),
        ("global", LAYERS_OF_FOUR, 50, 0.25, [[3], [0, 1, 2, 3], [3]]),
        ("global", [[1, 2, 3], [4, 5, 6]], 90, 0, [[2], [2]]),  # floors, even where they exceed the total
        ("global", [[1, 2, 3], [4, 5, 6]], 50, None, [[], [0, 1, 2]]),
    ],
)
def test_the_best_neurons_stay(name, scores, sparsity, min_keep, kept_neurons):
    p = problem(scores, sparsity, min_keep=min_keep)
    if any(kept_neurons):
        assert keep(name, p) == kept_neurons
    else:
        with pytest.raises(InputError, match="of all layers no FFN neuron would stay"):
            keep(name, p)


@pytest.mark.parametrize(("sparsity", "width"), [(4, 10), (5, 9), (14, 9), (15, 8), (50, 5), (95, 0), (99, 0)])
def test_removals_are_rounded_half_up(sparsity, width):
    assert kept(10, sparsity) == width


def test_uniform_takes_the_same_share_of_layers_of_different_sizes():
    assert widths("uniform", problem([range(10), range(20), range(3)], 40)) == [6, 12, 2]
    assert widths("uniform", problem([range(3), range(20)], 90, min_keep=None)) == [0, 2]


# cfsp


CFSP = ["cfsp", "cfsp_refill"]


@pytest.mark.parametrize("name", CFSP)
@pytest.mark.parametrize("alpha", [1, 5])
def test_cfsp_is_the_sigmoid_of_the_importance(name, alpha):
    """Mean distances of 1/131.072 apart are sums of 1000 apart over the reference tokens, 0.1 in the sigmoid."""
    distance = np.array([0.5, 0.5 + 2000 / 131072])
    low, high = (1 / (1 + math.exp(-alpha * z)) for z in (-0.1, 0.1))
    found = scheme(name)(problem([range(100)] * 2, 40, distance), alpha=alpha)
    assert found == pytest.approx([120 * low / (low + high), 120 * high / (low + high)])
    assert found[0] < found[1] and widths(name, problem([range(10), range(10)], 30)) == [7, 7]


def released(importance: list[float], sparsity: int, alpha: float) -> list[float]:
    """Keep ratios by the steps of wyxscir/CFSP's lib/prune.py, lines 353-380, one layer after the other."""
    sums = [value * 128 * 1024 for value in importance]
    middle = sum(sums) / len(sums)
    s = [1 / (1 + math.exp(-alpha * (value - middle) / 1e4)) for value in sums]
    mean, keep = sum(s) / len(s), 1 - sparsity / 100
    if max(s) / mean * keep >= 1:
        room = mean / keep - mean  # above the mean, until a layer is whole
        s = [mean + (value - mean) * room / (max(s) - mean) / 1.05 for value in s]
        mean = sum(s) / len(s)
    return [value / mean * keep for value in s]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(1, 99), st.floats(0, 20))
def test_cfsp_is_the_released_rule_step_by_step(importance, sparsity, alpha):
    p = problem([range(1000)] * len(importance), sparsity, importance)
    expected = [1000 * ratio for ratio in released(importance, sparsity, alpha)]
    assert scheme("cfsp")(p, alpha=alpha) == pytest.approx(expected)


@pytest.mark.parametrize("layers", [1, 3])
def test_cfsp_keeps_all_where_nothing_is_removed(layers):
    """Layers that change their inputs alike."""
    assert scheme("cfsp")(problem([range(100)] * layers, 0, [0.5] * layers)) == pytest.approx([100] * layers)


def test_cfsp_nests_but_for_the_jump_where_shrinking_ends():
    """s = 1/4, 3/4: the second layer would be whole up to a third of sparsity; shrunk, it stops short of it."""
    step = math.log(3) * 1e4 / 131072
    at = {
        sparsity: scheme("cfsp")(problem([range(1000)] * 2, sparsity, [0.5 - step, 0.5 + step]))
        for sparsity in range(1, 100)
    }
    assert at[33][1] == pytest.approx(1000 * (0.67 + 0.33 / 1.05))
    assert at[34][1] == pytest.approx(1000 * 0.66 * 3 / 2)
    assert at[34][1] > at[33][1]
    for sparsity in {*range(2, 100)} - {34}:
        assert (at[sparsity] < at[sparsity - 1]).all()


def test_cfsp_refill_gives_the_excess_of_a_full_layer_to_the_others():
    """At 20%, k s = [0.8 s / mean s] is above 1 in the last layer, which stays whole; 140 are left for two layers."""
    distance = np.array([0.1, 0.1, 0.4])
    z = (distance - distance.mean()) * 131072 / 1e4
    s = 1 / (1 + np.exp(-z))
    assert 0.8 * s[2] / s.mean() > 1
    assert scheme("cfsp_refill")(problem([range(100)] * 3, 20, distance)) == pytest.approx([70, 70, 100])


# floors and rounding


@pytest.mark.parametrize(
    ("min_keep", "expected"), [(0, [1, 1, 1]), (0.01, [1, 1, 2]), (0.5, [1, 5, 76]), (1, [1, 10, 151])]
)
def test_floors_are_a_fraction_rounded_up_and_at_least_one(min_keep, expected):
    assert floors(np.array([1, 10, 151]), min_keep).tolist() == expected


@pytest.mark.parametrize(
    ("wishes", "round_to", "expected"),
    [
        ([2.4, 2.5, 3.5], 1, [2, 3, 4]),
        ([-1, 0.2, 11], 1, [1, 1, 9]),  # what floors keep, others give
        ([1, 5.9, 6], 4, [4, 4, 4]),  # 12.9: nearest alone would be 20
        ([5, 5, 5], 4, [8, 4, 4]),  # 15 are nearer to 16 than to 12
        ([7, 7, 7], 4, [8, 8, 4]),  # 21, so one of the layers rounds down
        ([10, 9.9, 8], 4, [10, 10, 8]),  # never above the layer: 12 becomes 10
        ([1, 10, 5], 128, [10, 10, 10]),
        ([0, 0, 0], 4, [4, 4, 4]),
    ],
)
def test_widths_are_whole_and_multiples_within_the_layer(wishes, round_to, expected):
    assert finish(np.array(wishes), problem([range(10)] * 3, 50), round_to).tolist() == expected


@pytest.mark.parametrize(
    ("min_keep", "size", "wishes", "round_to", "expected"),
    [
        (0.25, 20, [0, 6.0], 1, [5, 5]),
        (0.25, 20, [0, 12.0], 1, [5, 7]),
        (0.25, 20, [0, 6.0], 4, [8, 8]),  # the multiple above, since 4 is too few
        (None, 9, [0.4, 1, 5.9], 4, [0, 0, 8]),
    ],
)
def test_widths_respect_the_floor(min_keep, size, wishes, round_to, expected):
    p = problem([range(size)] * len(wishes), 50, min_keep=min_keep)
    assert finish(np.array(wishes), p, round_to).tolist() == expected


# properties

layer = st.lists(st.integers(0, 5).map(float) | st.floats(0, 100, allow_subnormal=False), min_size=2, max_size=20)


@st.composite
def problems(draw):
    """sparsity -> Problem: layers of different sizes, scores with many ties."""
    scores = draw(st.lists(layer, min_size=1, max_size=5))
    importance = draw(st.lists(st.floats(0, 1), min_size=len(scores), max_size=len(scores)))
    p = problem(scores, 50, importance, draw(st.sampled_from([0.0, 0.01, 0.3, 1.0])))
    return lambda sparsity: replace(p, sparsity=sparsity)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("round_to", [1, 4])
@given(problems())
def test_masks_are_nested_and_widths_shrink_within_bounds(name, round_to, at):
    """Nested but for multiples, which keep to a total, for cfsp, whose widths jump once
    (test_cfsp_nests_but_for_the_jump_where_shrinking_ends), and for sensitivity, whose best widths may be others at
    every sparsity."""
    earlier = None
    for sparsity in range(1, 100, 7):
        p = at(sparsity)
        found = widths(name, p, round_to)
        assert all(f <= w <= n for w, f, n in zip(found, p.floor, p.sizes, strict=True))
        now = [set(k) for k in best(p, found)]
        assert [len(k) for k in now] == found
        if earlier is not None and round_to == 1 and name not in ("cfsp", *KNAPSACKS):
            assert all(new <= old for new, old in zip(now, earlier, strict=True))
        earlier = now


@pytest.mark.parametrize("name", [name for name in SCHEMES if name not in ("cfsp", *KNAPSACKS)])
@given(st.lists(layer, min_size=1, max_size=4))
def test_masks_nest_down_to_nothing_where_layers_may_be_dropped(name, scores):
    cuts = [(n, width, 0.0) for n, own in enumerate(scores) for width in allocation.levels(len(own), 0)]
    costs, at = pd.DataFrame(cuts, columns=["layer", "width", "divergence"]), []
    for sparsity in (1, 30, 60, 90, 99):
        own = replace(problem(scores, sparsity, min_keep=None), measured=costs)
        at.append(np.array(widths(name, own)))
        assert abs(at[-1].sum() - kept(own.sizes.sum(), sparsity)) <= (len(scores) + 1) / 2
    assert all((later <= earlier).all() for earlier, later in zip(at, at[1:], strict=False))


@st.composite
def further(draw):
    """Problems with groups, of layers that an earlier iteration may have narrowed."""
    original = np.array(draw(st.lists(st.integers(40, 200), min_size=1, max_size=5)))
    cut = draw(st.lists(st.integers(0, 39), min_size=len(original), max_size=len(original)))
    sizes = original - np.array(cut) * draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    p = problem([rng.random(size) for size in sizes], draw(st.integers(1, 99)), rng.random(len(sizes)))
    groups = [rng.random(2) for _ in sizes]
    costs = [(n, count, float(own.sum()) * (2 - count)) for n, own in enumerate(groups) for count in (1, 0)]
    rows = pd.DataFrame(costs, columns=["layer", "width", "divergence"]).assign(structure="kv_groups")
    floor = allocation.least(original, sizes, draw(st.sampled_from([None, 0.01, 0.3])))
    measures = pd.concat([p.measured, rows], ignore_index=True)
    return replace(p, original=original, floor=floor, measured=measures, others={"kv_groups": Others(groups, 5.5)})


@pytest.mark.parametrize("name", SCHEMES)
@given(further(), st.sampled_from([1, 4, 32, 64]))
def test_the_asked_sparsity_is_achieved_to_a_step(name, p, round_to):
    """Half a neuron a layer, half a multiple, a step of the knapsacks and a group (at most one layer's for these), of
    what floors and sizes permit; groups count as neurons."""
    own = "joint" in name
    p = p if own else replace(p, others={}, measured=p.measured[p.measured["structure"] == "ffn"])
    kept_units = units(name, p, round_to)
    found = kept_units["ffn"]
    lowest = np.minimum(np.ceil(p.floor / round_to) * round_to, p.sizes)
    of_groups = 5.5 * len(p.sizes) * own
    most_gone = p.original.sum() - lowest.sum() + of_groups
    gone = np.clip(p.original.sum() * p.sparsity / 100, p.original.sum() - p.sizes.sum(), most_gone)
    step = max(p.sizes) // 64 if name in KNAPSACKS else 0
    slack = 0.5 * len(p.sizes) + 0.5 * (round_to > 1) * round_to + step + 5.5 * own
    assert abs(allocation.achieved(p, kept_units) * p.original.sum() - gone) <= slack
    assert (found[(found % round_to > 0)] == p.sizes[found % round_to > 0]).all()


def test_floors_that_round_up_are_made_up_for_by_other_layers():
    """30 layers of 1,536 by measured costs, 90% asked: floors of 16 become 128, and the others give that."""
    scores = [np.arange(1536.0) + 10 * 1.5**layer for layer in range(30)]
    p = problem(scores, 90, min_keep=0.01)
    assert allocation.achieved(p, units("sensitivity", p, 128)) == pytest.approx(0.9, abs=64 / 46080)


def test_groups_removed_before_are_part_of_the_sparsity():
    """Of 20 neurons' worth 4 went as groups: 50% is 6 neurons more."""
    p = replace(problem([range(10), range(10)], 50), removed=4.0)
    for name in ("uniform", "global", "greedy", "sensitivity"):
        found = units(name, p)
        assert found["ffn"].sum() == 14 and allocation.achieved(p, found) == 0.5
        assert widths(name, replace(p, sparsity=15)) == [10, 10]


@given(problems(), st.integers(1, 99))
def test_global_keeps_exactly_the_asked_number_where_the_floors_allow(at, sparsity):
    p = at(sparsity)
    assert sum(widths("global", p)) == max(kept(int(p.sizes.sum()), sparsity), p.floor.sum())


@given(problems(), st.integers(1, 99))
def test_global_removes_nobody_better_than_a_kept_one(at, sparsity):
    """Apart from neurons that a floor keeps."""
    p = at(sparsity)
    kept_of = [set(k) for k in keep("global", p)]
    free = [
        score
        for layer, (scores, floor) in enumerate(zip(p.scores, p.floor, strict=True))
        for neuron, score in enumerate(scores)
        if neuron in kept_of[layer] and sorted(scores)[-floor] > score
    ]
    removed = [s for k, scores in zip(kept_of, p.scores, strict=True) for c, s in enumerate(scores) if c not in k]
    assert not free or not removed or max(removed) <= min(free)


@pytest.mark.parametrize("name", CFSP)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(1, 99), st.floats(0, 20), st.sampled_from([64, 1000])
)
def test_cfsp_keeps_the_asked_share_and_no_layer_more_than_it_has(name, importance, sparsity, alpha, size):
    p = problem([range(size)] * len(importance), sparsity, importance)
    wished = scheme(name)(p, alpha=alpha)
    assert wished.sum() == pytest.approx((1 - sparsity / 100) * size * len(importance))
    assert (wished <= size * (1 + 1e-12)).all()
    whole = widths(name, p, alpha=alpha)
    raised = sum(1 - w for w in wished if w < 0.5)  # to the floor of one neuron
    assert abs(sum(whole) - wished.sum()) <= 0.5 * len(importance) + raised


@given(problems(), st.integers(1, 99), st.integers(0, 3))
def test_shuffling_scores_within_layers_keeps_the_global_widths(at, sparsity, seed):
    p = at(sparsity)
    rng = np.random.default_rng(seed)
    shuffled = replace(p, scores=[rng.permutation(s) for s in p.scores])
    assert widths("global", shuffled) == widths("global", p)


@pytest.mark.parametrize("name", ALL)
def test_options_of_schemes_have_defaults(name):
    _, *options = inspect.signature(scheme(name)).parameters.values()
    assert all(option.default is not inspect.Parameter.empty for option in options)


def test_normalisation_changes_masks_under_global_allocation_alone():
    """AGF and RKU: the same masks where every layer is cut alike."""
    rng = np.random.default_rng(0)
    utilities = [rng.random(48) * scale for scale in (1, 5, 0.2)]
    both = [[NORMALISATIONS[name](own) for own in utilities] for name in ("none", "layer_sum")]
    for sparsity in range(1, 100):
        agf, rku = (keep("uniform", problem(scores, sparsity)) for scores in both)
        assert agf == rku
    agf, rku = (keep("global", problem(scores, 50, min_keep=0.01)) for scores in both)
    assert agf != rku and sum(map(len, agf)) == sum(map(len, rku)) == 72


def test_a_ranking_keeps_the_multiple_above_the_floor_safe():
    """Of a floor of five, eight; so the others compete for 16, of which ten and six are among the best."""
    scores = [[50] * 6 + [0] * 10, [60] * 10 + [20] + [0] * 5, [60] * 6 + [20] + [0] * 9]
    p = replace(problem(scores, 50), floor=np.array([5, 1, 1]))
    assert widths("global", p) == [6, 11, 7]
    assert widths("global", p, 4) == [8, 12, 4]


@pytest.mark.parametrize("name", SCHEMES)
def test_a_further_round_counts_against_the_original(name):
    """Of 10 and 10 neurons 7 and 9 are left: half of 20 is 10; 20% leaves them as they are."""
    p = problem([range(7), range(9)], 50, importance=[0.1, 0.1])
    further = replace(p, original=np.array([10, 10]))
    assert sum(widths(name, further)) == 10
    assert widths(name, replace(further, sparsity=10)) == [7, 9]
    assert sum(widths(name, replace(further, sparsity=20))) == 16  # uniform: 7 and 9, as 8 and 8 are not there
    if name in ("uniform", "cfsp", "cfsp_refill"):
        assert widths(name, further) == [5, 5]
