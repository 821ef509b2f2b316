"""A mixture of experts through the workflow: from its folder to a smaller stock model and its answers."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import tiny
from workspace import Workspace, changed, verified

MODEL, CALIB = "results/tiny-reasoner", "gsm_symbolic-s0"
TABLE = {
    "title": "Experts",
    "tasks": ["gsm_symbolic"],
    "methods": ["reap", "frequency", "rku", "random"],
    "sparsities": [50],
    "reference": "random",
}
EXPORTED, NARROW = (f"{MODEL}/export/{CALIB}/{method}/model" for method in ("reap/50", "narrow_wanda/33"))
FILE = f"{MODEL}/export/{CALIB}/reap/50/gguf/f16.gguf"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Workspace:
    """A workspace with a mixture in the place of its model, and a table of its methods, made."""
    path = tmp_path_factory.mktemp("mixed")
    tiny.with_a_merge(tiny.save(tiny.of_family("qwen3_moe"), path / "resources/model"))
    workspace = Workspace(path)
    default = yaml.safe_load((workspace.path / "config/config.yaml").read_text())["tables"]
    tables = {**dict.fromkeys(default), "experts": TABLE}  # others hold what is not for mixtures
    workspace.configure({"tables": tables})
    workspace.snakemake("results/experts.csv", EXPORTED, NARROW, FILE)
    return workspace


def test_from_a_folder_to_a_smaller_stock_model_and_its_answers(mixed: Workspace):
    table = pd.read_csv(mixed.path / "results/experts.csv")
    assert {*table["method"]} == {"dense", *TABLE["methods"]} and set(table["achieved_sparsity"]) == {0, 0.5}
    exported = mixed.path / EXPORTED
    made = json.loads((exported / "manifest.json").read_text())
    assert made["widths"] == [3, 3] and made["counted"] == "experts" and made["achieved_sparsity"] == 0.5
    assert {"transformers", "peft", "lm_eval", "the dense model, masked"} <= made["checks"].keys()
    card = (exported / "README.md").read_text()
    assert "50% of the experts of its feed-forward layers are removed" in card and "| experts | 3 in each of 2" in card
    model = AutoModelForCausalLM.from_pretrained(exported)
    assert model.config.num_experts == 3 and model.num_parameters() == made["parameters_kept"]
    file = json.loads((mixed.path / FILE).with_suffix(".json").read_text())
    assert file["architecture"] == "qwen3moe" and (file["experts"], file["widths"]) == ([3, 3], [24, 24])
    assert (
        "| experts | 3 in each of 2 layers |\n| FFN widths | 24 in"
        in (mixed.path / FILE).with_suffix(".md").read_text()
    )
    assert " 0 mistakes" in verified(mixed, 0)


def test_what_is_kept_are_the_best_by_what_was_measured(mixed: Workspace):
    """Of both shards together, by the text's own tokens: the statistics, merged, against one pass."""
    statistics = pd.read_parquet(mixed.path / MODEL / "calibration" / CALIB / "statistics.parquet")
    assert statistics.groupby("layer").size().tolist() == [144, 144]
    for layer, rows in statistics.groupby("layer"):
        experts = rows.iloc[::24]
        assert experts["routed_tokens"].sum() == 2 * rows["n_tokens"].iloc[0]
        for method, values in {
            "reap": experts["routed_norm_sum"] / experts["routed_tokens"],
            "frequency": experts["routed_tokens"] / experts["n_tokens"],
            "rku": rows["energy_share_sum"].to_numpy().reshape(6, 24).sum(1) / rows["n_samples"].iloc[0],
        }.items():
            mask = pd.read_parquet(mixed.path / MODEL / "masks" / CALIB / method / "50.parquet")
            own = mask[mask["layer"] == layer]
            assert (own["structure"] == "experts").all()
            assert set(own[own["keep"]]["unit"]) == set(np.argsort(-np.asarray(values), kind="stable")[:3]), method


def test_the_exported_model_is_the_dense_one_without_these_rows(mixed: Workspace):
    mask = pd.read_parquet(mixed.path / MODEL / "masks" / CALIB / "reap/50.parquet")
    dense = AutoModelForCausalLM.from_pretrained(mixed.path / "resources/model")
    small = AutoModelForCausalLM.from_pretrained(mixed.path / EXPORTED)
    for layer, (own, left) in enumerate(zip(dense.model.layers, small.model.layers, strict=True)):
        rows = torch.tensor(np.flatnonzero(mask[mask["layer"] == layer]["keep"]))
        for name in ("gate.weight", "experts.gate_up_proj", "experts.down_proj"):
            assert torch.equal(left.mlp.get_parameter(name), own.mlp.get_parameter(name)[rows])


def test_narrower_experts_are_exported_as_a_stock_model_too(mixed: Workspace):
    made = json.loads((mixed.path / NARROW / "manifest.json").read_text())
    assert made["widths"] == [6, 6] and made["expert_neurons"] == [96, 96]
    assert {"transformers", "peft", "lm_eval", "the dense model, masked"} <= made["checks"].keys()
    card = (mixed.path / NARROW / "README.md").read_text()
    assert "are removed, in experts and in neurons of experts" in card
    assert AutoModelForCausalLM.from_pretrained(mixed.path / NARROW).config.moe_intermediate_size == 16
    mask = pd.read_parquet(mixed.path / MODEL / "masks" / CALIB / "narrow_wanda/33.parquet")
    kept = mask[mask["structure"] == "expert_neurons"]["keep"].to_numpy().reshape(2, 6, 24).sum(2)
    assert (kept == 16).all() and mask[mask["structure"] == "experts"]["keep"].all()


def test_an_edit_of_how_experts_are_cut_plans_what_reads_it(mixed: Workspace):
    file = mixed.path / "scripts/pruning/models/structures/experts.py"
    with changed(file, file.read_text() + "\n# edited\n"):
        assert {"calibrate_shard", "compact", "evaluate"} <= mixed.planned("results/experts.csv").keys()
    file = mixed.path / "scripts/pruning/methods/scores/reap.py"
    with changed(file, file.read_text() + "\n# edited\n"):
        assert mixed.planned("results/experts.csv").get("score") == 1


REFUSED = {
    "methods.obs.score: obs, and tiny-reasoner is a mixture of experts: second_moments and output_gradients are": {
        "tables.experts.methods": ["random", "obs"]
    },
    "methods.ridge_wanda.compensate: ridge, and tiny-reasoner is a mixture": {
        "tables.experts.methods": ["random", "ridge_wanda"]
    },
    "allocate: global, and tiny-reasoner is a mixture of experts: every layer keeps as many; use `uniform` or": {
        "tables.experts.methods": ["random", "energy-abs-none-global"]
    },
    "tiny-reasoner, frequency at 80%: experts: of 6 in every layer 1 would stay, fewer than the 2 that each token": {
        "tables.experts.sparsities": [50, 80]
    },
    "tunings.gsm_symbolic.targets: ['down_proj', 'gate_proj', 'up_proj'] are no linear modules in tiny-reasoner": {
        "tables.experts.tasks": ["gsm_symbolic", "gsm_symbolic@gsm_symbolic"]
    },
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_not_for_mixtures_is_refused_before_any_job(mixed: Workspace, line: str):
    with mixed.configured(REFUSED[line]):
        done = mixed.snakemake("-n", "results/experts.csv", check=False)
    assert done.returncode and line in done.stdout + done.stderr


TIMES = (
    f"{MODEL}/latency_table.parquet",
    "results/latency/tiny-reasoner.csv",
)


@pytest.mark.parametrize("target", TIMES)
def test_times_are_refused_before_any_job(mixed: Workspace, target: str):
    done = mixed.snakemake("-n", target, check=False)
    assert done.returncode and "mixtures of experts are timed as they are" in done.stdout + done.stderr


def test_a_dense_model_has_no_experts_to_score(finished: Workspace):
    for method, key in {"reap": "score: reap", "narrow_wanda": "allocate: expert_neurons"}.items():
        with finished.configured({"tables.table1.methods": ["wanda", method]}):
            done = finished.snakemake("-n", "results/table1.csv", check=False)
        assert done.returncode and f"methods.{method}.{key} is for mixtures of experts" in done.stdout + done.stderr
