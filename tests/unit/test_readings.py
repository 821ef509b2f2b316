"""Readings against the paper's numbers, on curves and masks small enough to work out by hand."""

from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pruning.analysis import overlap, readings
from pruning.core import artifacts, names
from pruning.core.errors import InputError
from pruning.report.files import Files
from pruning.report.tables import readings as printed

PAPER = Path(__file__).parents[2] / "resources/paper"
TABLE4 = readings.published_lines(pd.read_csv(PAPER / "table4.csv"))


def curve(mean: list[float], layer: list[float] | None = None, sparsities=(20, 40)) -> pd.DataFrame:
    return pd.DataFrame({"mean": mean, "layer": mean if layer is None else layer}, index=list(sparsities))


def test_a_curve_is_the_mean_of_layers_and_the_last_but_one():
    rows = [(10, 0, 0.9), (10, 1, 0.6), (10, 2, 0.3), (20, 0, 0.5), (20, 1, 0.4), (20, 2, 0.0)]
    frame = pd.DataFrame(rows, columns=["sparsity", "layer", "iou"])
    found = readings.curve(frame, None)
    assert found["mean"].tolist() == pytest.approx([0.6, 0.3])
    assert found["layer"].tolist() == [0.6, 0.4]
    assert readings.curve(frame, 0)["layer"].tolist() == [0.9, 0.5]
    with pytest.raises(InputError, match="experiment.layer: 3 is out of range, the model has layers 0 to 2"):
        readings.curve(frame, 3)


def test_the_papers_table_4_has_three_lines():
    assert TABLE4.index.tolist() == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert TABLE4.loc[40].to_dict() == {"wanda_mean": 0.7182, "wanda_layer": 0.6190, "taylor_mean": 0.7612}


def test_distances_are_points_of_iou():
    # Table 4 at 20 and 60%: Wanda 84.75 and 59.67, layer 26 77.10 and 51.80, Taylor-FO 86.41 and 66.59.
    curves = {
        "wanda": curve([0.8575, 0.5667], [0.7710, 0.6180], (20, 60)),  # 1 and 3 points; 0 and 10
        "taylor": curve([0.8441, 0.6659], None, (20, 60)),  # 2 and 0
    }
    found = readings.distances(curves, TABLE4)
    assert found == pytest.approx({"wanda_mean": 2, "wanda_layer": 5, "taylor_mean": 1, "mean": 8 / 3})
    shallow = readings.distances(curves, TABLE4, 40)
    assert shallow == pytest.approx({"wanda_mean": 1, "wanda_layer": 0, "taylor_mean": 2, "mean": 1})


def test_sparsities_that_the_paper_has_not_count_for_nothing():
    curves = {role: curve([0.0, 0.8475], [0.0, 0.7710], (25, 20)) for role in ("wanda", "taylor")}
    assert readings.distances(curves, TABLE4)["wanda_mean"] == pytest.approx(0)
    with pytest.raises(InputError, match="readings.sparsities: none is in the paper's Table 4"):
        readings.distances({role: curve([0.5], None, (25,)) for role in curves}, TABLE4)


def test_gaps_are_of_log_perplexity():
    gap = readings.gaps(pd.read_csv(PAPER / "table6.csv"), [30, 40, 90])
    assert gap.index.tolist() == [(30, "c4"), (30, "wikitext2"), (40, "c4"), (40, "wikitext2")]
    at40 = gap.loc[(40, "wikitext2")]  # RKU 12.6401, AGF 12.6173, Taylor-FO 12.4319, Wanda-Struct 12.7073
    assert at40["agf"] == pytest.approx(np.log(12.6401 / 12.6173))
    assert at40["taylor"] == pytest.approx(np.log(12.6401 / 12.4319))
    assert at40["wanda"] == pytest.approx(np.log(12.7073 / 12.6401))
    assert len(readings.gaps(pd.read_csv(PAPER / "table7.csv"), [40])) == 3 * 2  # all, as none is shared; no accuracies


def test_perplexities_suggest_a_range():
    gap = pd.DataFrame({"agf": [0.0, 0.5], "taylor": [0.5, 1.5], "wanda": [1.0, 1.0]})  # means 0.25, 1, 1
    assert readings.nearness(gap.mean()) == pytest.approx(0.25)
    assert readings.suggested(gap) == pytest.approx((0.0625, 0.5))
    assert np.isnan(readings.nearness({"agf": 0.1, "taylor": 0.0, "wanda": 0.0}))


def masks_curve(a: str, b: str) -> pd.DataFrame:
    """One layer's overlap at 40%, masks as strings of 0 and 1."""
    keep = [np.array([c == "1" for c in text]) for text in (a, b)]
    return curve([overlap.iou(*keep)], None, (40,))


RKU = "111111000"
TWO_EXCHANGED, THREE_EXCHANGED = "111100110", "111000111"
GAP = pd.DataFrame(
    {"agf": [0.3], "taylor": [1.0], "wanda": [1.0]},
    index=pd.MultiIndex.from_tuples([(40, "c4")], names=["sparsity", "task"]),
)  # suggests 0.09 to 0.55
VERDICTS = {  # AGF's mask -> 1 - IoU, and verdict; Taylor-FO's and Wanda's are 1/2 and 2/3, so their mean 7/12
    "111111000": (0, "same"),
    "111110100": (2 / 7, "fits"),  # nearness 0.49
    TWO_EXCHANGED: (1 / 2, "far"),  # 0.86
}


@pytest.mark.parametrize("agf", VERDICTS)
def test_what_agfs_mask_says(agf: str):
    curves = {"agf": masks_curve(RKU, agf), "taylor": masks_curve(RKU, TWO_EXCHANGED)}
    curves["wanda"] = masks_curve(RKU, THREE_EXCHANGED)
    found = readings.closeness(curves, GAP)
    apart, verdict = VERDICTS[agf]
    assert (found["agf"], found["taylor"], found["wanda"]) == pytest.approx((apart, 1 / 2, 2 / 3))
    assert found["nearness"] == pytest.approx(apart * 12 / 7)
    assert found["verdict"] == verdict


def test_closeness_is_over_the_sparsities_that_have_perplexities():
    curves = {"agf": curve([0.99, 0.0], None, (40, 90)), "taylor": curve([0.8, 0.0], None, (40, 90))}
    found = readings.closeness({**curves, "wanda": curves["taylor"]}, GAP)
    assert found["agf"] == pytest.approx(0.01)
    assert found["verdict"] == "near"  # 0.05 is less than the 0.09 suggested


def test_kept_shares_by_hand():
    region = np.array(["trap", "trap", "rest", "spike"])
    keep = {"rku": np.array([True, False, True, True]), "wanda": np.array([True, True, True, False])}
    found = readings.kept_shares(region, keep)
    assert (found["trap_neurons"], found["spike_neurons"], found["all_neurons"]) == (2, 1, 4)
    assert (found["trap_rku"], found["trap_wanda"], found["spike_rku"], found["spike_wanda"]) == (0.5, 1, 1, 0)
    assert found["all_rku"] == found["all_wanda"] == 0.75
    assert np.isnan(readings.kept_shares(np.array(["rest"]), {"rku": np.array([True])})["trap_rku"])


# Wilson's 95% interval of 12 of 20 is 39 to 78%, of 16 of 20 58 to 92%, of 17 of 20 64 to 95%, of 8 of 20 22 to 61%.
KEPT = {
    "trap_neurons": 20,
    "spike_neurons": 20,
    "all_rku": 0.6,
    "all_wanda": 0.6,
    "trap_rku": 0.2,
    "trap_wanda": 1.0,
    "spike_rku": 0.9,
    "spike_wanda": 0.1,
}
HOLDS = dict.fromkeys(("shallow", "wanda_faster", "deep", "trap", "spike"), True)
CLAIMS = {
    "the paper's": ({}, {}, {}),
    "RKU keeps the trap": ({}, {"trap_rku": 0.9}, {"trap": False}),
    "RKU leaves it by chance": ({}, {"trap_rku": 0.4}, {"trap": False}),
    "Wanda leaves the trap": ({}, {"trap_wanda": 0.2}, {"trap": False}),
    "Wanda keeps it by chance": ({}, {"trap_wanda": 0.8}, {"trap": False}),
    "Wanda keeps just enough": ({}, {"trap_wanda": 0.85}, {}),
    "RKU drops the spikes": ({}, {"spike_rku": 0.1}, {"spike": False}),
    "no spikes": ({}, {"spike_rku": np.nan, "spike_wanda": np.nan, "spike_neurons": 0}, {"spike": None}),
    "apart when shallow": ({"taylor": curve([0.8, 0.76])}, {}, {"shallow": False}),
    "Taylor-FO is farther": ({"taylor": curve([0.9, 0.6])}, {}, {"wanda_faster": False}),
    "deep layer above once": ({"wanda": curve([0.85, 0.72], [0.9, 0.62])}, {}, {"deep": False}),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_can_fail(name: str):
    changed, kept, expected = CLAIMS[name]
    curves = {"wanda": curve([0.85, 0.72], [0.77, 0.62]), "taylor": curve([0.86, 0.76]), **changed}
    assert readings.claims(curves, {**KEPT, **kept}, 0.95) == {**HOLDS, **expected}


def test_the_papers_own_table_4_meets_the_claims_it_shows():
    wanda = TABLE4[["wanda_mean", "wanda_layer"]].set_axis(["mean", "layer"], axis=1)
    curves = {"wanda": wanda, "taylor": curve(TABLE4["taylor_mean"].tolist(), None, TABLE4.index)}
    assert readings.claims(curves, KEPT, 0.95) == HOLDS


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A model of three layers with four neurons each; masks at 40% and overlaps at 20 and 40%."""
    folder = tmp_path / "results/m"
    frame = pd.DataFrame([(layer, neuron) for layer in range(3) for neuron in range(4)], columns=["layer", "unit"])
    statistics = frame.assign(
        n_tokens=1.0, act_sq_sum=[9.0, 4, 1, 0] * 3, energy_grad_sq_sum=[0.0, 1, 4, 9] * 3, ce_grad_sq_sum=1.0
    )
    (folder / "calibration/c").mkdir(parents=True)
    artifacts.write_parquet(folder / "calibration/c/statistics.parquet", statistics, "statistics", {})
    keep = {
        "rku": [0, 1, 1, 1],
        "wanda": [1, 1, 1, 0],
        "agf": [1, 0, 1, 1],
        "taylor_fo": [1, 1, 0, 1],
        "sq": [1, 1, 1, 0],
    }
    for method, kept in keep.items():
        (folder / f"masks/c/{method}").mkdir(parents=True)
        mask = frame.assign(keep=np.array(kept * 3, bool))
        artifacts.write_parquet(folder / f"masks/c/{method}/40.parquet", mask, "mask", {})
    ious = {("rku", "agf"): 0.98, ("rku", "taylor_fo"): 0.80, ("rku", "wanda"): 0.75}
    ious |= {("sq", "sq"): 1.0, ("sq", "taylor_fo"): 0.4, ("sq", "wanda"): 0.3}
    for (first, second), iou in ious.items():
        rows = [(s, layer, iou) for s in (0.2, 0.4) for layer in range(3)]
        rows = pd.DataFrame(rows, columns=["sparsity", "layer", "iou"])
        artifacts.write_csv(folder / f"analysis/overlap/c/{first}/{second}.csv", rows, {})
    return tmp_path


def test_the_table_has_the_best_reading_first_and_marks_the_presets(results: Path):
    squared = {"title": "RKU squared", "rku": "sq", "agf": "sq", "taylor": "taylor_fo", "wanda": "wanda"}
    own = {"title": "Share | sample", **readings.CHOSEN}
    settings = {
        "models": ["m"],
        "calib": "c",
        "rows": {"squared": {**squared, "objective": "ce"}, "own": {**own, "objective": "energy"}},
        "sparsities": [40],
        "layer": None,
        "sparsity": 40,
        "high": 0.75,
        "low": 0.25,
        "confidence": 0.95,
    }
    templates = {"overlap": names.OVERLAP, "masks": names.MASK, "statistics": names.STATISTICS}
    files = [f"{name}={results}/{template}" for name, template in templates.items()]
    page = printed.make(Files([*files, *(f"table{n}={PAPER}/table{n}.csv" for n in (1, 4, 6, 7))]), settings)
    frame = pd.read_csv(StringIO(page.frame.to_csv(index=False))).set_index("reading")
    assert frame["layer"].tolist() == [1, 1]
    assert frame["chosen"].tolist() == [False, True]
    assert frame.loc["own", "distance_wanda_mean"] == pytest.approx(75 - 71.82)  # Table 4 at 40%
    assert frame.loc["own", "distance_mean"] == pytest.approx((3.18 + 13.1 + 3.88) / 3)
    assert frame["agf_verdict"].to_dict() == {"own": "fits", "squared": "same"}  # 0.02 over 0.225
    # Neuron 0 is active and without energy gradient, neuron 3 the reverse; the cross-entropy's gradient is constant.
    assert frame.loc["own", ["trap_neurons", "trap_wanda", "trap_rku", "spike_rku"]].tolist() == [1, 1, 0, 1]
    # One neuron of each shows nothing.
    assert frame.loc["own", ["claim_trap", "claim_spike", "claim_wanda_faster"]].tolist() == [False, False, True]
    text = page.markdown
    lines = [line for line in text.splitlines() if line.startswith("| Share") or line.startswith("| RKU squared")]
    assert lines[0].startswith("| Share \\| sample (the presets)")
    assert "**3.2** [3.2]" in lines[0]
    assert "is another model" in text and "ruled out: same masks" in text
    assert page.tex.isascii()
