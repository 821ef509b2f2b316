"""Quality against size and speed: which models are on a front, and what the table says of it."""

import numpy as np
import pandas as pd
import pytest

from pruning.analysis import tradeoff
from pruning.core import artifacts
from pruning.report.figures import tradeoff as figure
from pruning.report.files import Files
from pruning.report.tables import tradeoff as table

SPEEDUPS = [f"{part}_speedup{end}" for part in ("prefill", "decode") for end in ("", "_low", "_high")]


def models(*rows) -> pd.DataFrame:
    """(value, half its interval, bytes, prefill speed-up, half its interval)."""
    frame = pd.DataFrame(rows, columns=["value", "half", "bytes", "prefill_speedup", "spread"])
    frame = frame.assign(ci_low=frame["value"] - frame["half"], ci_high=frame["value"] + frame["half"])
    frame["prefill_speedup_low"] = frame["prefill_speedup"] - frame["spread"]
    frame["prefill_speedup_high"] = frame["prefill_speedup"] + frame["spread"]
    return frame


def test_the_front_by_hand():
    found = models(
        (0.80, 0.02, 1000, 1.0, 0.0),  # dense
        (0.79, 0.02, 800, 1.2, 0.1),  # smaller and faster
        (0.78, 0.02, 800, 1.3, 0.1),  # as small as one that is better; not clearly faster, and within its interval
        (0.60, 0.02, 800, 1.2, 0.1),  # beaten by far
        (0.60, 0.02, 500, 2.0, 0.1),  # the smallest
    )
    assert tradeoff.places(found, "size", True) == ["front", "front", "near", "behind", "front"]
    assert tradeoff.places(found, "prefill", True) == ["front", "front", "near", "behind", "front"]


def test_a_clock_or_a_hundredth_of_the_size_puts_no_bad_model_on_the_front():
    found = models((0.80, 0.01, 1000, 1.500, 0.02), (0.05, 0.01, 999, 1.501, 0.02))
    assert [tradeoff.places(found, cost, True) for cost in ("size", "prefill")] == [["front", "behind"]] * 2
    clear = models((0.80, 0.01, 1000, 1.50, 0.02), (0.05, 0.01, 950, 1.60, 0.02))
    assert [tradeoff.places(clear, cost, True) for cost in ("size", "prefill")] == [["front", "front"]] * 2


def test_low_perplexities_are_the_good_ones():
    found = models((10, 0.5, 1000, 1, 0), (30, 0.5, 1000, 1, 0), (10.4, 0.5, 1000, 1, 0), (12, 0.5, 700, 1.4, 0))
    assert tradeoff.places(found, "size", False) == ["front", "behind", "near", "front"]


@pytest.mark.parametrize("seed", range(8))
def test_without_intervals_it_is_the_pareto_front_of_the_textbook(seed):
    rng = np.random.default_rng(seed)
    rows = [(value, 0, 1, speedup, 0) for value, speedup in zip(rng.random(12), 1 + rng.random(12), strict=True)]
    textbook = [
        not any((v >= value and s >= speedup) and (v > value or s > speedup) for v, _, _, s, _ in rows)
        for value, _, _, speedup, _ in rows
    ]
    assert [place == "front" for place in tradeoff.places(models(*rows), "prefill", True)] == textbook


# the table


def quality(*rows) -> pd.DataFrame:
    names = ["calib", "method", "sparsity", "tuning", "value"]
    frame = pd.DataFrame(rows, columns=names).assign(model="m", task="t", metric="acc", n=100, params_removed=0.1)
    return frame.assign(ci_low=frame["value"] - 0.05, ci_high=frame["value"] + 0.05)


DENSE = (None, "dense", 0.0, None, 0.8)
WANDA, TUNED = ("c", "wanda", 0.3, None, 0.6), ("c", "wanda", 0.3, "lora", 0.79)


def timed(*names) -> pd.DataFrame:
    frame = pd.DataFrame({"model": "m", "variant": names, "timed": names, "device": "cpu", "dtype": "float32"})
    frame = frame.assign(threads=1, prompt_tokens=8, decode_tokens=3, rounds=3, peak_memory_mb=np.nan)
    frame = frame.assign(parameters=10**6, bytes=[1000, *[700] * (len(names) - 1)], prefill_s=0.01)
    speed = [1.0, *[1.5] * (len(names) - 1)]
    frame = frame.assign(decode_tokens_per_s=100.0, **dict.fromkeys(SPEEDUPS, speed))
    return frame.assign(prefill_speedup_high=frame["prefill_speedup"] + 0.1)


def test_the_table_has_each_model_once_from_whichever_table_it_is(tmp_path):
    artifacts.write_csv(tmp_path / "one.csv", quality(DENSE, WANDA), {})
    artifacts.write_csv(tmp_path / "two.csv", quality(DENSE, WANDA, TUNED), {})
    artifacts.write_csv(tmp_path / "speed.csv", timed("dense", "c/wanda/30", "c/wanda/30/lora"), {})
    files = Files([f"quality={tmp_path}/one.csv", f"quality={tmp_path}/two.csv", f"speed={tmp_path}/speed.csv"])
    settings = {"task": "t", "metric": "acc", "kind": "accuracy", "title": "Sums", "confidence": 0.95}
    page = table.make(files, settings)
    assert page.frame["size_front"].tolist() == ["front", "behind", "front"]
    lines = [line for line in page.markdown.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines[1:]] == [
        "dense",
        "`wanda`, 30%",
        "`wanda`, 30%, recovered (lora)",
    ]
    assert "**79.0** [74.0, 84.0]" in lines[3] and "1.50 [1.50, 1.60]" in lines[3] and lines[3].count("✓") == 3
    assert lines[2].count("✓") == 0


def test_a_method_looks_the_same_in_the_legend_and_in_all_panels():
    """Methods that have no style of their own, in another order by bytes than by rows."""
    rows = quality(DENSE, ("c", "first", 0.3, None, 0.6), ("c", "second", 0.3, None, 0.5))
    rows = rows.assign(**dict.fromkeys(SPEEDUPS, [1.0, 1.5, 1.6]), bytes=[1000, 700, 600])
    rows = rows.assign(**dict.fromkeys(figure.FRONTS, "front"))
    drawn = figure.draw({"tradeoff": rows}, {"title": "Sums", "kind": "accuracy", "models": ["m"], "methods": []})
    [legend] = drawn.legends
    colors = {handle.get_label(): handle.get_color() for handle in legend.get_lines()}
    sizes = next(axis for part in drawn.subfigs for axis in part.axes)
    points = {line.get_xdata()[0]: line.get_color() for line in sizes.lines if len(line.get_xdata()) == 1}
    assert points == {100: colors["dense"], 70: colors["first"], 60: colors["second"]}
