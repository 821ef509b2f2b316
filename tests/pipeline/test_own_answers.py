"""Calibrating and tuning on what the dense model answers itself."""

import hashlib
import string
from contextlib import AbstractContextManager

import numpy as np
import pandas as pd
import yaml
from transformers import AutoTokenizer

from pruning.data.text import documents
from workspace import Workspace, changed, undescribed

# Whoever writes no number is right, and any letter ends an answer: the random model's answers do both.
CHANGES = {
    "task": "loose",
    "doc_to_target": "[invalid]",
    "generation_kwargs": {
        "until": [*string.ascii_letters, *string.digits, " "],
        "max_gen_toks": 40,
        "do_sample": False,
    },
}
ANSWERS = "results/tiny-reasoner/answers/loose.parquet"


def configure(workspace: Workspace, limit: int, **tuning) -> AbstractContextManager:
    """For as long as this lasts: a task, and a calibration, a tuning and a text that are made of its answers."""
    define(workspace)
    text = {"dataset": "gsm_symbolic", "answers": "loose"}
    own = {"split": "test", "samples": 2, "sequence_length": 512, "micro_batch": 2, "token_mask": "answer"}
    said = {"kind": "perplexity", "title": "Said", "text": "{prompt}{completion}", "joiner": "|", "seqlen": 32}
    loose = {"kind": "lm_eval", "title": "Loose", "metrics": ["exact_match,strict-match"], "limit": limit}
    return workspace.configured(
        {
            "calibrations.own": text | own,
            "tunings.own": text | {"steps": 2, "batch_size": 2, **tuning},
            "tasks.said": text | said,
            "tasks.loose": loose,
        }
    )


def define(workspace: Workspace, **changes) -> None:
    made = {"include": "gsm_symbolic.yaml"} | CHANGES | changes
    (workspace.path / "config/tasks/loose.yaml").write_text(yaml.safe_dump(made))


def test_text_is_what_the_dense_model_answered(finished: Workspace):
    said = {model: f"results/tiny-reasoner/eval/{model}/said" for model in ("dense", "own/rku/50")}
    with configure(finished, limit=12):
        finished.snakemake("results/tiny-reasoner/recovered/own/rku/50/own/recovery.json")
        finished.snakemake(*(f"{path}.json" for path in said.values()))
        included = finished.path / "config/tasks/gsm_symbolic.yaml"
        assert finished.planned(ANSWERS) == {}
        with changed(included, included.read_text().replace("Question:", "Q:")):
            assert finished.planned(ANSWERS) == {"evaluate": 1, "own_answers": 1}
    results = finished.path / "results/tiny-reasoner"
    asked = pd.read_parquet(results / "eval/dense/loose.samples.parquet")
    right = asked[(asked["value"] == 1) & (asked["finish_reason"] == "stop")]
    assert 2 <= len(right) <= 12 and undescribed(finished) == []
    questions = pd.read_parquet(finished.path / "results/data/gsm_symbolic/test.parquet")["question"]
    expected = [(f"Question: {questions[item]}\nAnswer:", text) for item, text in right[["item", "response"]].values]
    assert documents(finished.path / ANSWERS, "{prompt}", "{completion}") == expected
    measured = pd.read_parquet(results / "calibration/own/statistics.parquet")
    assert measured["n_samples"].eq(2).all()
    tokenizer = AutoTokenizer.from_pretrained(results / "base")
    ids = tokenizer("|".join(prompt + answer for prompt, answer in expected))["input_ids"][:64]
    wanted = [hashlib.sha256(np.array(ids[n : n + 32]).tobytes()).hexdigest()[:16] for n in (0, 32)]
    for path in said.values():
        windows = pd.read_parquet(finished.path / f"{path}.samples.parquet")["item_hash"].tolist()[:2]
        assert windows == wanted


def test_a_pruned_model_is_distilled_on_all_that_it_answers(finished: Workspace):
    with configure(finished, limit=12, answered_by="pruned", objective="distillation"):
        finished.snakemake("results/tiny-reasoner/recovered/gsm_symbolic-s0/rku/50/own/recovery.json")
    results = finished.path / "results/tiny-reasoner"
    asked = pd.read_parquet(results / "eval/gsm_symbolic-s0/rku/50/loose.samples.parquet")
    found = documents(results / "answers/gsm_symbolic-s0/rku/50/loose.parquet", "{prompt}", "{completion}")
    assert found == [*asked[["prompt", "response"]].itertuples(index=False, name=None)] and len(found) == 12


def test_a_model_that_is_never_right_is_one_line(workspace: Workspace):
    with configure(workspace, limit=3):
        define(workspace, doc_to_target="impossible")
        done = workspace.snakemake(ANSWERS, check=False)
    log = (workspace.path / "results/logs/tiny-reasoner/answers/loose.log").read_text()
    assert done.returncode and "Traceback" not in log
    assert "error: tasks.loose: the model answers none of 3 questions right and to the end (exact_match" in log
