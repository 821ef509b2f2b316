"""Quality against size and speed: which models are on a front, what is timed, and what the table says of it."""

import json

import numpy as np
import pandas as pd
import pytest
import speed as stage
from test_variants import parts, written

import tiny
from pruning.analysis import tradeoff
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import variants
from pruning.models.checkpoint import Checkpoint
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


# what is timed


@pytest.fixture
def family(tmp_path):
    """The dense model; cut evenly, on disk and twice in memory; unevenly; with a bias."""
    even = parts(tmp_path, tiny.qwen2(), (20, 20))
    uneven = parts(tmp_path / "uneven", tiny.qwen2(), (7, 31))
    bias = parts(tmp_path / "bias", tiny.qwen2(), (20, 20), "bias")
    dense = variants.Parts(even.model, even.manifest)
    return {"dense": dense, "c/rku/50": even, "c/agf/50": even, "c/flap/50": uneven, "c/biased/50": bias}


def options(family) -> list[str]:
    found = []
    for label, own in family.items():
        paths = {key: str(value) for key, value in vars(own).items() if value is not None}
        found.append(json.dumps({"variant": label, **paths}))
    return found


SETTINGS = {"model": "tiny", "prompt_tokens": 8, "decode_tokens": 3, "rounds": 3, "warmup": 1, "dtype": "float32"}
SETTINGS |= {"confidence": 0.95, "resamples": 200, "seed": 0}


def test_every_model_is_timed_and_equal_shapes_once(family, tmp_path, monkeypatch):
    measured = []
    true_measure = stage_measure()

    def measure(models, *rest):
        measured.append({label: sum(p.numel() for p in model.parameters()) for label, model in models.items()})
        return true_measure(models, *rest)

    monkeypatch.setattr("pruning.analysis.latency.measure", measure)
    stage.speed(SETTINGS, options(family), tmp_path / "speed.csv")
    made = pd.read_csv(tmp_path / "speed.csv").set_index("variant")
    assert made["timed"].to_dict() == {
        **{"dense": "dense", "c/rku/50": "c/rku/50", "c/agf/50": "c/rku/50"},
        **{"c/flap/50": "c/flap/50", "c/biased/50": "c/biased/50"},
    }
    assert [list(one) for one in measured] == [["dense", label] for label in ("c/rku/50", "c/flap/50", "c/biased/50")]
    for models in measured:  # the very models, cut
        for label, parameters in models.items():
            assert made.loc[label, "parameters"] == parameters
    assert made.loc["c/agf/50", SPEEDUPS].equals(made.loc["c/rku/50", SPEEDUPS].rename("c/agf/50"))
    assert made.loc["dense", SPEEDUPS].tolist() == [1] * 6
    assert (made[["prefill_s", "decode_tokens_per_s", *SPEEDUPS]] > 0).all(axis=None)
    with pytest.raises(InputError, match=r"prompt_tokens \+ decode_tokens: 510 \+ 3 is longer"):
        stage.speed(SETTINGS | {"prompt_tokens": 510}, options(family), tmp_path / "none.csv")


def stage_measure():
    from pruning.analysis.latency import measure

    return measure


@pytest.mark.parametrize("label", ["c/rku/50", "c/flap/50", "c/biased/50"])
def test_what_is_cut_in_memory_has_the_outline_and_the_bytes_of_what_is_written(family, tmp_path, label):
    own = family[label]
    folder = written(own, tmp_path / "written")
    on_disk = variants.Parts(folder, folder / "none.json")
    assert variants.outline(on_disk) == variants.outline(own)
    [file] = Checkpoint(folder).files
    assert variants.stored(on_disk) == file.stat().st_size
    assert variants.stored(own) == pytest.approx(file.stat().st_size, rel=0.02)  # headers


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
    return frame.assign(decode_tokens_per_s=100.0, **dict.fromkeys(SPEEDUPS, speed))


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
    assert "**79.0** [74.0, 84.0]" in lines[3] and "1.50 [1.50, 1.50]" in lines[3] and lines[3].count("✓") == 3
    assert lines[2].count("✓") == 0


def test_a_model_without_a_time_is_named():
    with pytest.raises(InputError, match="results of c/wanda/30/lora, but no time of it"):
        tradeoff.joined(quality(DENSE, WANDA, TUNED), timed("dense", "c/wanda/30"), "t", "acc")
