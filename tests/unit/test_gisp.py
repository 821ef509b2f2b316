"""Many iterations of first-order pruning: against iterations by hand, with whole backward passes of masked models."""

import measure
import numpy as np
import pytest
from test_parameter_gradients import brute_force, micro_batches, weights

import tiny
from pruning.calibration import gisp
from pruning.config.default import DEFAULT
from pruning.core import artifacts
from pruning.methods.scores import Layer, Weights
from pruning.methods.scores import gisp as plugin

LAYERS, N = 3, 48


def by_hand(step: int) -> np.ndarray:
    """Removed neurons are masked, and all is asked of the whole model again; [LAYERS, N]."""
    model, batches, places = tiny.qwen2(layers=LAYERS).double(), micro_batches(), np.full((LAYERS, N), -1)
    for end in range(step, 100 + step, step):
        scores = np.array(brute_force(model, batches))
        scores /= scores.sum(1, keepdims=True)  # those that were removed have none
        left = [(scores[at], at) for at in zip(*np.nonzero(places < 0), strict=True)]
        done, gone = LAYERS * N - len(left), int(LAYERS * N * end / 100 + 0.5)
        for place, (_, (layer, unit)) in enumerate(sorted(left)[: gone - done], start=done):
            places[layer, unit] = place
            weights(model, layer)["down"].data[:, unit] = 0
    return places


@pytest.mark.parametrize("step, layers_a_pass", [(25, 3), (20, 1)])
def test_the_order_is_that_of_iterations_by_hand(monkeypatch, step, layers_a_pass):
    monkeypatch.setattr(gisp, "STEP", step)
    found = gisp.removal_order(tiny.qwen2(layers=LAYERS).double(), micro_batches(), layers_a_pass)
    assert np.array_equal(found, by_hand(step))
    monkeypatch.setattr(gisp, "STEP", 100)
    once = gisp.removal_order(tiny.qwen2(layers=LAYERS).double(), micro_batches(), layers_a_pass)
    assert np.array_equal(once, by_hand(100)) and not np.array_equal(once, found)


def test_the_stage_writes_what_the_preset_reads(tmp_path):
    settings, files = {**tiny.CALIBRATION, "gradient_checkpointing": True}, tiny.to_calibrate(tmp_path)
    measure.measure("calibration/gisp", [tmp_path / "gisp.parquet"], settings, *files)
    frame = artifacts.read_parquet(tmp_path / "gisp.parquet", "gisp")
    assert list(frame.columns) == ["layer", "unit", "place"] and sorted(frame["place"]) == list(range(len(frame)))
    layer = Layer(1, {"place": frame.loc[frame["layer"] == 1, "place"].to_numpy()}, Weights(lambda _: None))
    assert plugin.score(layer).tolist() == layer["place"].tolist()
    method = DEFAULT.method("gisp")
    assert method.score == "gisp" and method.allocate == "global" and method.compensate == "none"
