"""The ablation's rows: who is compared with whom, by tests that statsmodels and hand counts confirm."""

import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from pruning import ablation
from pruning.errors import InputError

SETTINGS = {
    "task": "sums",
    "title": "Sums",
    "sparsity": 40,
    "confidence": 0.95,
    "calib": "sums-s0",
    "presets": {"energy-share-none-uniform": "rku", "ce-net_abs-none-uniform": "taylor_fo_net"},
}
RKU = "energy-share-none-uniform"
KEYS = [RKU, "ce-net_abs-none-uniform", "energy_post-abs-none-global"]


def outcomes(correct: str) -> pd.DataFrame:
    return pd.DataFrame(
        {"item": range(len(correct)), "item_hash": list("abcdefghijkl"), "value": list(map(int, correct)), "weight": 1}
    )


DENSE = outcomes("111111111111")
SAMPLES = dict(zip(KEYS, map(outcomes, ("111111110000", "111111111111", "000000000001")), strict=True))


@pytest.fixture
def table() -> pd.DataFrame:
    return ablation.rows(SAMPLES, DENSE, SETTINGS)


def test_a_combination_is_its_name(table):
    choices = table[ablation.CHOICES].to_numpy().tolist()
    assert choices == [
        ["energy", "share", "none", "uniform"],
        ["ce", "net_abs", "none", "uniform"],
        ["energy_post", "abs", "none", "global"],
    ]
    assert table["preset"].tolist() == ["rku", "taylor_fo_net", ""]


def test_the_others_are_compared_with_rku_and_adjusted_together(table):
    assert pd.isna(table["p_value"][0]) and pd.isna(table["delta"][0])
    assert table["delta"][1:].tolist() == pytest.approx([4 / 12, -7 / 12])
    # (both right, only the one), (only RKU, neither)
    expected = [mcnemar([[8, 4], [0, 0]], exact=True).pvalue, mcnemar([[0, 1], [8, 3]], exact=True).pvalue]
    assert table["p_value"][1:].tolist() == pytest.approx(expected)
    assert table["p_holm"][1:].tolist() == pytest.approx(multipletests(expected, method="holm")[1].tolist())
    assert table["discordant"][1:].tolist() == [4, 9]


def test_intervals_are_wilsons(table):
    low, high = proportion_confint(8, 12, method="wilson")
    assert table.loc[0, ["value", "ci_low", "ci_high"]].tolist() == pytest.approx([8 / 12, low, high])


def test_without_rku_among_them_nothing_is_tested():
    table = ablation.rows({key: SAMPLES[key] for key in KEYS[1:]}, DENSE, SETTINGS)
    assert table["p_holm"].isna().all() and table["value"].notna().all()


def test_other_items_are_refused():
    other = {**SAMPLES, KEYS[1]: SAMPLES[KEYS[1]].assign(item_hash=list("abcdefghijkz"))}
    with pytest.raises(InputError, match="different items"):
        ablation.rows(other, DENSE, SETTINGS)


def test_printed_from_the_best_to_the_worst(table):
    block = ablation.block("tiny", table, 1.0, SETTINGS)
    printed = [[cell.value for cell in cells] for _, cells in block.rows]
    assert [line[3] for line in printed] == ["`taylor_fo_net`", "`rku`", ""]
    assert [line[4] for line in printed] == ["100.0", "66.7", "8.3"]
    assert printed[1][5] == "–"
