"""A stranger's walk: a structure, an allocation that cuts it and a score, by what CONTRIBUTING.md says, end to end; and
all else that a structure goes through, without an edit."""

import json
import re

import pandas as pd
import pytest
import torch
import yaml
from test_contributing import insert

import tiny
from workspace import ROOT, Workspace, code_below, verified

MODEL, CALIB = "results/tiny-reasoner", "gsm_symbolic-s0"
EXPORTED = f"{MODEL}/export/{CALIB}/heads/50/model"
SEARCHED = '''"""`sensitivity_joint`, of neurons and attention heads."""

from pruning.methods.allocation.sensitivity_joint import SEARCH, widths

__all__ = ["SEARCH", "STRUCTURES", "widths"]

STRUCTURES = ("ffn", "heads")
'''
REFITTED = '''"""As ridge_corrective, and the heads' output projection is refitted as well."""

from pruning.methods.compensation.ridge_corrective import CORRECTIVE, REQUIRES, compensate, evidence

__all__ = ["CORRECTIVE", "REFITS", "REQUIRES", "compensate", "evidence"]

REFITS = ("ffn", "heads")
'''
MORE = {
    "counted": {"score": "wanda", "allocate": "with_heads"},
    "fast": {"score": "parameter_taylor", "allocate": "with_heads", "allocate_options": {"per": "flops"}},
    "searched": {"score": "obs", "allocate": "searched_heads", "compensate": "ridge_heads"},
}


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> Workspace:
    """A workspace after the walk, with the exported model."""
    structure, allocation, entry, score = code_below("CONTRIBUTING.md", "A structure, step by step")
    path = tmp_path_factory.mktemp("walked")
    tiny.save(tiny.llama(num_key_value_heads=4), path / "resources/model")
    workspace, library = Workspace(path), path / "scripts/pruning"
    (library / "models/structures/heads.py").write_text(structure)
    (library / "methods/allocation/with_heads.py").write_text(allocation)
    (library / "methods/scores/outgoing.py").write_text(score)
    insert(library / "models/structures/__init__.py", ")\nSTRUCTURES", ", heads")
    insert(library / "models/structures/__init__.py", "\nfrom pruning.models.structures.base", ", heads")
    workspace.configure(yaml.safe_load(entry))
    workspace.snakemake(EXPORTED)
    return workspace


def kept_of(workspace: Workspace, method: str) -> dict[str, list[int]]:
    mask = pd.read_parquet(workspace.path / f"{MODEL}/masks/{CALIB}/{method}/50.parquet")
    return mask.groupby(["structure", "layer"])["keep"].sum().groupby("structure").agg(list).to_dict()


def test_a_structure(walked: Workspace):
    kept, exported = kept_of(walked, "heads"), walked.path / EXPORTED
    manifest = json.loads((exported / "manifest.json").read_text())
    assert kept["ffn"] == manifest["widths"] and 2 < sum(kept["heads"]) < 8
    assert {"transformers", "peft", "the dense model, masked"} <= manifest["checks"].keys()
    assert json.loads((exported / "config.json").read_text())["heads"] == kept["heads"] == manifest["heads"]
    card = (exported / "README.md").read_text()
    assert "in neurons and in attention heads." in card and "| attention heads | " in card
    mask = pd.read_parquet(walked.path / f"{MODEL}/masks/{CALIB}/heads/50.parquet")
    dense = tiny.llama(num_key_value_heads=4)
    sizes = [layer.self_attn.o_proj.weight.abs().unflatten(1, (4, 8)).sum((0, 2)) for layer in dense.model.layers]
    for layer, size in enumerate(sizes):
        own = mask[(mask["structure"] == "heads") & (mask["layer"] == layer)]
        best = torch.topk(size, kept["heads"][layer]).indices.tolist()
        assert set(own[own["keep"]]["unit"]) == set(best)


def test_what_else_there_is_for_a_structure(walked: Workspace):
    """Measurements of its units by every rule, cuts that are measured, a refit, costs in FLOPs, a budget, a clock."""
    path, library = walked.path, walked.path / "scripts/pruning"
    (library / "methods/allocation/searched_heads.py").write_text(SEARCHED)
    (library / "methods/compensation/ridge_heads.py").write_text(REFITTED)
    budgets, timed = {"small": {"parameters": "80%"}}, {"prompt_tokens": 8, "decode_tokens": 2, "rounds": 5}
    methods = {f"methods.{name}": method for name, method in MORE.items()}
    walked.configure({**methods, "budgets": budgets, "latency.methods": ["heads"], "latency_table": timed})
    compact = f"{MODEL}/compact/{CALIB}/searched/50/manifest.json"
    budget, clock = f"{MODEL}/budget/{CALIB}/heads/small.json", "results/latency/tiny-reasoner.csv"
    targets = [compact, budget, clock, *(f"{MODEL}/masks/{CALIB}/{name}/50.parquet" for name in MORE)]
    measured = [f"heads_{rule}" for rule in ("statistics", "second_moments", "output_gradients", "parameter_gradients")]
    assert {*measured, "sensitivity", "refit", "latency_table"} <= walked.planned(*targets).keys()
    walked.snakemake(*targets)
    for name in MORE:
        assert 2 <= sum(kept_of(walked, name)["heads"]) <= 8, name
    made = json.loads((path / compact).read_text())
    assert kept_of(walked, "searched") == {"ffn": made["widths"], "heads": made["heads"]}
    assert all({"lambda", "heads"} <= record.keys() for record in made["compensation"])
    cuts = pd.read_parquet(path / f"{MODEL}/sensitivity/{CALIB}/searched.parquet")
    assert cuts.groupby("structure").size().to_dict() == {"ffn": 32, "heads": 6}
    table = pd.read_parquet(path / f"{MODEL}/latency_table.parquet").set_index("structure")
    assert table.loc["heads", "units"].tolist() == [1, 2, 3, 4] and table.loc["heads", "flops"].is_monotonic_increasing
    found, exported = (
        json.loads((path / budget).read_text()),
        json.loads((path / EXPORTED / "manifest.json").read_text()),
    )
    cut = 96 - sum(found["widths"]), 8 - sum(found["heads"])
    assert found["cost"]["value"] == found["dense"] - 3 * 32 * cut[0] - 4 * 32 * 8 * cut[1]
    times = pd.read_csv(path / clock).set_index("variant")
    assert times.loc[f"{CALIB}/heads/50", "parameters"] == exported["parameters_kept"]
    assert " 0 mistakes" in verified(walked, 0)


def test_only_files_of_structures_and_plug_ins_that_declare_them_name_one():
    own = (
        "scripts/pruning/models/structures/",
        "scripts/pruning/methods/allocation/",
        "scripts/pruning/methods/compensation/",
    )
    named = {
        str(file.relative_to(ROOT))
        for file in [*(ROOT / "scripts").rglob("*.py"), *(ROOT / "rules").rglob("*.smk")]
        if re.search("kv_groups|attention_(second|output|parameter|statistics)|ATTENTION_", file.read_text())
    }
    assert {name for name in named if not name.startswith(own)} <= {
        "scripts/pruning/models/families.py",  # the key of config.json, which is checked where that is read
        "scripts/pruning/core/layer_files.py",  # `attention`, as its artefacts were called first
    }
