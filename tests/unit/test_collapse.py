"""Collapse points: known curves are found again, the fit is the best there is, the interval is what chance makes."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.core.significance import wilson
from pruning.paper.collapse import Collapse, accuracy, collapse, compare, fit, write
from pruning.paper.tables import collapse as printed
from pruning.report.files import Files

SPARSITIES = np.arange(1, 10) / 10
METRIC = "exact_match,strict-match"


@pytest.mark.parametrize(("s0", "width", "dense", "chance"), [(0.37, 0.05, 0.8, 0.0), (0.55, 0.12, 0.9, 0.2)])
def test_a_known_curve_is_found_again(s0, width, dense, chance):
    assert accuracy(s0, s0, width, dense, chance) == pytest.approx((dense + chance) / 2)
    share = accuracy(SPARSITIES, s0, width, dense, chance)
    assert fit(SPARSITIES, share, dense, chance) == pytest.approx((s0, width), rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_optimiser_finds_a_better_curve(seed):
    """Noisy counts, likelihood by scipy.stats, minimised globally."""
    rng = np.random.default_rng(seed)
    correct = rng.binomial(200, accuracy(SPARSITIES, rng.uniform(0.2, 0.7), 0.06, 0.7, 0.2))

    def loss(theta):
        s0, steepness = theta
        return -stats.binom.logpmf(correct, 200, accuracy(SPARSITIES, s0, s0 / steepness, 0.7, 0.2)).sum()

    best = optimize.differential_evolution(loss, [(0.005, 1.2), (3, 50)], rng=0, tol=1e-10)
    s0, width = fit(SPARSITIES, correct / 200, 0.7, 0.2)
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


RIGHT_OR_NOT = np.array([1.0] * 80 + [0.0] * 20)
FEW = np.eye(4)
SHOWN = {
    "not reached": ([RIGHT_OR_NOT] * 3, RIGHT_OR_NOT, [0.3, 0.4, 0.5], 0.0, (np.nan, 0.5, np.nan)),
    "between two": ([RIGHT_OR_NOT] * 2 + [0 * RIGHT_OR_NOT], RIGHT_OR_NOT, [0.2, 0.4, 0.6], 0.0, (0.5, 0.4, 0.6)),
    "before the first": ([0 * RIGHT_OR_NOT] * 2, RIGHT_OR_NOT, [0.2, 0.4], 0.0, (0.1, 0, 0.2)),
    "dense at chance": (FEW[:2], FEW[0], [0.2, 0.4], 0.25, (np.nan, np.nan, np.nan)),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_point_is_known_no_better_than_the_data_show(name):
    *data, expected = SHOWN[name]
    found = collapse(*data, 0.95, 20, 0)
    assert (found.point, found.low, found.high) == pytest.approx(expected, nan_ok=True)
    assert found.censored == (name == "not reached") and np.isnan(found.width) == np.isnan(found.point)


def test_an_interval_may_begin_within_what_was_measured_and_its_point_be_beyond():
    almost = [RIGHT_OR_NOT * (np.arange(100) < last) for last in (78, 64, 42)]  # the last just above halfway
    found = collapse(almost, RIGHT_OR_NOT, [0.3, 0.4, 0.5], 0.0, 0.95, 100, 0)
    assert found.censored and 0.45 < found.low < 0.5 and np.isnan(found.high)


def found(draws, left_out=None, point=0.5) -> Collapse:
    draws = np.array([(d, d) if np.ndim(d) == 0 else d for d in draws], dtype=float)
    left_out = None if left_out is None else np.array([left_out, left_out], dtype=float).T
    return Collapse(point, 0.0, 1.0, 0.1, False, draws, left_out)


def test_p_counts_the_resamples_of_either_order_and_what_is_not_for_certain():
    ours = found([0.5, 0.6, 0.7, 0.4, (0.7, np.inf), (0.2, 0.4), 0.5, 0.6, 0.6], point=0.55)
    reference = found([0.4, 0.4, 0.4, 0.5, 0.6, 0.3, 0.3, 0.3, 0.3], point=0.35)
    # later for certain in all but the fourth and the sixth, whose range holds the reference's point
    compared = compare(ours, reference, 0.5)
    assert compared["p_value"] == pytest.approx(2 * (1 + 2) / 10)
    assert compared["delta"] == pytest.approx(0.2)
    # differences at least -0.1, -0.1, 0.1, 0.1, 0.2, 0.2, 0.3 x 3; at most -0.1, 0.1, 0.1, 0.2, 0.2, 0.3 x 3, inf
    assert (compared["delta_low"], compared["delta_high"]) == (pytest.approx(0.1), pytest.approx(0.3))
    back = compare(reference, ours, 0.5)
    assert back["p_value"] == compared["p_value"]
    assert (back["delta_low"], back["delta_high"]) == (pytest.approx(-0.3), pytest.approx(-0.1))
    assert np.isnan(compared["p_cluster"])
    beyond = found([(0.7, np.inf)] * 9)
    assert compare(beyond, reference, 0.95)["p_value"] == pytest.approx(0.2)  # later in every resample
    assert np.isnan(compare(beyond, reference, 0.95)["delta_high"])
    assert compare(beyond, beyond, 0.95)["p_value"] == 1
    nothing = Collapse(np.nan, np.nan, np.nan, np.nan, False, np.empty((0, 2)), np.empty((0, 2)))
    assert np.isnan(list(compare(nothing, nothing, 0.95).values())).all()


def test_resamples_without_a_collapse_are_left_out_of_both():
    ours, reference = found([0.5, np.nan, 0.6]), found([0.4, np.nan, 0.7])
    assert compare(ours, reference, 0.95)["p_value"] == 1
    assert compare(found([0.5, np.nan, 0.8]), reference, 0.95)["p_value"] == pytest.approx(2 / 3)


def test_clusters_are_tested_by_the_jackknife():
    ours, reference = np.array([0.52, 0.50, 0.51, 0.55]), np.array([0.50, 0.50, 0.48, 0.50])
    gaps = ours - reference
    error = np.sqrt(3 / 4 * ((gaps - gaps.mean()) ** 2).sum())
    p = compare(found([0.5], ours), found([0.5], reference), 0.95)["p_cluster"]
    assert p == pytest.approx(2 * stats.t(3).sf(gaps.mean() / error))
    assert compare(found([0.5], reference), found([0.5], ours), 0.95)["p_cluster"] == pytest.approx(p)
    assert compare(found([0.5], ours), found([0.5], ours), 0.95)["p_cluster"] == 1
    ends = Collapse(np.nan, 0.5, np.nan, np.nan, True, np.array([[0.6, np.inf]]), np.array([[0.6, np.inf]] * 4))
    later = compare(ends, found([0.5], ours), 0.95)["p_cluster"]
    assert later == pytest.approx(2 * stats.t(3).sf((0.6 - ours).mean() / (np.sqrt(3) * ours.std())))
    assert compare(ends, ends, 0.95)["p_cluster"] == 1


def test_leaving_a_cluster_out_is_the_fit_without_its_items():
    outcomes, dense = simulate(np.random.default_rng(3), 60)
    clusters = np.array(list("abc"))[np.arange(60) % 3]
    left_out = collapse(outcomes, dense, SPARSITIES, 0.0, 0.95, 5, 0, clusters).left_out
    for bounds, name in zip(left_out, "abc", strict=True):
        kept = clusters != name
        point = collapse(outcomes[:, kept], dense[kept], SPARSITIES, 0.0, 0.95, 1, 0).point
        assert bounds == pytest.approx((point, point), rel=1e-4)


@pytest.mark.parametrize("scatter", [0.0, 0.08])
def test_type_1_error_of_the_order(scatter):
    """Two methods with one collapse point on the whole. Where each template has a point of its own, resampled items are
    sure of orders that other templates would not have (in 0.37 of 300 such studies), the jackknife is not (0.06)."""
    rng, tests = np.random.default_rng(0), []
    clusters, sparsities = np.repeat(np.arange(22), 18), np.array([0.3, 0.4, 0.5, 0.6])
    for _ in range(100):
        level, methods = rng.random(396), []
        for _ in range(2):
            points = 0.45 + rng.normal(0, scatter, 22)[clusters]
            own = np.where(rng.random(396) < 0.6, level, rng.random(396))
            curves = 0.84 / (1 + np.exp((sparsities[:, None] - points) / 0.06))
            outcomes, dense = (own < curves).astype(float), (level < 0.84).astype(float)
            methods.append(collapse(outcomes, dense, sparsities, 0.0, 0.95, 39, 0, clusters))
        tests.append(compare(*methods, 0.95))
    by_item, by_cluster = (np.mean([test[p] <= 0.05 + 1e-9 for test in tests]) for p in ("p_value", "p_cluster"))
    assert by_cluster < 0.1
    assert by_item > 0.2 if scatter else by_item < 0.1


# The stage ----------------------------------------------------------------------------------------------------------

SETTINGS = {"models": ["tiny"], "calib": "gsm8k-s0", "methods": ["rku", "wanda"], "reference": "wanda"}
SETTINGS |= {"sparsities": [60, 20, 40], "task": "gsm8k", "metric": METRIC, "title": "GSM8K", "chance": 0.0}
SETTINGS |= {"confidence": 0.95, "resamples": 60, "seed": 0}
RIGHT = {"dense": 40, "rku/20": 40, "rku/40": 30, "rku/60": 5, "wanda/20": 10, "wanda/40": 2, "wanda/60": 0}


def samples(right, items=50):
    frame = pd.DataFrame({"item": range(items), "item_hash": [f"{i:x}" for i in range(items)], "metric": METRIC})
    frame = frame.assign(value=(frame["item"] < right).astype(float), weight=1)
    other = frame.assign(metric="exact_match,flexible-extract", value=0.5)
    return pd.concat([frame, other])


def write_samples(results, variant, *arguments):
    place = variant if variant == "dense" else f"gsm8k-s0/{variant}"
    artifacts.write_parquet(results / f"tiny/eval/{place}/gsm8k.samples.parquet", samples(*arguments), "samples", {})


@pytest.fixture
def results(tmp_path):
    for variant, right in RIGHT.items():
        write_samples(tmp_path, variant, right)
    return tmp_path


def run(results, **changes):
    outputs = [results / name for name in ("collapse.csv", "accuracy.csv")]
    template = f"samples={results}/{{model}}/eval/{{variant}}/{{task}}.samples.parquet"
    write(Files([template]), {**SETTINGS, **changes}, outputs)
    page = printed.make(Files([f"{path.stem}={path}" for path in outputs]), {**SETTINGS, **changes})
    return *map(pd.read_csv, outputs), page


def test_the_stage_reads_the_samples_of_every_sparsity(results):
    points, accuracies, _ = run(results)
    assert ",".join(points.columns) == (
        "model,calib,method,task,metric,n,clusters,dense,chance,collapse,ci_low,ci_high,width,censored,"
        "reference,delta,delta_low,delta_high,p_value,p_cluster,p_holm,p_cluster_holm"
    )
    assert points["method"].tolist() == ["rku", "wanda"] and (points["n"] == 50).all()
    s0, width = fit(np.array([0.2, 0.4, 0.6]), np.array([0.8, 0.6, 0.1]), 0.8, 0.0)
    assert points.loc[0, ["collapse", "width"]].tolist() == pytest.approx([s0, width], rel=1e-5)
    assert points.loc[1, "collapse"] < 0.2 and not points["censored"].any()
    assert ",".join(accuracies.columns) == "model,calib,method,sparsity,task,metric,n,value,ci_low,ci_high"
    rku = accuracies[accuracies["method"] == "rku"]
    assert rku["sparsity"].tolist() == [0, 0.2, 0.4, 0.6] and rku["value"].tolist() == [0.8, 0.8, 0.6, 0.1]
    assert rku[["ci_low", "ci_high"]].iloc[2].tolist() == pytest.approx(wilson(30, 50, 0.95), rel=1e-5)


def test_the_table_to_read(results):
    for sparsity in (20, 40, 60):
        write_samples(results, f"wanda/{sparsity}", 40)
    points, _, page = run(results)
    lines = [line for line in page.markdown.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    low, value, high = (f"{100 * points.loc[0, name]:.1f}" for name in ("ci_low", "collapse", "ci_high"))
    assert rows[0] == ["Method", "Collapse point", "minus `wanda`'s", "p", "20%", "40%", "60%"]
    most = f"{100 * points.loc[0, 'delta_high']:+.1f}".replace("-", "−")
    assert rows[2:] == [
        ["dense", "–", "", "", "80.0", "80.0", "80.0"],
        ["`rku`", f"{value} [{low}, {high}]", f"– [–, {most}]", "0.033", "80.0", "60.0", "10.0"],
        ["`wanda` (reference)", "> 60% [60.0, > 60%]", "", "", "80.0", "80.0", "80.0"],
    ]
    for said in (
        "paired bootstrap over the same items, Holm over the 1 comparison of this table, at p = 0.05.",
        "Accuracy collapses earlier than the reference, `rku`. The order of two other",
    ):
        assert said in page.markdown
    assert r"$>$ 60\%" in page.tex


def test_orders_are_tested_against_the_reference_by_item_and_template(results):
    """cfsp keeps a few items more than wanda at every sparsity, all of the first templates."""
    for sparsity, right in ((20, 13), (40, 5), (60, 3)):
        write_samples(results, f"cfsp/{sparsity}", right)
    for path in results.rglob("*.samples.parquet"):
        frame = artifacts.read_parquet(path, "samples")
        artifacts.write_parquet(path, frame.assign(cluster=(frame["item"] // 10).astype(str)), "samples", {})
    points, _, page = run(results, methods=["rku", "wanda", "cfsp"], resamples=200)
    by_name = points.set_index("method")
    assert (points["clusters"] == 5).all() and by_name.loc["wanda", "reference":].isna().all()
    rku, cfsp = by_name.loc["rku"], by_name.loc["cfsp"]
    assert rku["delta"] == pytest.approx(rku["collapse"] - by_name.loc["wanda", "collapse"], rel=1e-4)
    assert rku["p_value"] == pytest.approx(2 / 201, rel=1e-4) and rku["p_holm"] == pytest.approx(4 / 201, rel=1e-4)
    assert rku["delta_low"] > 0
    text = page.markdown
    line = next(line for line in text.splitlines() if line.startswith("| `cfsp`"))
    assert cfsp["p_cluster_holm"] > 0.05 and "n.s." in line
    assert f"{max(cfsp['p_holm'], cfsp['p_cluster_holm']):.3f}" in line
    assert "Items share 5 templates" in text and "order not significant (n.s.), " in text


def test_without_a_collapse_no_order_is_tested(results):
    text = run(results, chance=0.9)[-1].markdown
    assert re.search(r"^\| `rku` +\| none +\| +\| +\| 80.0", text, re.M)
    assert "n.s." not in text and "Only orders" not in text


def test_the_order_of_the_samples_does_not_matter_but_other_ones_are_named(results):
    points = run(results)[0]
    path = results / "tiny/eval/gsm8k-s0/rku/40/gsm8k.samples.parquet"
    artifacts.write_parquet(path, samples(RIGHT["rku/40"]).iloc[::-1], "samples", {})
    pd.testing.assert_frame_equal(run(results)[0], points)
    write_samples(results, "wanda/40", 3, 49)
    with pytest.raises(InputError, match="tiny/dense and tiny/gsm8k-s0/wanda/40 were scored on different"):
        run(results)
