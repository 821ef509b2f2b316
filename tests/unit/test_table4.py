"""Table 4 from overlaps of two pairs on a model of three layers; how two masks agree by hand and by chance."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pruning.core import artifacts
from pruning.paper.overlap import expected_iou, iou
from pruning.paper.tables import table4
from pruning.report.files import Files

PAPER = Path(__file__).parents[2] / "resources/paper"


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
