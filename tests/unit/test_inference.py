"""Statistics against values worked out by other means: closed forms, published examples, normal approximations."""

import math
import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning import inference

BOOTSTRAP = {"confidence": 0.95, "resamples": 4000, "seed": 0}
Z = NormalDist().inv_cdf(0.975)
outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50)


# Newcombe (1998), "Two-sided confidence intervals for the single proportion", Table I, method 3.
@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_the_published_interval(correct, n, low, high):
    assert inference.wilson(correct, n, 0.95) == pytest.approx((low, high), abs=5e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.99]))
def test_wilson_is_the_closed_form_and_stays_within_0_and_1(counts, confidence):
    correct, n = counts
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = inference.wilson(correct, n, confidence)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert 0 <= low <= p <= high <= 1


def test_wilson_ends_exactly_at_0_and_1():
    assert inference.wilson(0, 25, 0.8)[0] == 0  # statsmodels: 7e-18
    assert all(inference.wilson(n, n, 0.95)[1] == 1 for n in range(1, 200))


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_accuracy(correct, n):
    with pytest.raises(ValueError, match="is not an accuracy"):
        inference.wilson(correct, n, 0.95)


def test_mcnemar_is_the_binomial_tail():
    a = [1] * 7 + [0] * 1 + [1] * 5 + [0] * 3
    b = [0] * 7 + [1] * 1 + [1] * 5 + [0] * 3
    tail = sum(math.comb(8, k) for k in (0, 1)) / 2**8
    assert inference.mcnemar_exact(a, b) == (8, pytest.approx(2 * tail))
    assert 2 * tail == 0.0703125


@settings(deadline=None, max_examples=50)
@given(outcomes)
def test_mcnemar_is_symmetric_and_ignores_concordant_items(pairs):
    a, b = np.array(pairs, dtype=int).T
    discordant, p = inference.mcnemar_exact(a, b)
    assert inference.mcnemar_exact(b, a) == (discordant, p)
    assert discordant == sum(x != y for x, y in pairs)
    padded = inference.mcnemar_exact(np.append(a, [0, 1]), np.append(b, [0, 1]))
    assert padded == (discordant, pytest.approx(p))
    assert 0 < p <= 1


def test_mcnemar_of_equal_outcomes_is_no_evidence():
    assert inference.mcnemar_exact([1, 0, 1], [1, 0, 1]) == (0, 1.0)


def test_mcnemar_refuses_other_outcomes():
    with pytest.raises(ValueError, match="0 or 1"):
        inference.mcnemar_exact([0.5, 1], [1, 1])


def test_paired_bootstrap_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(3)
    b = rng.random(800) < 0.4
    a = np.where(rng.random(800) < 0.8, b, rng.random(800) < 0.7)
    difference = a.astype(float) - b
    half = Z * difference.std() / math.sqrt(800)
    delta, low, high = inference.paired_bootstrap(a, b, **BOOTSTRAP)
    assert delta == pytest.approx(difference.mean())
    assert low == pytest.approx(delta - half, abs=0.1 * half)
    assert high == pytest.approx(delta + half, abs=0.1 * half)
    unpaired = Z * math.sqrt((a.var() + b.var()) / 800)
    assert high - low < 0.8 * 2 * unpaired


def test_paired_bootstrap_widens_with_confidence():
    a, b = np.arange(60) % 2, np.arange(60) % 3 == 0
    widths = [np.ptp(inference.paired_bootstrap(a, b, confidence, 2000, 0)[1:]) for confidence in (0.5, 0.8, 0.95)]
    assert widths == sorted(widths)
    assert widths[0] < widths[2]


def test_paired_bootstrap_of_equal_differences_is_a_point():
    assert inference.paired_bootstrap([1, 0, 1], [1, 0, 1], **BOOTSTRAP) == (0, 0, 0)
    assert inference.paired_bootstrap([1, 1, 1], [0, 0, 0], **BOOTSTRAP) == (1, 1, 1)


def test_bootstraps_of_one_item_have_no_interval():
    delta, low, high = inference.paired_bootstrap([1], [0], **BOOTSTRAP)
    assert delta == 1
    assert math.isnan(low)
    assert math.isnan(high)
    assert np.isnan(inference.block_bootstrap_perplexity([5.0], [3], **BOOTSTRAP)).all()
    delta, *rest = inference.paired_perplexity([math.log(8)], [math.log(2)], [1], **BOOTSTRAP)
    assert delta == pytest.approx(6)
    assert np.isnan(rest).all()


def test_bootstraps_repeat_with_the_seed_and_only_with_it():
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    assert inference.paired_bootstrap(a, b, 0.95, 500, 1) == inference.paired_bootstrap(a, b, 0.95, 500, 1)
    assert inference.paired_bootstrap(a, b, 0.95, 500, 1) != inference.paired_bootstrap(a, b, 0.95, 500, 2)


def test_bootstrap_memory_does_not_grow_with_the_resamples():
    a, b = np.zeros(50_000), np.arange(50_000) % 2
    tracemalloc.start()
    inference.paired_bootstrap(a, b, 0.95, 200, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6  # all indices at once are 80 MB


def test_perplexity_weighs_windows_by_their_tokens():
    # 3 tokens of probability 1/2 and 1 of 1/8: the geometric mean of 2, 2, 2, 8
    assert inference.perplexity([3 * math.log(2), math.log(8)], [3, 1]) == pytest.approx(64**0.25)


def test_block_bootstrap_agrees_with_the_delta_method():
    rng = np.random.default_rng(5)
    tokens = rng.integers(50, 150, 400)
    nll = tokens * rng.normal(2.0, 0.4, 400)
    ratio = nll.sum() / tokens.sum()
    error = (nll - ratio * tokens).std() / tokens.mean() / math.sqrt(400)
    low, high = inference.block_bootstrap_perplexity(nll, tokens, **BOOTSTRAP)
    assert math.log(low) == pytest.approx(ratio - Z * error, abs=0.1 * Z * error)
    assert math.log(high) == pytest.approx(ratio + Z * error, abs=0.1 * Z * error)


def test_paired_perplexity_of_a_model_with_itself_is_no_difference():
    nll, tokens = np.linspace(100, 200, 30), np.full(30, 50)
    assert inference.paired_perplexity(nll, nll, tokens, **BOOTSTRAP) == (0, 0, 0, 1)


def test_paired_perplexity_sees_a_small_difference_that_all_windows_share():
    rng = np.random.default_rng(1)
    b = 100 * rng.normal(2.0, 0.5, 40)
    a = b + 100 * rng.normal(0.02, 0.005, 40)
    delta, low, high, p = inference.paired_perplexity(a, b, np.full(40, 100), **BOOTSTRAP)
    assert 0 < low < delta < high
    assert delta == pytest.approx(math.exp(a.mean() / 100) - math.exp(b.mean() / 100))
    assert p == pytest.approx(2 / 4001)  # no resample reaches zero, yet p is not 0
    mirrored = inference.paired_perplexity(b, a, np.full(40, 100), **BOOTSTRAP)
    assert mirrored == pytest.approx((-delta, -high, -low, p), rel=1e-6)


def test_paired_perplexity_p_agrees_with_the_normal_approximation():
    rng = np.random.default_rng(2)
    b = 100 * rng.normal(2.0, 0.1, 200)
    noise = rng.normal(0, 1, 200)
    for wanted in (0.04, 0.3):
        z = NormalDist().inv_cdf(1 - wanted / 2)
        a = b + (noise - noise.mean()) + z * noise.std() / math.sqrt(200)
        p = inference.paired_perplexity(a, b, np.full(200, 100), 0.95, 20_000, 0)[-1]
        assert p == pytest.approx(wanted, rel=0.2)


def test_holm_is_the_worked_example():
    assert inference.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_absent_p_values_out_of_the_family():
    assert inference.holm([0.01, None, 0.04, math.nan, 0.03, 0.005]) == pytest.approx(
        [0.03, math.nan, 0.06, math.nan, 0.06, 0.02], nan_ok=True
    )
    assert np.isnan(inference.holm([None, None])).all()
    assert inference.holm([]).tolist() == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = inference.holm(p_values)
    assert (adjusted >= np.array(p_values) - 1e-12).all()
    assert (adjusted <= np.minimum(1, len(p_values) * np.array(p_values)) + 1e-12).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    assert adjusted.min() == pytest.approx(min(1, len(p_values) * min(p_values)))


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        inference.holm([0.5, 1.5])


@pytest.mark.parametrize("function", [inference.paired_bootstrap, inference.block_bootstrap_perplexity])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0], "equal length"),
        ([[1.0], [2.0]], [[1.0], [2.0]], "equal length"),
        ([], [], "no items"),
        ([1.0, math.nan], [1.0, 1.0], "finite"),
        ([1.0, math.inf], [1.0, 1.0], "finite"),
    ],
)
def test_bad_outcomes_are_refused(function, a, b, message):
    with pytest.raises(ValueError, match=message):
        function(a, b, **BOOTSTRAP)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_bad_confidence_is_refused(confidence):
    calls = [
        lambda: inference.wilson(1, 2, confidence),
        lambda: inference.paired_bootstrap([1, 0], [0, 0], confidence, 100, 0),
        lambda: inference.block_bootstrap_perplexity([1.0, 2.0], [1, 1], confidence, 100, 0),
        lambda: inference.paired_perplexity([1.0, 2.0], [1.0, 1.0], [1, 1], confidence, 100, 0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="confidence must lie"):
            call()


def test_windows_without_tokens_or_beyond_exp_are_refused():
    with pytest.raises(ValueError, match="at least one token"):
        inference.perplexity([1.0, 2.0], [1, 0])
    with pytest.raises(ValueError, match="700 nats"):
        inference.paired_perplexity([1.0, 900.0], [1.0, 1.0], [1, 1], **BOOTSTRAP)
    with pytest.raises(ValueError, match="700 nats"):
        inference.paired_perplexity([1.0, 1.0], [1.0, 900.0], [1, 1], **BOOTSTRAP)
