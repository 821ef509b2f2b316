"""How masks agree (Table 4), and interpretations of the paper against its numbers: small enough to work out by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pruning.core import artifacts, names
from pruning.core.errors import InputError
from pruning.core.significance import wilson
from pruning.paper.overlap import expected_iou, iou
from pruning.paper.tables import readings, table4
from pruning.report.files import Files

PAPER = Path(__file__).parents[2] / "resources/paper"
TABLE4 = readings.published_lines(pd.read_csv(PAPER / "table4.csv"))


def test_iou_by_hand_and_by_chance():
    a = np.array([1, 1, 0, 0], bool)
    assert iou(a, np.array([1, 0, 1, 0], bool)) == pytest.approx(1 / 3)
    assert iou(a, a) == 1 and iou(a, ~a) == 0 and iou(~a & a, a & ~a) == 1
    masks = np.random.default_rng(0).random((2, 200_000)) < np.array([[0.6], [0.3]])
    assert iou(*masks) == pytest.approx(expected_iou(0.6, 0.3), abs=0.005)


def test_averages_the_last_layer_but_one_and_the_papers_values(tmp_path):
    """IoU of layer l at sparsity s is 0.9 - s/1000 - l/10; two files, one a pair."""
    files = [f"published={PAPER}/table4.csv", f"notes={PAPER}/notes.yaml"]
    for first, second in (pairs := [("rku", "wanda"), ("taylor_fo", "rku")]):
        rows = [(s / 100, layer, 0.9 - s / 1000 - layer / 10, 0.4) for s in (10, 40) for layer in range(3)]
        overlap = pd.DataFrame(rows, columns=["sparsity", "layer", "iou", "chance"])
        overlap = overlap.assign(model="qwen2_5-7b", calib="gsm8k-s0", first=first, second=second)
        artifacts.write_csv(tmp_path / f"{first}.csv", overlap, {})
        files.append(f"overlap={tmp_path}/{first}.csv")
    settings = {"models": ["qwen2_5-7b"], "pairs": pairs, "layer": None}
    page = table4.make(Files(files), settings)
    frame = page.frame
    assert len(frame) == 2 * 2 * 2  # pairs, average and layer 1, sparsities
    row = frame[(frame["first"] == "rku") & frame["layer"].isna() & (frame["sparsity"] == 0.4)].iloc[0]
    assert row["iou"] == pytest.approx((0.86 + 0.76 + 0.66) / 3)
    assert row["published"] == 0.7182  # Table 4: RKU against Wanda at 40%
    assert row["difference"] == pytest.approx(0.76 - 0.7182)
    other = frame[(frame["first"] == "taylor_fo") & frame["layer"].isna() & (frame["sparsity"] == 0.1)].iloc[0]
    assert other["published"] == 0.9223  # RKU against Taylor, named the other way round
    layer = frame[(frame["first"] == "rku") & (frame["layer"] == 1)]
    assert layer["iou"].tolist() == pytest.approx([0.79, 0.76])
    assert layer["published"].isna().all()  # the paper prints layer 26 only
    assert "| `rku` and `wanda`, average" in page.markdown and "76.0 [40.0] (paper 71.82, +4.2)" in page.markdown
    published = pd.read_csv(PAPER / "table4.csv")
    assert table4.rows(overlap.assign(model="tiny"), published, None)["published"].isna().all()


# Interpretations ------------------------------------------------------------------------------------------------------


def curve(mean: list[float], layer: list[float] | None = None, sparsities=(20, 40)) -> pd.DataFrame:
    return pd.DataFrame({"mean": mean, "layer": mean if layer is None else layer}, index=list(sparsities))


def test_a_curve_is_the_mean_of_layers_and_one_of_them():
    rows = [(0.1, 0, 0.9), (0.1, 1, 0.6), (0.1, 2, 0.3), (0.2, 0, 0.5), (0.2, 1, 0.4), (0.2, 2, 0.0), (0.3, 1, 0.1)]
    found = readings.curve(pd.DataFrame(rows, columns=["sparsity", "layer", "iou"]), [10, 20], 1)
    assert found["mean"].to_dict() == pytest.approx({10: 0.6, 20: 0.3})
    assert found["layer"].tolist() == [0.6, 0.4]


def test_distances_are_points_of_iou_over_the_sparsities_that_the_paper_has():
    assert TABLE4.index.tolist() == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    # Table 4 at 20 and 60%: Wanda 84.75 and 59.67, layer 26 77.10 and 51.80, Taylor-FO 86.41 and 66.59.
    curves = {
        "wanda": curve([0.8575, 0.5667, 0.0], [0.7710, 0.6180, 0.0], (20, 60, 25)),  # 1 and 3 points; 0 and 10
        "taylor": curve([0.8441, 0.6659], None, (20, 60)),  # 2 and 0
    }
    far = {"distance_wanda_mean": 2, "distance_wanda_layer": 5, "distance_taylor_mean": 1, "distance_mean": 8 / 3}
    assert readings.distances(curves, TABLE4) == pytest.approx(far)
    assert list(readings.distances(curves, TABLE4, 40).values()) == pytest.approx([1, 0, 2, 1])
    with pytest.raises(InputError, match="readings.sparsities: none is in the paper's Table 4"):
        readings.distances({role: curve([0.5], None, (25,)) for role in curves}, TABLE4)


def test_gaps_are_of_log_perplexity():
    table = pd.read_csv(PAPER / "table6.csv")
    gap = readings.gaps(table, [30, 40, 90])
    assert gap.index.tolist() == [(30, "c4"), (30, "wikitext2"), (40, "c4"), (40, "wikitext2")]
    at40 = gap.loc[(40, "wikitext2")]  # RKU 12.6401, AGF 12.6173, Taylor-FO 12.4319, Wanda-Struct 12.7073
    expected = [np.log(12.6401 / 12.6173), np.log(12.6401 / 12.4319), np.log(12.7073 / 12.6401)]
    assert at40[["agf", "taylor", "wanda"]].tolist() == pytest.approx(expected)
    assert len(readings.gaps(table, [90])) > 4  # all, as none is shared


GAP = pd.DataFrame(
    {"agf": [0.3], "taylor": [1.0], "wanda": [1.0]},
    index=pd.MultiIndex.from_tuples([(40, "c4")], names=["sparsity", "task"]),
)  # suggests 0.09 to 0.55


@pytest.mark.parametrize(
    ("agf", "verdict"), [(1.0, "same"), (0.99, "near"), (5 / 7, "fits"), (1 / 2, "far")]
)  # AGF's IoU with RKU; Taylor-FO's and Wanda's are 1/2 and 1/3, so their mean distance is 7/12
def test_agfs_verdict_is_over_the_sparsities_that_have_perplexities(agf: float, verdict: str):
    curves = {
        role: curve([iou, 0.0], None, (40, 90)) for role, iou in (("agf", agf), ("taylor", 1 / 2), ("wanda", 1 / 3))
    }
    found = readings.closeness(curves, GAP)
    assert [found[f"apart_{role}"] for role in curves] == pytest.approx([1 - agf, 1 / 2, 2 / 3])
    assert found["agf_nearness"] == pytest.approx((1 - agf) * 12 / 7) and found["agf_verdict"] == verdict
    same = readings.closeness(dict.fromkeys(curves, curve([1.0], None, (40,))), GAP)
    assert np.isnan(same["agf_nearness"]) and same["agf_verdict"] == "same"


def kept(**changes: float) -> pd.DataFrame:
    """Of 20 neurons of either region and 60% of all: what RKU and Wanda keep. Wilson's 95% interval of 12 of 20 is 39
    to 78%, of 16 of 20 58 to 92%, of 17 of 20 64 to 95%, of 8 of 20 22 to 61%."""
    shares = {"trap_rku": 0.2, "trap_wanda": 1.0, "spike_rku": 0.9, "spike_wanda": 0.1, **changes}
    rows = []
    for name, share in shares.items():
        none = np.isnan(share)
        low, high = (np.nan, np.nan) if none else wilson(round(20 * share), 20, 0.95)
        row = {"neurons": 0 if none else 20, "ci_low": low, "ci_high": high, "layer_kept_share": 0.6}
        rows.append({**row, **dict(zip(("region", "method"), name.split("_"), strict=True))})
    return pd.DataFrame(rows).set_index(["region", "method"])


CLAIMS = {
    "the paper's": ({}, {}, {}),
    "RKU keeps the trap": ({}, {"trap_rku": 0.9}, {"trap": False}),
    "RKU leaves it by chance": ({}, {"trap_rku": 0.4}, {"trap": False}),
    "Wanda leaves the trap": ({}, {"trap_wanda": 0.2}, {"trap": False}),
    "Wanda keeps it by chance": ({}, {"trap_wanda": 0.8}, {"trap": False}),
    "Wanda keeps just enough": ({}, {"trap_wanda": 0.85}, {}),
    "RKU drops the spikes": ({}, {"spike_rku": 0.1}, {"spike": False}),
    "no spikes": ({}, {"spike_rku": np.nan, "spike_wanda": np.nan}, {"spike": None}),
    "apart when shallow": ({"taylor": curve([0.8, 0.76])}, {}, {"shallow": False}),
    "Taylor-FO is farther": ({"taylor": curve([0.9, 0.6])}, {}, {"wanda_faster": False}),
    "deep layer above once": ({"wanda": curve([0.85, 0.72], [0.9, 0.62])}, {}, {"deep": False}),
    "nothing shallow or deep": (
        {"wanda": curve([0.8], [0.7], (30,)), "taylor": curve([0.8], None, (30,))},
        {},
        {"shallow": None, "wanda_faster": None},
    ),
    "the paper's own Table 4": (
        {
            "wanda": TABLE4[["wanda_mean", "wanda_layer"]].set_axis(["mean", "layer"], axis=1),
            "taylor": curve(TABLE4["taylor_mean"].tolist(), None, TABLE4.index),
        },
        {},
        {},
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_can_fail(name: str):
    changed, shares, expected = CLAIMS[name]
    curves = {"wanda": curve([0.85, 0.72], [0.77, 0.62]), "taylor": curve([0.86, 0.76]), **changed}
    holds = dict.fromkeys(("shallow", "wanda_faster", "deep", "trap", "spike"), True) | expected
    assert readings.claims(curves, kept(**shares)) == {f"claim_{name}": held for name, held in holds.items()}


def test_the_table_has_the_best_interpretation_first_and_marks_the_presets(tmp_path: Path):
    """A model of three layers with four neurons each; masks at 40% and overlaps at 20 and 40%."""
    folder = tmp_path / "results/m"
    frame = pd.DataFrame([(layer, neuron) for layer in range(3) for neuron in range(4)], columns=["layer", "unit"])
    sums = {"act_sq_sum": [9.0, 4, 1, 0] * 3, "energy_grad_sq_sum": [0.0, 1, 4, 9] * 3, "ce_grad_sq_sum": 1.0}
    statistics = frame.assign(n_tokens=1.0, **sums)
    artifacts.write_parquet(folder / "calibration/c/statistics.parquet", statistics, "statistics", {})
    for method, kept in {"rku": [0, 1, 1, 1], "wanda": [1, 1, 1, 0], "sq": [1, 1, 1, 0]}.items():
        mask = frame.assign(keep=np.array(kept * 3, bool))
        artifacts.write_parquet(folder / f"masks/c/{method}/40.parquet", mask, "mask", {})
    ious = {("rku", "agf"): 0.98, ("rku", "taylor_fo"): 0.80, ("rku", "wanda"): 0.75}
    ious |= {("sq", "sq"): 1.0, ("sq", "taylor_fo"): 0.4, ("sq", "wanda"): 0.3}
    for (first, second), value in ious.items():
        rows = [(s, layer, value) for s in (0.2, 0.4) for layer in range(3)]
        rows = pd.DataFrame(rows, columns=["sparsity", "layer", "iou"])
        artifacts.write_csv(folder / f"analysis/overlap/c/{first}/{second}.csv", rows, {})
    squared = {"title": "RKU squared", "rku": "sq", "agf": "sq", "taylor": "taylor_fo", "wanda": "wanda"}
    own = {"title": "Share | sample", **readings.PRESETS}
    settings = {"models": ["m"], "calib": "c", "sparsities": [40], "layer": None, "sparsity": 40, "confidence": 0.95}
    settings |= {"rows": {"squared": {**squared, "objective": "ce"}, "own": {**own, "objective": "energy"}}}
    settings |= {"high": 0.75, "low": 0.25}
    templates = {"overlap": names.OVERLAP, "masks": names.MASK, "statistics": names.STATISTICS}
    files = [f"{name}={tmp_path}/{template}" for name, template in templates.items()]
    page = readings.make(Files([*files, *(f"table{n}={PAPER}/table{n}.csv" for n in (4, 6))]), settings)
    found = page.frame.set_index("reading")
    assert found["layer"].tolist() == [1, 1] and found["chosen"].tolist() == [False, True]
    assert found.loc["own", "distance_wanda_mean"] == pytest.approx(75 - 71.82)  # Table 4 at 40%
    assert found.loc["own", "distance_mean"] == pytest.approx((3.18 + 13.1 + 3.88) / 3)
    assert found["agf_verdict"].to_dict() == {"own": "fits", "squared": "same"}  # 0.02 over 0.225
    # Neuron 0 is active and without energy gradient, neuron 3 the reverse; the cross-entropy's gradient is constant.
    assert found.loc["own", ["trap_neurons", "trap_wanda", "trap_rku", "spike_rku"]].tolist() == [1, 1, 0, 1]
    # One neuron of each shows nothing.
    assert found.loc["own", ["claim_trap", "claim_spike", "claim_wanda_faster"]].tolist() == [False, False, True]
    lines = [line for line in page.markdown.splitlines() if line.startswith(("| Share", "| RKU squared"))]
    assert (
        lines[0].startswith("| Share \\| sample (the presets)") and "| **3.2** " in lines[0] and "| same " in lines[1]
    )
    assert page.tex.isascii()
