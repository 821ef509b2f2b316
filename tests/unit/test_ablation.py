"""The ablation's rows: who is compared with whom, by tests that statsmodels and hand counts confirm."""

import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from pruning.core.errors import InputError
from pruning.paper.tables import ablation

RKU = "energy-share-none-uniform"
SETTINGS = {"task": "sums", "title": "Sums", "sparsity": 40, "confidence": 0.95, "calib": "sums-s0"}
SETTINGS["presets"] = {RKU: "rku", "ce-net_abs-none-uniform": "taylor_fo_net"}
KEYS = [RKU, "ce-net_abs-none-uniform", "energy_post-abs-none-global"]


def outcomes(correct: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"item": range(len(correct)), "item_hash": list("abcdefghijkl"), "value": list(map(int, correct)), "weight": 1}
    )


DENSE = outcomes("111111111111")
SAMPLES = dict(zip(KEYS, map(outcomes, ("111111110000", "111111111111", "000000000001")), strict=True))


@pytest.fixture
def table() -> pd.DataFrame:
    return ablation.rows("tiny", SAMPLES, DENSE, SETTINGS)


def test_a_combination_is_its_name_its_interval_wilsons_and_the_best_is_first(table):
    choices = table[[*ablation.CHOICES, "preset"]].to_numpy().tolist()
    assert choices == [
        ["energy", "share", "none", "uniform", "rku"],
        ["ce", "net_abs", "none", "uniform", "taylor_fo_net"],
        ["energy_post", "abs", "none", "global", ""],
    ]
    low, high = proportion_confint(8, 12, method="wilson")
    assert table.loc[0, ["value", "ci_low", "ci_high"]].tolist() == pytest.approx([8 / 12, low, high])
    shown = [cells for _, cells in ablation.block("tiny", table, 1.0, SETTINGS).rows]
    assert [line[3] for line in shown] == ["`taylor_fo_net`", "`rku`", ""]
    assert [line[4].value for line in shown] == ["100.0", "66.7", "8.3"]
    assert shown[1][5] == "–"


def test_the_others_are_compared_with_rku_and_adjusted_together(table):
    assert pd.isna(table["p_value"][0]) and pd.isna(table["delta"][0])
    assert table["delta"][1:].tolist() == pytest.approx([4 / 12, -7 / 12])
    # (both right, only the one), (only RKU, neither)
    expected = [mcnemar([[8, 4], [0, 0]], exact=True).pvalue, mcnemar([[0, 1], [8, 3]], exact=True).pvalue]
    assert table["p_value"][1:].tolist() == pytest.approx(expected)
    assert table["p_holm"][1:].tolist() == pytest.approx(multipletests(expected, method="holm")[1].tolist())
    assert table["discordant"][1:].tolist() == [4, 9]


def test_items_that_share_templates_are_compared_by_template_as_well(table):
    """Four templates of three items: the t-test is that of their mean differences."""
    assert table["p_cluster"].isna().all()
    clusters = [str(i // 3) for i in range(12)]
    samples = {key: frame.assign(cluster=clusters) for key, frame in SAMPLES.items()}
    found = ablation.rows("tiny", samples, DENSE.assign(cluster=clusters), SETTINGS)
    means = [[0, 0, 1 / 3, 1], [-1, -1, -2 / 3, 1 / 3]]
    expected = [ttest_1samp(mean, 0).pvalue for mean in means]
    assert found["p_cluster"][1:].tolist() == pytest.approx(expected)
    assert found["p_cluster_holm"][1:].tolist() == pytest.approx(multipletests(expected, method="holm")[1].tolist())
    block = ablation.block("tiny", found, 1.0, SETTINGS)
    larger = found[["p_holm", "p_cluster_holm"]].max(axis=1)
    assert [cells[5] for _, cells in block.rows] == [f"{larger[1]:.3f}", "–", f"{larger[2]:.3f}"]
    assert "share templates" in block.notes[-1]
    assert "templates" not in ablation.block("tiny", table, 1.0, SETTINGS).notes[-1]


def test_without_rku_nothing_is_tested_and_other_items_are_refused():
    table = ablation.rows("tiny", {key: SAMPLES[key] for key in KEYS[1:]}, DENSE, SETTINGS)
    assert table["p_holm"].isna().all() and table["value"].notna().all()
    other = {**SAMPLES, KEYS[1]: SAMPLES[KEYS[1]].assign(item_hash=list("abcdefghijkz"))}
    with pytest.raises(InputError, match="different items"):
        ablation.rows("tiny", other, DENSE, SETTINGS)
