"""Collapse points: known curves are found again, the fit is the best there is, the interval is what chance makes."""

import collapse as collapse_stage
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from pruning import artifacts
from pruning.collapse import accuracy, collapse, fit
from pruning.errors import InputError
from pruning.inference import wilson

SPARSITIES = np.arange(1, 10) / 10
METRIC = "exact_match,strict-match"


@pytest.mark.parametrize(("s0", "width", "dense", "chance"), [(0.37, 0.05, 0.8, 0.0), (0.55, 0.12, 0.9, 0.2)])
def test_a_known_curve_is_found_again(s0, width, dense, chance):
    assert accuracy(s0, s0, width, dense, chance) == pytest.approx((dense + chance) / 2)
    correct = 1000 * accuracy(SPARSITIES, s0, width, dense, chance)
    assert fit(SPARSITIES, correct, 1000, dense, chance) == pytest.approx((s0, width), rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_optimiser_finds_a_better_curve(seed):
    """Noisy counts, likelihood by scipy.stats, minimised globally."""
    rng = np.random.default_rng(seed)
    correct = rng.binomial(200, accuracy(SPARSITIES, rng.uniform(0.2, 0.7), 0.06, 0.7, 0.2))

    def loss(theta):
        s0, steepness = theta
        return -stats.binom.logpmf(correct, 200, accuracy(SPARSITIES, s0, s0 / steepness, 0.7, 0.2)).sum()

    best = optimize.differential_evolution(loss, [(0.005, 1.2), (3, 50)], rng=0, tol=1e-10)
    s0, width = fit(SPARSITIES, correct, 200, 0.7, 0.2)
    assert loss((s0, s0 / width)) == pytest.approx(best.fun, abs=1e-5)
    assert s0 == pytest.approx(best.x[0], abs=1e-3)


def simulate(rng, items, s0=0.4, width=0.05, dense=0.8):
    """Outcomes in which each item has its own level of difficulty: paired, as real ones are."""
    level = rng.random(items)
    return (level < accuracy(SPARSITIES, s0, width, dense, 0.0)[:, None]).astype(float), (level < dense).astype(float)


def test_the_interval_is_as_wide_as_repeated_studies_scatter():
    rng = np.random.default_rng(1)
    points = [collapse(*simulate(rng, 300), SPARSITIES, 0.0, 0.9, 1, 0).point for _ in range(150)]
    widths = []
    for _ in range(5):
        found = collapse(*simulate(rng, 300), SPARSITIES, 0.0, 0.9, 200, 0)
        assert found.low < found.point < found.high
        widths.append(found.high - found.low)
    assert np.mean(widths) == pytest.approx(2 * stats.norm.ppf(0.95) * np.std(points), rel=0.25)
    assert np.mean(points) == pytest.approx(0.4, abs=0.005)


def test_the_same_seed_gives_the_same_interval():
    outcomes = simulate(np.random.default_rng(0), 100)
    first, again, other = (collapse(*outcomes, SPARSITIES, 0.0, 0.95, 50, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_not_reached_is_censored():
    dense = np.array([1.0] * 80 + [0.0] * 20)
    found = collapse([dense] * 3, dense, [0.3, 0.4, 0.5], 0.0, 0.95, 20, 0)
    assert found.censored and np.isnan([found.point, found.high, found.width]).all()
    assert found.low == 0.5
    # At the last sparsity just above halfway: the interval begins within what was measured.
    almost = [dense * (np.arange(100) < last) for last in (78, 64, 42)]
    found = collapse(almost, dense, [0.3, 0.4, 0.5], 0.0, 0.95, 100, 0)
    assert found.censored and 0.45 < found.low < 0.5 and np.isnan(found.high)


def test_a_fall_between_two_sparsities_is_known_no_better_than_that():
    dense = np.array([1.0] * 80 + [0.0] * 20)
    found = collapse([dense, dense, 0 * dense], dense, [0.2, 0.4, 0.6], 0.0, 0.95, 20, 0)
    assert (found.point, found.low, found.high) == (pytest.approx(0.5), 0.4, 0.6)
    found = collapse([0 * dense] * 2, dense, [0.2, 0.4], 0.0, 0.95, 20, 0)
    assert (found.point, found.low, found.high) == (pytest.approx(0.1), 0, 0.2)


def test_a_dense_model_at_chance_has_no_collapse_point():
    found = collapse(np.eye(4)[:2], np.eye(4)[0], [0.2, 0.4], 0.25, 0.95, 10, 0)
    assert np.isnan([found.point, found.low, found.high]).all() and not found.censored


def test_bad_input():
    ones = np.ones((2, 5))
    for sparsities in ([0.4], [0.4, 0.2], [0.0, 0.2], [30, 40]):
        with pytest.raises(ValueError, match="sparsities"):
            fit(sparsities, [1] * len(sparsities), 5, 0.8, 0.0)
    for correct, n in (([1, 6], 5), ([-1, 2], 5), ([1], 5), ([0, 0], 0)):
        with pytest.raises(ValueError, match="counts between 0 and n"):
            fit([0.2, 0.4], correct, n, 0.8, 0.0)
    with pytest.raises(ValueError, match="nothing to collapse from"):
        fit([0.2, 0.4], [1, 1], 5, 0.2, 0.25)
    with pytest.raises(ValueError, match="0 or 1"):
        collapse(0.5 * ones, ones[0], [0.2, 0.4], 0.0, 0.95, 10, 0)
    with pytest.raises(ValueError, match="sparsities x items"):
        collapse(ones, ones[0, 1:], [0.2, 0.4], 0.0, 0.95, 10, 0)
    for arguments in ((0.0, 1.0, 10), (0.0, 0.95, 0), (1.0, 0.95, 10)):
        with pytest.raises(ValueError, match="out of range"):
            collapse(ones, ones[0], [0.2, 0.4], *arguments, 0)


# The stage ----------------------------------------------------------------------------------------------------------

SETTINGS = {
    "models": {"tiny": {"calibrations": ["gsm8k-s0"]}},
    "methods": ["rku", "wanda"],
    "sparsities": [60, 20, 40],
    "task": "gsm8k",
    "metric": METRIC,
    "title": "GSM8K",
    "chance": 0.0,
    "confidence": 0.95,
    "resamples": 30,
    "seed": 0,
}
RIGHT = {"dense": 40, "rku/20": 40, "rku/40": 30, "rku/60": 5, "wanda/20": 10, "wanda/40": 2, "wanda/60": 0}


def samples(right, items=50):
    frame = pd.DataFrame({"item": range(items), "item_hash": [f"{i:x}" for i in range(items)], "metric": METRIC})
    frame = frame.assign(value=(frame["item"] < right).astype(float), weight=1)
    other = frame.assign(metric="exact_match,flexible-extract", value=0.5)
    return pd.concat([frame, other])


@pytest.fixture
def results(tmp_path):
    for variant, right in RIGHT.items():
        folder = tmp_path / "tiny/eval" / (variant if variant == "dense" else f"gsm8k-s0/{variant}")
        artifacts.write_parquet(folder / "gsm8k.samples.parquet", samples(right), "samples", {})
    return tmp_path


def run(results, **changes):
    outputs = [results / name for name in ("collapse.csv", "accuracy.csv", "collapse.md", "collapse.tex")]
    collapse_stage.collapse({**SETTINGS, **changes}, *outputs, results)
    return tuple(map(pd.read_csv, outputs[:2]))


def test_the_stage_reads_the_samples_of_every_sparsity(results):
    points, accuracies = run(results)
    assert ",".join(points.columns) == (
        "model,calib,method,task,metric,n,dense,chance,collapse,ci_low,ci_high,width,censored"
    )
    assert points["method"].tolist() == ["rku", "wanda"] and (points["n"] == 50).all()
    s0, width = fit([0.2, 0.4, 0.6], [40, 30, 5], 50, 0.8, 0.0)
    assert points.loc[0, ["collapse", "width"]].tolist() == pytest.approx([s0, width], rel=1e-5)
    assert points.loc[1, "collapse"] < 0.2 and not points["censored"].any()
    assert ",".join(accuracies.columns) == "model,calib,method,sparsity,task,metric,n,value,ci_low,ci_high"
    rku = accuracies[accuracies["method"] == "rku"]
    assert rku["sparsity"].tolist() == [0, 0.2, 0.4, 0.6] and rku["value"].tolist() == [0.8, 0.8, 0.6, 0.1]
    assert rku[["ci_low", "ci_high"]].iloc[2].tolist() == pytest.approx(wilson(30, 50, 0.95), rel=1e-5)


def test_the_table_to_read(results):
    for sparsity in (20, 40, 60):
        path = results / f"tiny/eval/gsm8k-s0/wanda/{sparsity}/gsm8k.samples.parquet"
        artifacts.write_parquet(path, samples(40), "samples", {})
    points, _ = run(results)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (results / "collapse.md").read_text().splitlines()
        if line.startswith("|")
    ]
    low, value, high = (f"{100 * points.loc[0, name]:.1f}" for name in ("ci_low", "collapse", "ci_high"))
    assert rows[0] == ["Method", "Collapse point", "20%", "40%", "60%"]
    assert rows[2:] == [
        ["dense", "–", "80.0", "80.0", "80.0"],
        ["`rku`", f"{value} [{low}, {high}]", "80.0", "60.0", "10.0"],
        ["`wanda`", "> 60% [60.0, > 60%]", "80.0", "80.0", "80.0"],
    ]
    assert r"$>$ 60\%" in (results / "collapse.tex").read_text()


def test_the_order_of_the_samples_does_not_matter(results):
    points, _ = run(results)
    path = results / "tiny/eval/gsm8k-s0/rku/40/gsm8k.samples.parquet"
    artifacts.write_parquet(path, samples(RIGHT["rku/40"]).iloc[::-1], "samples", {})
    pd.testing.assert_frame_equal(run(results)[0], points)


def test_other_items_another_metric_and_too_few_sparsities_are_named(results):
    with pytest.raises(InputError, match="no 'acc', only .*flexible-extract"):
        run(results, metric="acc")
    with pytest.raises(InputError, match="flexible-extract' in .* is not 0 or 1"):
        run(results, metric="exact_match,flexible-extract")
    with pytest.raises(InputError, match="tiny, gsm8k-s0, rku: .*two or more ascending sparsities"):
        run(results, sparsities=[40])
    path = results / "tiny/eval/gsm8k-s0/wanda/40/gsm8k.samples.parquet"
    artifacts.write_parquet(path, samples(3, items=49), "samples", {})
    with pytest.raises(InputError, match="tiny/eval/dense and tiny/eval/gsm8k-s0/wanda/40 were scored on different"):
        run(results)
