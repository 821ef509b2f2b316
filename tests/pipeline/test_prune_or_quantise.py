"""A table with quantised models and a sibling, from the models to the tables at equal bytes and equal speed."""

import pandas as pd
import pytest

import tiny
from workspace import Workspace, undescribed, verified

SIBLING = {"source": {"kind": "local", "path": "resources/small"}}
TABLE = {
    **{"title": "Alternatives", "tasks": ["gsm_symbolic_options"], "methods": ["even"], "sparsities": [50]},
    **{"reference": "dense", "quantised": ["q8_0"], "siblings": ["small"]},
}
TARGETS = [f"results/mine-{of}.csv" for of in ("bytes", "speed")]


def test_quantised_models_and_siblings_beside_a_pruned_one(workspace: Workspace):
    pytest.importorskip("llama_cpp")
    for name, width in (("model", 64), ("small", 32)):
        tiny.with_a_merge(tiny.save(tiny.qwen2(intermediate_size=width), workspace.path / "resources" / name))
    even = {"score": "wanda", "round_to": 32}
    workspace.configure(
        {"models.small": SIBLING, "methods.even": even, "tables.mine": TABLE}
        | {"llama_cpp": {"prompt_tokens": 16, "decode_tokens": 2, "rounds": 3}}
    )
    workspace.snakemake(*TARGETS, "results/figures/mine-alternatives.svg")
    results = workspace.path / "results"
    assert not list(results.glob("*/quantised/**/*.gguf"))  # temporary, and not missed
    assert workspace.planned(*TARGETS) == {}
    sizes, speeds = (pd.read_csv(workspace.path / target) for target in TARGETS)
    assert len(sizes) == 6 and len(speeds) == 12
    by_label = sizes.set_index("label")["bytes"]
    assert by_label["dense, unquantised"] > by_label["`even`, 50%, unquantised"] > by_label["`even`, 50%, Q8_0"]
    assert abs(by_label["`small`, Q8_0"] - by_label["`even`, 50%, Q8_0"]) <= 64  # of equal widths, but for its name
    compared = sizes.set_index("label")["alternative"].dropna().index.tolist()
    assert compared == ["`even`, 50%, unquantised", "`even`, 50%, Q8_0"]
    assert (speeds["prefill_s"] > 0).all() and (speeds["decode_tokens_per_s"] > 0).all()
    assert (speeds.loc[speeds["label"] == "dense, unquantised", "decode_speedup"] == 1).all()
    assert " 0 mistakes" in verified(workspace, 0)
    assert undescribed(workspace) == []
    more = {"tables.mine.quantised": ["q8_0", "q4_0"]}
    with workspace.configured(more):
        assert workspace.planned(TARGETS[0]) == {"quantise": 3, "evaluate": 3, "table": 1}
    unknown = workspace.snakemake("results/tiny-reasoner/eval/dense.q9/gsm_symbolic.json", check=False)
    assert "no variant 'dense.q9'" in unknown.stderr
