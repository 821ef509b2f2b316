"""Pruning in rounds: a compact, recovered model is the base of the next one. Widths by what cuts cost."""

import json
import re

import pandas as pd
import pytest
import torch

from pruning.models.loading import load
from workspace import Workspace, undescribed

SOURCE = {"kind": "pruned", "model": "tiny-reasoner", "calib": "gsm_symbolic-s0", "method": "wanda", "sparsity": 25}
TARGET = "results/second/compact/gsm_symbolic-s0/rku_global/50/manifest.json"


def test_two_rounds_with_a_recovery_between(finished: Workspace):
    measured = "results/second/sensitivity/gsm_symbolic-s0/sensitivity.parquet"
    second = {"models.second.source": {**SOURCE, "tuning": "arithmetic"}}
    with finished.configured(second | {"methods.sensitivity.min_keep": 0.25}):
        finished.snakemake(TARGET, measured)
    results = finished.path / "results"
    base = json.loads((results / "second/base/manifest.json").read_text())
    first = json.loads((results / "tiny-reasoner/base/manifest.json").read_text())
    assert (base["widths"], base["original"]) == ([36, 36], first["original"])
    assert first["original"]["widths"] == [48, 48]
    made = json.loads((finished.path / TARGET).read_text())
    assert (sum(made["widths"]), made["achieved_sparsity"]) == (48, 0.5)
    assert made["parameters"] == first["parameters"]
    statistics = pd.read_parquet(results / "second/calibration/gsm_symbolic-s0/statistics.parquet")
    assert len(statistics) == 72  # the second round is measured on what the first one left
    assert pd.read_parquet(finished.path / measured)["width"].min() == 12  # a quarter of what was there at first, 48
    assert undescribed(finished) == []
    compact = results / "tiny-reasoner/compact/gsm_symbolic-s0/wanda/25/model"
    adapter = results / "tiny-reasoner/recovered/gsm_symbolic-s0/wanda/25/arithmetic"
    ids = torch.arange(1, 40)[None]
    merged, plain, tuned = (
        load(*a)[0](ids).logits
        for a in (
            (results / "second/base", "float32", "cpu"),
            (compact, "float32", "cpu"),
            (compact, "float32", "cpu", adapter),
        )
    )
    torch.testing.assert_close(merged, tuned)
    assert not torch.allclose(merged, plain)


def test_a_further_round_is_distilled_from_the_whole_model(finished: Workspace):
    changes = {"models.second.source": SOURCE, "models.third.source": {**SOURCE, "model": "second", "sparsity": 50}}
    changes["tunings.distilled"] = {"dataset": "arithmetic", "objective": "distillation"}
    with finished.configured(changes):
        for model in ("tiny-reasoner", "second", "third"):
            adapter = f"results/{model}/recovered/gsm_symbolic-s0/wanda/75/distilled/recovery.json"
            planned = finished.snakemake("-n", "-p", adapter)
            assert re.findall(r"--teacher=(\S+)", planned.stdout + planned.stderr) == ["results/tiny-reasoner/base"]


def test_padding_is_what_a_further_round_removes_first(finished: Workspace):
    padded = {"score": "wanda", "allocate": "global", "export": "pad"}
    target = "results/third/compact/gsm_symbolic-s0/rku_global/50/manifest.json"
    with finished.configured({"methods.padded": padded, "models.third.source": {**SOURCE, "method": "padded"}}):
        finished.snakemake(target)
    first, base, made = (
        json.loads((finished.path / path).read_text())
        for path in (
            "results/tiny-reasoner/compact/gsm_symbolic-s0/padded/25/manifest.json",
            "results/third/base/manifest.json",
            target,
        )
    )
    assert sum(first["widths"]) == 72 and base["widths"] == [max(first["widths"])] * 2  # the rest is padding
    assert first["widths"][0] != first["widths"][1]
    assert (sum(made["widths"]), made["achieved_sparsity"]) == (48, 0.5)
    model, _ = load((finished.path / target).parent / "model", "float32", "cpu")
    for layer in model.model.layers:
        assert layer.mlp.down_proj.weight.abs().sum(0).min() > 0  # no neuron of zeros was kept for a real one


def test_widths_by_what_cuts_cost(finished: Workspace):
    """One measurement of each method serves its sparsities; the second one refits what cuts leave."""
    masks = "results/tiny-reasoner/masks/gsm_symbolic-s0/{}/{}.parquet"
    asked = [masks.format(method, sparsity) for method in ("sensitivity", "ridge_greedy") for sparsity in (30, 60)]
    planned = finished.planned(*asked)
    assert planned["sensitivity"] == 2 and planned["mask"] == 4 and planned["second_moments"] == 1
    finished.snakemake(*asked)
    for path, sparsity in zip(asked, (30, 60, 30, 60), strict=True):
        assert (~pd.read_parquet(finished.path / path)["keep"]).mean() == pytest.approx(sparsity / 100, abs=1 / 64)
    cuts = {
        m: pd.read_parquet(finished.path / f"results/tiny-reasoner/sensitivity/gsm_symbolic-s0/{m}.parquet")
        for m in ("sensitivity", "ridge_greedy")
    }
    assert [len(own) for own in cuts.values()] == [32, 32]
    assert (cuts["ridge_greedy"]["passes"].diff().dropna() > 0).all()
    budget = finished.planned(
        "results/tiny-reasoner/budget/gsm_symbolic-s0/sensitivity/small.json",
        "--config",
        "budgets={small: {parameters: 80%}}",
    )
    assert budget == {"budget": 1}
    assert finished.planned(*asked) == {}
