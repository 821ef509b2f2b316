"""A stranger's walk: a structure, an allocation that cuts it and a score, by what CONTRIBUTING.md says, end to end."""

import json

import pandas as pd
import torch
import yaml
from test_contributing import insert

import tiny
from workspace import Workspace, code_below

FOLDER = "results/tiny-reasoner/{}/gsm_symbolic-s0/heads/50"


def test_a_structure(workspace: Workspace, monkeypatch):
    structure, allocation, entry, score = code_below("CONTRIBUTING.md", "A structure, step by step")
    dense, library = tiny.llama(num_key_value_heads=4), workspace.path / "scripts/pruning"
    tiny.save(dense, workspace.path / "resources/model")
    (library / "models/structures/heads.py").write_text(structure)
    (library / "methods/allocation/with_heads.py").write_text(allocation)
    (library / "methods/scores/outgoing.py").write_text(score)
    insert(library / "models/structures/__init__.py", ")}\n\n\ndef listed(", ", heads")
    insert(library / "models/structures/__init__.py", "\nfrom pruning.models.structures.base", ", heads")
    workspace.configure(yaml.safe_load(entry))
    exported = f"{FOLDER.format('export')}/model"
    workspace.snakemake(exported)
    mask = pd.read_parquet(workspace.path / f"{FOLDER.format('masks')}.parquet")
    kept = mask.groupby(["structure", "layer"])["keep"].sum()
    manifest = json.loads((workspace.path / exported / "manifest.json").read_text())
    assert kept["ffn"].tolist() == manifest["widths"] and 2 < kept["heads"].sum() < 8
    assert {"transformers", "peft", "the dense model, masked"} <= manifest["checks"].keys()
    config = json.loads((workspace.path / exported / "config.json").read_text())
    assert config["heads"] == kept["heads"].tolist()
    sizes = [layer.self_attn.o_proj.weight.abs().unflatten(1, (4, 8)).sum((0, 2)) for layer in dense.model.layers]
    for layer, size in enumerate(sizes):
        own = mask[(mask["structure"] == "heads") & (mask["layer"] == layer)]
        best = torch.topk(size, int(own["keep"].sum())).indices.tolist()
        assert set(own[own["keep"]]["unit"]) == set(best)
