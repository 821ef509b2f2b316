"""Methods that cut the vocabulary, through the workflow: tables, compensation, recovery, export, budgets, bad input."""

import json
from pathlib import Path

import pytest

import tiny
from pruning.core import artifacts
from workspace import Workspace, changed

TABLE, RESULTS = "results/table1.csv", "results/tiny-reasoner"
CUT = {"score": "wanda", "vocabulary": 400}
CHANGES = {
    "methods.small": CUT,
    "methods.smaller": {**CUT, "compensate": "ridge", "vocabulary": "45%"},
    "tasks.gsm_symbolic_text": {"per": "byte", "seqlen": 16, "tokens": 640, "joiner": "--"},
    "tunings.arithmetic.objective": "distillation",
    "tables.table1": {
        **{"tasks": ["gsm_symbolic", "gsm_symbolic_text", "gsm_symbolic_text@arithmetic"], "sparsities": [0, 40]},
        **{"methods": ["small", "smaller"], "reference": "dense"},
    },
    "budgets.most": {"parameters": "60%"},
    "budgets.least": {"parameters": "85%"},
}


@pytest.fixture(scope="module")
def cutting(tmp_path_factory) -> Workspace:
    """A workspace whose model has merges, and a table of models with fewer tokens."""
    path: Path = tmp_path_factory.mktemp("vocabulary")
    tiny.with_merges(tiny.save(tiny.llama(vocab_size=tiny.ROWS), path / "resources/model"), "{{ messages }}")
    own = Workspace(path)
    own.configure(CHANGES)
    own.snakemake(TABLE)
    return own


def test_models_of_fewer_tokens_are_compared_by_the_byte(cutting: Workspace):
    table = artifacts.read_csv(cutting.path / TABLE)
    rows = table[table["metric"] == "bits_per_byte"]
    pruned = rows[rows["method"] != "dense"]
    assert len(pruned) == 8 and rows["value"].between(1, 20).all()
    assert pruned["p_value"].notna().all() and set(pruned["reference"]) == {"dense"}
    whole = tiny.llama(vocab_size=tiny.ROWS).num_parameters()
    for row in pruned[pruned["sparsity"] == 0].itertuples():
        removed = 720 - {"small": 400, "smaller": 324}[row.method]
        assert row.params_removed == pytest.approx(2 * removed * 32 / whole, rel=1e-4) and row.achieved_sparsity == 0
    assert "bits per byte of UTF-8 text (lower is better)" in (cutting.path / "results/table1.md").read_text()
    manifest = json.loads((cutting.path / RESULTS / "compact/gsm_symbolic-s0/small/40/manifest.json").read_text())
    said = manifest["vocabulary"]
    assert (said["kept"], said["of"], said["byte"]) == (400, 720, 256) and 0.5 < said.pop("covered") <= 1
    assert sum(said.values()) == 400 + 720 + 400


def test_they_are_exported_and_checked_against_the_dense_model(cutting: Workspace):
    target = f"{RESULTS}/export/gsm_symbolic-s0/small/40/model"
    cutting.snakemake(target)
    card = (cutting.path / target / "README.md").read_text()
    assert "| vocabulary | 400 of 720 tokens, chosen for gsm_symbolic |" in card
    assert "the dense model, masked: logits within" in card


def test_budgets_count_the_vocabulary(cutting: Workspace):
    places = [f"{RESULTS}/budget/gsm_symbolic-s0/small/{name}.json" for name in ("most", "least")]
    cutting.snakemake(*places)
    most, least = (json.loads((cutting.path / place).read_text()) for place in places)
    assert least["sparsity"] == 0 and least["cost"]["value"] == least["dense"] - 2 * 320 * 32
    assert most["sparsity"] > 0 and most["cost"]["value"] <= most["target"]


def test_methods_that_differ_in_the_vocabulary_share_scores_and_masks(cutting: Workspace):
    with cutting.configured({"methods.twin": {**CUT, "vocabulary": 410}}):
        assert cutting.planned(f"{RESULTS}/compact/gsm_symbolic-s0/twin/40/manifest.json") == {"compact": 1}
    scores = sorted(path.name for path in (cutting.path / RESULTS / "scores/gsm_symbolic-s0").glob("*.parquet"))
    assert scores == ["smaller.parquet", "wanda.parquet"]  # none of `small`


def test_what_is_cut_depends_on_the_budget_and_the_data_alone(cutting: Workspace):
    assert cutting.planned(TABLE) == {}
    with cutting.configured({"methods.small.vocabulary": 410}):
        assert cutting.planned(TABLE) == {"compact": 2, "recover": 2, "evaluate": 6, "table": 1}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("methods.small.vocabulary", 90, "methods.small.vocabulary: 90: 258 tokens of resources/model always stay"),
        ("methods.small.vocabulary", 700, "methods.small.vocabulary: 700: resources/model has 700 tokens: give fewer"),
    ],
)
def test_what_cannot_be_is_said_before_any_job(cutting: Workspace, key, value, said):
    with cutting.configured({key: value}):
        refused = cutting.snakemake(TABLE, "--dry-run", check=False)
    assert refused.returncode == 1 and said in refused.stderr and "Traceback" not in refused.stderr, refused.stderr


def test_another_kind_of_tokenizer_is_refused_before_any_job(cutting: Workspace):
    path = cutting.path / "resources/model/tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["byte_fallback"] = True
    with changed(path, json.dumps(content)):
        refused = cutting.snakemake(TABLE, "--dry-run", check=False)
    assert "/tokenizer.json: its model is BPE with `byte_fallback` (SentencePiece): only" in refused.stderr
