"""The real pipeline, end to end, on a random model of two layers."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoModelForCausalLM

import tiny
from pruning.analysis import comparison
from pruning.core import artifacts, chain
from pruning.models.structures import ffn
from workspace import Workspace, verified


def test_the_table_has_a_row_a_cell_and_one_for_dense(finished: Workspace):
    table = pd.read_csv(finished.path / "results/table1.csv")
    assert list(table.columns) == comparison.COLUMNS
    assert list(table["method"]) == ["dense", "wanda", "wanda", "rku", "rku", "random", "random"]
    assert set(table.loc[table["method"] != "dense", "sparsity"]) == {0.3, 0.5}
    assert (table["n"] == 6).all()
    assert table["published"].isna().all()
    assert "random" in (finished.path / "results/table1.md").read_text()
    assert r"\begin{tabular}" in (finished.path / "results/table1.tex").read_text()


def test_masks_of_a_model_on_disk_are_those_of_one_in_memory(finished: Workspace):
    own = finished.config["models"]["tiny-reasoner"]
    with finished.configured({"models.on-disk": {**own, "offload": True}}):
        mask = "results/{}/masks/gsm_symbolic-s0/rku/50.parquet"
        finished.snakemake(mask.format("on-disk"))
    one, other = (pd.read_parquet(finished.path / mask.format(name)) for name in ("tiny-reasoner", "on-disk"))
    assert one.equals(other)
    log = (finished.path / "results/logs/on-disk/calibration/gsm_symbolic-s0/shards/0-of-2.log").read_text()
    assert "offloaded to the" in log


def test_a_second_run_elsewhere_gives_identical_bytes_everywhere(finished: Workspace, tmp_path):
    """One model of each kind by processes of their own, the others by forks as in the first run."""
    again = Workspace(tmp_path)
    shutil.copytree(finished.path / "resources/model", tmp_path / "resources/model")
    again.snakemake("results/tiny-reasoner/eval/gsm_symbolic-s0/rku/50/gsm_symbolic.json", forking=False)
    again.snakemake("results/table1.csv")
    made = again.artefacts()
    assert {"50.parquet", "table1.csv", "model.safetensors", "gsm_symbolic.json"} <= {Path(name).name for name in made}
    assert sum("/masks/" in name for name in made) == 6 and again.unlike(finished) == []
    assert " 0 mistakes" in verified(again, 0)


@pytest.mark.parametrize("method", ["agf", "shuffle_agf"])
def test_global_methods_make_loadable_models(finished: Workspace, method: str):
    from pruning.models import loading

    target = f"results/tiny-reasoner/compact/gsm_symbolic-s0/{method}/50/manifest.json"
    finished.snakemake(target)
    manifest = json.loads((finished.path / target).read_text())
    assert sum(manifest["widths"]) == 48
    model, _ = loading.load((finished.path / target).parent / "model", "float32")
    assert [layer.mlp.down_proj.in_features for layer in model.model.layers] == manifest["widths"]


def test_a_model_is_exported_with_what_was_measured_of_it(finished: Workspace):
    target = "results/tiny-reasoner/export/gsm_symbolic-s0/rku/50/model"
    finished.snakemake(target)
    sites = ffn.sites(AutoModelForCausalLM.from_pretrained(finished.path / target))
    assert [site.in_features for site in sites] == [24, 24]
    card = (finished.path / target / "README.md").read_text()
    row = pd.read_csv(finished.path / "results/table1.csv").query("method == 'rku' and sparsity == 0.5").iloc[0]
    assert f"| {100 * row.value:.1f}% [{100 * row.ci_low:.1f}, {100 * row.ci_high:.1f}] |" in card
    assert finished.planned(target) == {}
    finished.snakemake("results/tiny-reasoner/eval/gsm_symbolic-s0/rku/50/arithmetic.json")
    assert finished.planned(target) == {"export": 1}  # more is known now
    shutil.rmtree(finished.path / "results/tiny-reasoner/export")


def test_an_exported_model_becomes_a_gguf_file(finished: Workspace):
    target = "results/tiny-reasoner/export/gsm_symbolic-s0/wanda/50"
    finished.snakemake(f"{target}/model")
    folder = finished.path / target / "model"
    tiny.with_a_merge(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    chain.lineage = manifest.pop("provenance")["lineage"]
    artifacts.write_json(
        folder / "manifest.json", manifest | {"files": artifacts.directory_hashes(folder)}, "export", {}
    )
    chain.lineage = None
    finished.snakemake(f"{target}/gguf/bf16.gguf")
    made = artifacts.read_json(finished.path / target / "gguf/bf16.json", "gguf")
    assert (made["architecture"], made["widths"]) == ("qwen2", [24, 24])
    assert list(made["provenance"]["inputs"]) == [f"{target}/model/manifest.json"]
    card = (finished.path / target / "gguf/bf16.md").read_text()
    assert card.startswith("# tiny-reasoner-gsm_symbolic-s0-wanda-50, bf16\n")
    assert finished.planned(f"{target}/gguf/bf16.gguf") == {}
    dense = "results/tiny-reasoner/export/dense/gguf/f16.gguf"
    assert list(finished.planned(dense)) == ["gguf"]
    shutil.rmtree(finished.path / "results/tiny-reasoner/export")
