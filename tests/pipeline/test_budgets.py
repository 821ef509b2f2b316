"""Budgets in the workflow: counted and measured, planned once, refused before any job."""

import json

import tiny
from workspace import Workspace

FOLDER = "results/tiny-reasoner/budget/gsm_symbolic-s0/wanda"


def test_a_budget_is_met_once_and_again_when_it_changes(workspace: Workspace):
    tiny.save(tiny.qwen2(intermediate_size=4000), workspace.path / "resources/model")  # FFNs take most of the time
    quick = {"prefill_ms": "90%", "prompt_tokens": 256, "rounds": 9}
    workspace.configure({"budgets": {"small": {"parameters": "80%"}, "quick": quick, "none": {"bytes": "9kB"}}})
    targets = [f"{FOLDER}/{name}.json" for name in ("small", "quick")]
    workspace.snakemake(*targets, "--cores", "1")  # threads that wait for each other would make the clock noisy
    small, quick = (json.loads((workspace.path / target).read_text()) for target in targets)
    less = small["tried"][small["sparsity"] - 2]["value"]
    assert small["cost"]["value"] <= small["target"] == 0.8 * small["dense"] < less
    assert quick["cost"]["high"] <= quick["target"] < quick["dense"] and quick["rounds"] == 9
    read = ("scores/gsm_symbolic-s0/wanda.parquet", "base/manifest.json")
    assert set(small["provenance"]["inputs"]) == {f"results/tiny-reasoner/{name}" for name in read}
    assert workspace.planned(*targets) == {}
    with workspace.configured({"budgets.small.parameters": "70%"}):
        assert workspace.planned(*targets) == {"budget": 1}
    refused = workspace.snakemake(f"{FOLDER}/none.json", check=False)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "error: budget: bytes: 9kB cannot be reached: the least is" in refused.stderr
    misspelt = workspace.snakemake(f"{FOLDER}/smal.json", check=False).stderr
    assert f"no budget 'smal'; nearest: {FOLDER}/small.json" in misspelt
