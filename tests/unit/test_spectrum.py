"""Spectra by hand, by scipy, and of the stage's artefacts."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.linalg
import scipy.stats

from pruning.core import artifacts
from pruning.paper import spectrum
from pruning.report.files import Files

METHODS = ["narrow", "wide", "ties"]
SETTINGS = {"model": "m", "calib": "c", "methods": METHODS, "sparsity": 50, "draws": 3, "seed": 1}


def test_measures_by_hand():
    values = np.array([3.0, 1.0])  # energy 9 and 1, of 10
    np.testing.assert_allclose(spectrum.cumulative_energy(values), [0.9, 1.0])
    assert [spectrum.energy_rank(values, share) for share in (0.5, 0.9, 0.91, 1.0)] == [1, 1, 2, 2]
    assert spectrum.ranks(values) == {
        "effective_rank": pytest.approx(4 / 3**0.75),  # p = 3/4, 1/4: exp(3/4 ln 4/3 + 1/4 ln 4)
        "stable_rank": pytest.approx(10 / 9),
        "energy_90": 1,
        "energy_99": 2,
    }
    for scale in (1e-200, 1.0, 1e150):  # equal directions have full rank, of any size
        equal = np.full(7, scale)
        assert [spectrum.effective_rank(equal), spectrum.stable_rank(equal)] == pytest.approx([7, 7])
    assert spectrum.energy_rank(np.full(10, 0.1), 0.9) == 9  # the cumulative sum stops just short


def test_against_scipy():
    a = np.random.default_rng(0).normal(size=(30, 20)) * np.geomspace(1, 1e-3, 20)
    curve, ranks = spectrum.measure(a, [np.arange(20)])
    expected, gram = scipy.linalg.svdvals(a), np.sort(np.linalg.eigvalsh(a.T @ a))[::-1]
    np.testing.assert_allclose(curve["singular_value"], expected, rtol=1e-10)
    np.testing.assert_allclose(curve["energy"], np.cumsum(gram) / gram.sum(), rtol=1e-6)
    assert ranks["effective_rank"] == pytest.approx(np.exp(scipy.stats.entropy(expected)))
    assert ranks["stable_rank"] == pytest.approx(np.linalg.norm(a) ** 2 / np.linalg.norm(a, 2) ** 2, rel=1e-6)


@pytest.mark.parametrize("columns", [[], [1]])
def test_no_neuron_or_none_that_is_active(columns):
    a = np.array([[3.0, 0], [4, 0]])
    curve, ranks = spectrum.measure(a, [np.array(columns, dtype=int)])
    assert len(curve) == len(columns)
    assert set(ranks.values()) == {0}
    curve, ranks = spectrum.measure(a, [np.array([0])])
    assert curve.to_dict("records") == [{"index": 1, "singular_value": pytest.approx(5), "energy": 1}]
    assert set(ranks.values()) == {1}


@pytest.mark.parametrize("length", [1, 399, 400, 401, 5000])
def test_thinning_keeps_both_ends_and_the_values(length):
    values = np.linspace(9, 1, length)
    curve = spectrum.curve(values, values / 9)
    index = curve["index"].to_numpy()
    assert index[0] == 1 and index[-1] == length and (np.diff(index) > 0).all()
    assert len(index) == length if length <= 400 else 150 < len(index) <= 400
    np.testing.assert_array_equal(curve["singular_value"], values[index - 1])


def test_means_are_over_the_choices():
    a = np.diag([4.0, 2, 1])
    curve, ranks = spectrum.measure(a, [np.array([0, 1]), np.array([1, 2])])
    np.testing.assert_allclose(curve["singular_value"], [3, 1.5])
    np.testing.assert_allclose(curve["energy"], [0.8, 1])
    assert ranks["stable_rank"] == pytest.approx(1.25) and ranks["energy_90"] == 2


def test_random_choices_are_sets_that_the_seed_decides():
    one, other = (spectrum.random_choices(50, 20, 4, seed) for seed in (0, 1))
    assert len(one) == 4 and all(len(set(choice)) == 20 and max(choice) < 50 for choice in one)
    assert len({tuple(sorted(choice)) for choice in [*one, *other]}) == 8
    np.testing.assert_array_equal(one, spectrum.random_choices(50, 20, 4, 0))


@pytest.fixture
def study(tmp_path):
    """Layer 1 of two, six neurons: three of one direction, three of their own; and masks of widths 1 and 0."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 6)).astype(np.float32)
    a[:, 1], a[:, 2] = 2 * a[:, 0], -a[:, 0]
    table = pa.table({"sample": range(40), "position": range(40), "token": range(40), "activation": a.tolist()})
    artifacts.write_parquet(tmp_path / "activations.parquet", table, "activations", {"layer": 1})
    scores = {"narrow": [9, 8, 7, 1, 1, 1], "wide": [0, 0, 0, 5, 5, 5], "ties": [1, 1, 1, 1, 1, 1]}
    keeps = {"narrow": [1, 0, 0, 0, 0, 0], "wide": [0, 0, 0, 1, 1, 1], "ties": [0, 0, 0, 0, 0, 0]}
    for method in scores:
        # Rows upside down, and another layer 0: neither may matter.
        frame = pd.DataFrame({"layer": [1] * 6 + [0] * 6, "unit": [*range(6)[::-1], *range(6)]})
        score = [*scores[method][::-1], *range(6)]
        artifacts.write_parquet(tmp_path / f"{method}.scores", frame.assign(score=score), "scores", {})
        keep = [bool(k) for k in keeps[method][::-1]] + [True] * 6
        artifacts.write_parquet(tmp_path / f"{method}.masks", frame.assign(keep=keep), "mask", {})
    return tmp_path, a


def test_the_stage(study):
    folder, a = study
    files = [f"{kind}={folder}/{method}.{kind}" for method in METHODS for kind in ("scores", "masks")]
    paths = folder / "a.csv", folder / "b.csv"
    spectrum.write(Files([f"activations={folder}/activations.parquet", *files]), SETTINGS, paths)
    curves, summary = map(pd.read_csv, paths)
    shared = ["model", "calib", "layer", "sparsity", "method", "width_rule", "width", "tokens"]
    assert list(curves) == [*shared, "index", "singular_value", "energy"]
    assert list(summary) == [*shared, "effective_rank", "stable_rank", "energy_90", "energy_99"]
    rows = summary.set_index(["method", "width_rule"])
    assert (rows[["model", "calib", "layer", "sparsity", "tokens"]] == ["m", "c", 1, 0.5, 40]).all(axis=None)
    widths = {("dense", "own"): 6, ("narrow", "own"): 1, ("wide", "own"): 3, ("ties", "own"): 0}
    assert rows["width"].to_dict() == widths | {(m, "equal"): 3 for m in ("dense", "narrow", "wide", "ties")}
    assert rows.loc[("narrow", "equal"), "effective_rank"] == pytest.approx(1, abs=1e-5)
    assert rows.loc[("ties", "equal"), "effective_rank"] == pytest.approx(1, abs=1e-5)  # neurons 0, 1, 2
    values = scipy.linalg.svdvals(a[:, 3:].astype(float))
    for rule in ("own", "equal"):
        assert rows.loc[("wide", rule), "effective_rank"] == pytest.approx(
            np.exp(scipy.stats.entropy(values)), rel=1e-5
        )
        curve = curves[(curves["method"] == "wide") & (curves["width_rule"] == rule)]
        np.testing.assert_allclose(curve["singular_value"], values, rtol=1e-5)
    assert rows.loc[("ties", "own"), "effective_rank"] == 0
    assert not len(curves[(curves["method"] == "ties") & (curves["width_rule"] == "own")])
    chance = [
        spectrum.effective_rank(scipy.linalg.svdvals(a[:, c])) for c in spectrum.random_choices(6, 3, draws=3, seed=1)
    ]
    assert rows.loc[("dense", "equal"), "effective_rank"] == pytest.approx(np.mean(chance), rel=1e-4)
