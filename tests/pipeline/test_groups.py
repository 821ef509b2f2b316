"""Neurons and key-value groups cut together, from calibration to a folder that stock tools load."""

import json

import pandas as pd

from workspace import Workspace, changed, verified

MODEL = "results/tiny-reasoner"
JOINT, CALIB = "energy-abs-none-joint", "gsm_symbolic-s0"


def test_neurons_and_groups_leave_together_at_equal_size(finished: Workspace):
    exported = f"{MODEL}/export/{CALIB}/attention_{JOINT}/90/model"
    neurons = f"{MODEL}/compact/{CALIB}/energy-abs-none-global/90/manifest.json"
    overlap = f"{MODEL}/analysis/overlap/{CALIB}/{JOINT}/wanda.csv"
    finished.snakemake(exported, neurons, overlap)
    made, others = (json.loads((finished.path / path).read_text()) for path in (f"{exported}/manifest.json", neurons))
    mask = pd.read_parquet(finished.path / MODEL / "masks" / CALIB / f"attention_{JOINT}/90.parquet")
    kept = mask.groupby(["structure", "layer"])["keep"].sum()
    assert kept["ffn"].tolist() == made["widths"] and kept["kv_groups"].tolist() == made["kv_groups"]
    assert made["kv_groups"] == [2, 1] and sum(made["widths"]) > sum(others["widths"])
    scores = pd.read_parquet(finished.path / MODEL / "scores" / CALIB / f"attention_{JOINT}.parquet")
    group = scores[scores["structure"] == "kv_groups"]["parameters"].iloc[0]
    assert 0 <= others["parameters_kept"] - made["parameters_kept"] < group
    assert {"transformers", "lm_eval", "peft"} <= made["checks"].keys(), made["checks"]
    assert "removed, in neurons and in key-value groups." in (finished.path / exported / "README.md").read_text()
    assert len(pd.read_csv(finished.path / overlap)) > 0  # of the neurons alone


def test_second_moments_rank_neurons_and_groups(workspace: Workspace):
    """Each measured of both, without the statistics that these scores do not look at."""
    (workspace.path / "more.yaml").write_text("methods: {leverage_joint: {score: leverage, allocate: joint}}")
    config, folder = ("--configfile", "test.yaml", "more.yaml"), workspace.path / MODEL
    masks = {m: f"{MODEL}/masks/{CALIB}/{m}/90.parquet" for m in ("leverage_joint", "attention_obs_joint")}
    moments = {"second_moments": 1, "attention_second_moments": 1}
    gradients = {"output_gradients": 1, "attention_output_gradients": 1}
    rest = {"fetch_dataset": 1, "fetch_model": 1, "score": 1, "mask": 1}  # and no statistics of neurons
    assert workspace.planned(masks["leverage_joint"], *config) == rest | moments
    assert workspace.planned(masks["attention_obs_joint"], *config) == rest | moments | gradients
    compact = f"{MODEL}/compact/{CALIB}/attention_obs_joint/90/manifest.json"
    workspace.snakemake(*masks.values(), compact, *config)
    for method, path in masks.items():
        mask = pd.read_parquet(workspace.path / path)
        kept = mask.groupby(["structure", "layer"])["keep"].sum()
        assert kept["kv_groups"].between(1, 2).all() and 2 <= kept["ffn"].sum() < 96
        scores = pd.read_parquet(folder / "scores" / CALIB / f"{method}.parquet")
        assert (scores["score"] > 0).all() and scores.groupby("structure").size().to_dict() == {
            "ffn": 96,
            "kv_groups": 4,
        }
    made = json.loads((workspace.path / compact).read_text())
    assert kept["kv_groups"].tolist() == made["kv_groups"] and kept["ffn"].tolist() == made["widths"]
    calibration = folder / "calibration" / CALIB
    assert not (calibration / "attention_second_moments").exists()  # temporary, as those of neurons
    assert len(list((calibration / "attention_output_gradients").glob("*.safetensors"))) == 2
    assert " 0 mistakes" in verified(workspace, 0)
    again = {**moments, "score": 1, "mask": 1}  # a score that is made again wants what was temporary
    edits = {
        "scripts/pruning/methods/surgeon.py": again,
        "scripts/pruning/calibration/second_moments.py": again,
        "scripts/pruning/calibration/output_gradients.py": again | gradients,
        "scripts/pruning/paper/observe.py": {},
    }
    for file, jobs in edits.items():
        with changed(workspace.path / file, (workspace.path / file).read_text() + "\n# edited\n"):
            assert workspace.planned(masks["attention_obs_joint"], *config) == jobs, file


def test_cuts_of_neurons_and_groups_are_measured_together(workspace: Workspace):
    """Refitted as the method refits: attention's second moments are read twice, for scores and for cuts."""
    path, method = workspace.path, "attention_sensitivity_joint"
    place = {kind: f"{MODEL}/{kind}/{CALIB}/{method}" for kind in ("sensitivity", "masks", "compact")}
    compact = f"{place['compact']}/90/manifest.json"
    moments = {"second_moments": 1, "attention_second_moments": 1}
    gradients = {"output_gradients": 1, "attention_output_gradients": 1}
    rest = {"fetch_dataset": 1, "fetch_model": 1, "score": 1, "mask": 1}  # and no statistics of neurons
    more = {"sensitivity": 1, "refit": 1, "compact": 1}
    assert workspace.planned(compact) == rest | moments | gradients | more
    workspace.snakemake(compact)
    cuts = pd.read_parquet(path / f"{place['sensitivity']}.parquet")
    assert cuts.groupby(["structure", "layer"]).size().tolist() == [16, 16, 1, 1]
    assert (cuts["divergence"] > 0).all() and cuts["passes"].is_monotonic_increasing
    kept = pd.read_parquet(path / f"{place['masks']}/90.parquet").groupby(["structure", "layer"])["keep"].sum()
    made = json.loads((path / compact).read_text())
    assert kept["kv_groups"].tolist() == made["kv_groups"] and kept["ffn"].tolist() == made["widths"]
    again = {"sensitivity": 1, "mask": 1, "refit": 1, "compact": 1}
    for file, jobs in {
        "scripts/pruning/methods/sensitivity.py": again | moments,  # not the scores of the same moments
        "scripts/pruning/methods/allocation/sensitivity.py": {"mask": 1, "refit": 1, "compact": 1},
    }.items():
        with changed(path / file, (path / file).read_text() + "\n# edited\n"):
            assert workspace.planned(compact) == jobs, file


DROPPED = """
methods:
  dropped: {score: wanda, allocate: joint, drop_layers: true}
  shallow: {score: utility, options: {objective: energy}, allocate: global, drop_layers: true, round_to: 8}
  searched: {score: wanda, allocate: sensitivity, drop_layers: true}
  gone: {score: wanda, allocate: uniform, drop_layers: true, round_to: 64}
"""


def test_layers_are_dropped_on_the_way_to_an_exported_folder(finished: Workspace):
    """Attention: refitted beside, and recovered after it; an FFN, by one ranking, and as was measured."""
    (finished.path / "dropped.yaml").write_text(DROPPED)
    made = {
        variant: f"{MODEL}/export/{CALIB}/{variant}/model"
        for variant in ("attention_dropped/95", "dropped/95/gsm_symbolic", "shallow/90")
    }
    mask = f"{MODEL}/masks/{CALIB}/searched/90.parquet"
    config = ("--configfile", "test.yaml", "dropped.yaml")
    finished.snakemake(*made.values(), mask, *config)
    manifests = {v: json.loads((finished.path / path / "manifest.json").read_text()) for v, path in made.items()}
    for variant, manifest in manifests.items():
        assert manifest.get("kv_groups", [0, 2]) == [0, 2] and ("kv_groups" in manifest) == ("dropped" in variant)
        assert {"transformers", "lm_eval", "peft"} <= manifest["checks"].keys()
        assert manifest["checks"]["transformers"]["same_text"], variant
        card = (finished.path / made[variant] / "README.md").read_text()
        assert "layers may be removed" in card and ("| key-value groups | 0, 2 |" in card) == ("dropped" in variant)
    assert manifests["shallow/90"]["widths"] == [8, 0]
    assert "the dense model, masked" in manifests["shallow/90"]["checks"]
    settings = manifests["shallow/90"]["provenance"]["settings"]["method"]
    assert settings["drop_layers"] is True
    measured = pd.read_parquet(finished.path / MODEL / "sensitivity" / CALIB / "searched.parquet")
    assert measured.groupby("layer")["width"].min().tolist() == [0, 0]
    assert pd.read_parquet(finished.path / mask)["keep"].any()
    refused = finished.snakemake(f"{MODEL}/masks/{CALIB}/gone/90.parquet", *config, check=False)
    assert refused.returncode and "of all layers no FFN neuron would stay" in refused.stderr + refused.stdout
