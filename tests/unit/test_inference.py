"""Statistics against values worked out by other means: closed forms, published examples, normal approximations."""

import math
import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pruning.core import significance

BOOTSTRAP = {"confidence": 0.95, "resamples": 4000, "seed": 0}
outcomes = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50)


# Newcombe (1998), "Two-sided confidence intervals for the single proportion", Table I, method 3.
@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_the_published_interval(correct, n, low, high):
    assert significance.wilson(correct, n, 0.95) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.99]))
def test_wilson_is_the_closed_form_and_stays_within_0_and_1(counts, confidence):
    correct, n = counts
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = significance.wilson(correct, n, confidence)
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert 0 <= low <= p <= high <= 1
    assert significance.wilson(0, n, confidence)[0] == 0 and significance.wilson(n, n, confidence)[1] == 1  # exactly


@given(outcomes)
def test_mcnemar_is_the_binomial_test_of_the_discordant_items(pairs):
    a, b = np.array(pairs, dtype=int).T
    discordant, p = significance.mcnemar_exact(a, b)
    assert discordant == sum(x != y for x, y in pairs)
    expected = stats.binomtest(int((a > b).sum()), discordant).pvalue if discordant else 1  # no evidence
    assert p == pytest.approx(expected) and significance.mcnemar_exact(b, a) == (discordant, p)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_paired_bootstrap_agrees_with_the_normal_approximation(confidence):
    rng, z = np.random.default_rng(3), NormalDist().inv_cdf((1 + confidence) / 2)
    b = rng.random(800) < 0.4
    a = np.where(rng.random(800) < 0.8, b, rng.random(800) < 0.7)
    difference = a.astype(float) - b
    half = z * difference.std() / math.sqrt(800)
    delta, low, high = significance.paired_bootstrap(a, b, **{**BOOTSTRAP, "confidence": confidence})
    assert delta == pytest.approx(difference.mean())
    assert (low, high) == pytest.approx((delta - half, delta + half), abs=0.1 * half)
    assert high - low < 0.8 * 2 * z * math.sqrt((a.var() + b.var()) / 800)  # of unpaired outcomes


def test_equal_differences_have_a_point_for_an_interval_and_one_item_or_window_has_none():
    assert significance.paired_bootstrap([1, 1, 1], [0, 0, 0], **BOOTSTRAP) == (1, 1, 1)
    assert significance.paired_bootstrap([1], [0], **BOOTSTRAP) == pytest.approx((1, math.nan, math.nan), nan_ok=True)
    assert significance.perplexity([5.0], [5], 0.95) == pytest.approx((math.e, math.nan, math.nan), nan_ok=True)
    found = significance.paired_perplexity([math.log(8)], [math.log(2)], [1], 0.95)
    assert found == pytest.approx((6, *[math.nan] * 3), nan_ok=True)


def test_the_bootstrap_repeats_with_the_seed_and_only_with_it():
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    first, again, other = (significance.paired_bootstrap(a, b, 0.95, 500, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_bootstrap_memory_does_not_grow_with_the_resamples():
    a, b = np.zeros(50_000), np.arange(50_000) % 2
    tracemalloc.start()
    significance.paired_bootstrap(a, b, 0.95, 200, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6  # all indices at once are 80 MB


def test_perplexity_weighs_windows_by_their_tokens():
    # 3 tokens of probability 1/2 and 1 of 1/8: the geometric mean of 2, 2, 2, 8
    assert significance.perplexity([3 * math.log(2), math.log(8)], [3, 1], 0.95)[0] == pytest.approx(64**0.25)
    assert significance.perplexity([2000.0, 2000.0], [1000, 1000], 0.95)[0] == pytest.approx(math.exp(2))


def block_means(values, blocks) -> np.ndarray:
    return values.reshape(blocks, -1).mean(1)


@pytest.mark.parametrize(("windows", "blocks"), [(2, 2), (8, 2), (40, 8), (80, 16), (160, 16)])
def test_perplexities_are_compared_by_a_t_test_over_blocks_of_neighbours(windows, blocks):
    """scipy's t-test of the blocks' means: five windows a block at least, two blocks at least, sixteen at most."""
    rng = np.random.default_rng(windows)
    b = 100 * rng.normal(2.0, 0.5, windows)
    a = b + 100 * rng.normal(0.02, 0.05, windows)
    delta, low, high, p = significance.paired_perplexity(a, b, np.full(windows, 100), 0.9)
    expected = stats.ttest_rel(block_means(a / 100, blocks), block_means(b / 100, blocks))
    ratio = expected.confidence_interval(0.9)
    reference = math.exp(b.mean() / 100)
    assert p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (low, high) == pytest.approx((reference * np.expm1(ratio.low), reference * np.expm1(ratio.high)), rel=1e-6)
    assert delta == pytest.approx(math.exp(a.mean() / 100) - reference)
    single = stats.ttest_1samp(block_means(a / 100, blocks), 0).confidence_interval(0.9)
    found = significance.perplexity(a, np.full(windows, 100), 0.9)
    assert found[1:] == pytest.approx((math.exp(single.low), math.exp(single.high)), rel=1e-6)


@pytest.mark.parametrize(("windows", "blocks"), [(2, 2), (40, 8)])
def test_windows_of_unlike_lengths_weigh_as_their_tokens(windows, blocks):
    """The ratio of two sums over blocks, with the variance of its linearisation."""
    rng = np.random.default_rng(windows)
    tokens = rng.integers(20, 200, windows)
    difference = tokens * rng.normal(0.1, 0.3, windows)
    delta, low, high, p = significance.paired_means(difference + 1, np.ones(windows), tokens, 0.9)
    mean = difference.sum() / tokens.sum()
    apart = (difference - mean * tokens).reshape(blocks, -1).sum(1)
    error = math.sqrt(np.square(apart).sum() * blocks / (blocks - 1)) / tokens.sum()
    student = stats.t(blocks - 1)
    expected = (mean, mean - student.ppf(0.95) * error, mean + student.ppf(0.95) * error)
    assert (delta, low, high) == pytest.approx(expected) and p == pytest.approx(2 * student.sf(abs(mean) / error))


def test_divergences_are_compared_by_the_same_test_in_nats():
    rng = np.random.default_rng(0)
    a, b = 100 * rng.gamma(2, 0.05, (2, 80))
    delta, low, high, p = significance.paired_means(a, b, np.full(80, 100), 0.9)
    expected = stats.ttest_rel(block_means(a / 100, 16), block_means(b / 100, 16))
    assert (delta, p) == pytest.approx(((a - b).mean() / 100, expected.pvalue), rel=1e-6)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval(0.9)), rel=1e-6)
    single = stats.ttest_1samp(block_means(a / 100, 16), 0).confidence_interval(0.9)
    assert significance.divergence(a, np.full(80, 100), 0.9) == pytest.approx((a.mean() / 100, *single), rel=1e-6)
    assert [significance.divergence(*own, 0.9)[0] for own in (([3.0, 1.0], [3, 1]), ([9.0, 1.0], [4, 1]))] == [1, 2]
    _, low, high = significance.divergence([0.0] * 20 + [1.0] + [0.0] * 19, [1] * 40, 0.99)
    assert low == 0 < high  # no divergence is below 0
    assert significance.divergence(np.zeros(40), np.ones(40), 0.95) == (0, 0, 0)  # the dense model's own


def test_the_interval_of_a_perplexity_agrees_with_the_delta_method():
    """Windows of unequal length, none like its neighbour: a ratio of sums, whose error is known."""
    rng = np.random.default_rng(5)
    halves = []
    for _ in range(200):
        tokens = rng.integers(50, 150, 160)
        nll = tokens * rng.normal(2.0, 0.4, 160)
        value, low, high = significance.perplexity(nll, tokens, 0.95)
        assert low < value < high
        halves.append(math.log(high / low) / 2)
    ratio = nll.sum() / tokens.sum()
    error = (nll - ratio * tokens).std() / tokens.mean() / math.sqrt(160)
    assert np.sqrt(np.mean(np.square(halves))) == pytest.approx(stats.t(15).ppf(0.975) * error, rel=0.1)


def test_paired_perplexity_of_windows_that_all_differ_alike():
    nll, tokens = np.linspace(100, 200, 30), np.full(30, 50)
    assert significance.paired_perplexity(nll, nll, tokens, 0.95) == (0, 0, 0, 1)
    shift = math.exp(3) * math.expm1(0.02)
    assert significance.paired_perplexity(nll + 1, nll, tokens, 0.95) == pytest.approx((*[shift] * 3, 0), abs=1e-6)


@pytest.mark.parametrize("wanted", [0.04, 0.0499, 0.0501, 0.3])
def test_the_interval_excludes_zero_where_p_is_below_the_level(wanted):
    noise, tokens = np.random.default_rng(2).normal(0, 1, 40), np.full(40, 100)
    means = block_means(noise - noise.mean(), 8)
    a = 200 + noise - noise.mean() + stats.t(7).isf(wanted / 2) * means.std(ddof=1) / math.sqrt(8)
    _, low, high, p = significance.paired_perplexity(a, np.full(40, 200.0), tokens, 0.95)
    assert p == pytest.approx(wanted)
    assert (low > 0) == (wanted < 0.05) and high > 0


def autoregressive(rng, windows, correlation):
    shocks = rng.standard_normal(windows)
    series = shocks[:1].tolist()
    for shock in shocks[1:]:
        series.append(correlation * series[-1] + math.sqrt(1 - correlation**2) * shock)
    return np.array(series)


@pytest.mark.parametrize(
    ("windows", "correlation", "at_most"),
    [(12, 0.0, 0.065), (12, 0.3, 0.065), (40, 0.0, 0.065), (40, 0.3, 0.075), (100, 0.3, 0.075), (40, 0.5, 0.1)],
)
def test_type_1_error_of_the_perplexity_test_where_windows_resemble_their_neighbours(windows, correlation, at_most):
    """Nominal 0.05. A paired t-test over windows has 0.15 at a correlation of 0.3, Newey-West at 40 windows 0.11, the
    percentile bootstrap at 12 windows 0.21."""
    rng, tokens, b = np.random.default_rng(0), np.full(windows, 100), np.full(windows, 200.0)
    made = (200 + autoregressive(rng, windows, correlation) for _ in range(4000))
    tests = [significance.paired_perplexity(a, b, tokens, 0.95) for a in made]
    rejected = np.mean([p < 0.05 for *_, p in tests])
    assert 0.03 < rejected < at_most


def test_design_effect_and_p_of_clusters_by_hand():
    """Differences 1, 1 | 1, 0 | -1, 0 | 1, 1 | 0, 0, in five clusters of two: sums 2, 1, -1, 2, 0, mean 0.4."""
    difference = np.array([1, 1, 1, 0, -1, 0, 1, 1, 0, 0])
    a, b = (difference > 0).astype(float), (difference < 0).astype(float)
    clustered = sum((total - 0.8) ** 2 for total in (2, 1, -1, 2, 0)) / 100 * 5 / 4
    independent = sum((d - 0.4) ** 2 for d in difference) / 9 / 10
    effect, p = significance.cluster_robust(a, b, list("aabbccddee"))
    assert effect == pytest.approx(clustered / independent) == pytest.approx(0.085 / (4.4 / 90))
    assert p == pytest.approx(2 * stats.t(4).sf(0.4 / math.sqrt(clustered)))
    shuffled = np.random.default_rng(0).permutation(10)
    again = significance.cluster_robust(a[shuffled], b[shuffled], np.array(list("aabbccddee"))[shuffled])
    assert again == pytest.approx((effect, p))


def test_items_each_in_a_cluster_of_its_own_are_a_paired_t_test():
    rng = np.random.default_rng(4)
    a, b = rng.random(30) < 0.6, rng.random(30) < 0.4
    effect, p = significance.cluster_robust(a, b, range(30))
    assert (effect, p) == pytest.approx((1, stats.ttest_rel(a.astype(float), b.astype(float)).pvalue))


def test_clusters_that_say_nothing():
    assert np.isnan(significance.cluster_robust([1, 1, 0], [0, 0, 1], ["a"] * 3)).all()
    effect, p = significance.cluster_robust([1, 0, 1, 0], [1, 0, 1, 0], [4, 4, 6, 6])
    assert math.isnan(effect) and p == 1
    _, p = significance.cluster_robust([1, 0, 1, 0], [0, 1, 0, 1], [4, 4, 6, 6])
    assert p == 1  # no cluster differs on the whole
    _, p = significance.cluster_robust([0.1, 0.2, -0.3, 0.1, 0.2, -0.3], [0] * 6, [4, 4, 4, 6, 6, 6])
    assert p == 1  # but for rounding
    for clusters in ([1, 2], [1, None, 2]):
        with pytest.raises(ValueError, match="a cluster for each of the 3 items"):
            significance.cluster_robust([1, 1, 0], [0, 0, 1], clusters)


@pytest.mark.parametrize(("clusters", "items"), [(22, 18), (6, 50)])
def test_type_1_error_where_stories_share_templates(clusters, items):
    """Two methods, each better on some templates, none on the whole: tests of what holds for other templates too."""
    rng, found = np.random.default_rng(0), []
    labels = np.repeat(np.arange(clusters), items)
    for _ in range(1000):
        lead = rng.normal(0, 0.1, (clusters, 1))
        draw = rng.random((clusters, items))
        a = (draw < np.clip(0.15 + lead, 0, 0.45)).ravel().astype(int)
        b = (draw > 1 - np.clip(0.15 - lead, 0, 0.45)).ravel().astype(int)
        found.append((significance.cluster_robust(a, b, labels)[1], significance.mcnemar_exact(a, b)[1]))
    robust, exact = np.mean(np.array(found) < 0.05, axis=0)
    assert 0.035 < robust < 0.075
    assert exact > 0.2  # as if each template were another draw of the same coin


def test_holm_is_the_worked_example_and_leaves_absent_p_values_out_of_the_family():
    found = significance.holm([0.01, None, 0.04, math.nan, 0.03, 0.005])
    assert found == pytest.approx([0.03, math.nan, 0.06, math.nan, 0.06, 0.02], nan_ok=True)
    assert np.isnan(significance.holm([None, None])).all()
    assert significance.holm([]).tolist() == []


def test_p_values_have_three_decimals_and_the_least_are_below_a_thousandth():
    found = [significance.shown(p) for p in (0.0009996, 0.001, 0.05, 1, math.nan)]
    assert found == ["< 0.001", "0.001", "0.050", "1.000", "–"]


def test_holm_is_statsmodels_to_the_last_bit():
    for size, most in ((1, 1), (2, 0.5), (40, 1 / 40), (40, 1)):  # of the last, most are above 1 before they are cut
        p_values = np.random.default_rng(size).uniform(0, most, size).round(3).tolist()  # with ties
        assert significance.holm(p_values).tolist() == multipletests(p_values, method="holm")[1].tolist()


PAIRED = [
    lambda a, b: significance.paired_bootstrap(a, b, **BOOTSTRAP),
    lambda a, b: significance.perplexity(a, b, 0.95),
    lambda a, b: significance.cluster_robust(a, b, range(len(a))),
]
BAD = [
    ([1.0, 2.0], [1.0], "equal length"),
    ([[1.0], [2.0]], [[1.0], [2.0]], "equal length"),
    ([], [], "no items"),
    ([1.0, math.nan], [1.0, 1.0], "finite"),
    ([1.0, math.inf], [1.0, 1.0], "finite"),
]
REFUSALS = [
    *[(significance.wilson, (*counts, 0.95), "is not an accuracy") for counts in ((0, 0), (-1, 5), (6, 5))],
    (significance.mcnemar_exact, ([0.5, 1], [1, 1]), "0 or 1"),
    (significance.holm, ([0.5, 1.5],), r"outside \[0, 1\]"),
    *[(function, (a, b), message) for function in PAIRED for a, b, message in BAD],
    (significance.perplexity, ([1.0, 2.0], [1, 0], 0.95), "at least one token"),
    (significance.paired_perplexity, ([1.0, 900.0], [1.0, 1.0], [1, 1], 0.95), "700 nats"),
    (significance.paired_perplexity, ([1.0, 1.0], [1.0, 900.0], [1, 1], 0.95), "700 nats"),
]
for level in (0, 1, 95):
    REFUSALS += [
        (significance.wilson, (1, 2, level), "confidence must lie"),
        (significance.paired_bootstrap, ([1, 0], [0, 0], level, 100, 0), "confidence must lie"),
        (significance.perplexity, ([1.0, 2.0], [1, 1], level), "confidence must lie"),
        (significance.paired_perplexity, ([1.0, 2.0], [1.0, 1.0], [1, 1], level), "confidence must lie"),
    ]


@pytest.mark.parametrize(("function", "given", "message"), REFUSALS)
def test_what_is_no_outcome_count_or_level_is_refused(function, given, message):
    with pytest.raises(ValueError, match=message):
        function(*given)
