"""Table 4 from overlaps of two pairs on a model of three layers."""

from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.report.files import Files
from pruning.report.tables import table4

ROOT = Path(__file__).parents[2]
PUBLISHED = "resources/paper/table4.csv"
NOTES = "resources/paper/notes.yaml"


@pytest.fixture
def overlaps(tmp_path):
    """IoU of layer l at sparsity s is 0.9 - s/1000 - l/10; two files, one a pair."""
    paths = []
    for first, second in (("rku", "wanda"), ("taylor_fo", "rku")):
        rows = [(s / 100, layer, 0.9 - s / 1000 - layer / 10, 0.4) for s in (10, 40) for layer in range(3)]
        frame = pd.DataFrame(rows, columns=["sparsity", "layer", "iou", "chance"])
        named = {"model": "qwen2_5-7b", "calib": "gsm8k-s0", "first": first, "second": second}
        paths.append(tmp_path / f"{first}.csv")
        artifacts.write_csv(paths[-1], frame.assign(**named)[[*named, *frame.columns]], {})
    return paths


def run(overlaps, tmp_path, **changes) -> tuple[pd.DataFrame, str]:
    pairs = [["rku", "wanda"], ["taylor_fo", "rku"]]
    settings = {"models": ["qwen2_5-7b"], "pairs": pairs, "layer": None, **changes}
    files = [f"overlap={path}" for path in overlaps]
    page = table4.make(Files([*files, f"published={ROOT / PUBLISHED}", f"notes={ROOT / NOTES}"]), settings)
    return pd.read_csv(StringIO(page.frame.to_csv(index=False))), page.markdown


def test_averages_the_last_layer_but_one_and_the_papers_values(overlaps, tmp_path):
    frame, text = run(overlaps, tmp_path)
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
    assert "| `rku` and `wanda`, average" in text
    assert "76.0 [40.0] (paper 71.82, +4.2)" in text


def test_a_layer_out_of_range_is_named(overlaps, tmp_path):
    with pytest.raises(InputError, match="experiment.layer: 3 is out of range, the model has layers 0 to 2"):
        run(overlaps, tmp_path, layer=3)


def test_another_model_has_no_published_values(overlaps):
    frame = pd.read_csv(overlaps[0]).assign(model="tiny")
    assert table4.rows(frame, pd.read_csv(PUBLISHED), None)["published"].isna().all()
