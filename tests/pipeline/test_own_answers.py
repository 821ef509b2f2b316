"""Calibrating and tuning on what the dense model answers itself."""

import hashlib
import string

import numpy as np
import pandas as pd
import yaml
from transformers import AutoTokenizer

from pruning.data.text import documents
from workspace import Workspace, undescribed

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


def configured(workspace: Workspace, tuning: dict | None = None, **task) -> None:
    content = yaml.safe_load((workspace.path / "test.yaml").read_text())
    own = {**content["calibrations"]["gsm_symbolic-s0"], "dataset": "gsm_symbolic", "split": "test", "answers": "loose"}
    own |= {"samples": 2, "token_mask": "answer", "packing": "document", "sequence_length": 512}
    content["calibrations"]["own"] = own
    learnt = {"dataset": "gsm_symbolic", "answers": "loose", "steps": 2, "batch_size": 2}
    content["tunings"]["own"] = learnt | (tuning or {})
    content["tasks"] |= {
        "said": {"kind": "perplexity", "title": "Said", "dataset": "gsm_symbolic", "answers": "loose"}
        | {"text": "{prompt}{completion}", "joiner": "|", "seqlen": 32},
        "loose": {"kind": "lm_eval", "title": "Loose", "metrics": ["exact_match,strict-match"], **task},
    }
    (workspace.path / "own.yaml").write_text(yaml.safe_dump(content))
    define(workspace)


def define(workspace: Workspace, **changes) -> None:
    tasks = workspace.path / "config/tasks"
    known = yaml.safe_load((tasks / "gsm_symbolic.yaml").read_text())
    (tasks / "loose.yaml").write_text(yaml.safe_dump(known | CHANGES | changes))


def test_text_is_what_the_dense_model_answered(finished: Workspace):
    configured(finished, limit=12)
    target = "results/tiny-reasoner/recovered/own/rku/50/own/recovery.json"
    finished.snakemake(target, configfile="own.yaml")
    results = finished.path / "results/tiny-reasoner"
    asked = pd.read_parquet(results / "eval/dense/loose.samples.parquet")
    right = asked[(asked["value"] == 1) & (asked["finish_reason"] == "stop")]
    assert 2 <= len(right) <= 12 and undescribed(finished) == []
    questions = pd.read_parquet(finished.path / "results/data/gsm_symbolic/test.parquet")["question"]
    expected = [(f"Question: {questions[item]}\nAnswer:", text) for item, text in right[["item", "response"]].values]
    assert documents(finished.path / ANSWERS, "{prompt}", "{completion}") == expected
    measured = pd.read_parquet(results / "calibration/own/statistics.parquet")
    assert measured["n_samples"].eq(2).all()
    for model in ("dense", "own/rku/50"):
        finished.snakemake(f"results/tiny-reasoner/eval/{model}/said.json", configfile="own.yaml")
        windows = pd.read_parquet(results / f"eval/{model}/said.samples.parquet")["item_hash"].tolist()[:2]
        tokenizer = AutoTokenizer.from_pretrained(results / "base")
        ids = tokenizer("|".join(prompt + said for prompt, said in expected))["input_ids"][:64]
        wanted = [hashlib.sha256(np.array(ids[n : n + 32]).tobytes()).hexdigest()[:16] for n in (0, 32)]
        assert windows == wanted


def test_a_pruned_model_is_distilled_on_all_that_it_answers(finished: Workspace):
    configured(finished, {"answered_by": "pruned", "objective": "distillation"}, limit=12)
    target = "results/tiny-reasoner/recovered/gsm_symbolic-s0/rku/50/own/recovery.json"
    finished.snakemake(target, configfile="own.yaml")
    results = finished.path / "results/tiny-reasoner"
    asked = pd.read_parquet(results / "eval/gsm_symbolic-s0/rku/50/loose.samples.parquet")
    found = documents(results / "answers/gsm_symbolic-s0/rku/50/loose.parquet", "{prompt}", "{completion}")
    assert found == [*asked[["prompt", "response"]].itertuples(index=False, name=None)] and len(found) == 12


def test_a_model_that_is_never_right_is_one_line(workspace: Workspace):
    configured(workspace, limit=3)
    define(workspace, doc_to_target="impossible")
    done = workspace.snakemake(ANSWERS, configfile="own.yaml", check=False)
    log = (workspace.path / "results/logs/tiny-reasoner/answers/loose.log").read_text()
    assert done.returncode and "Traceback" not in log
    assert "error: tasks.loose: the model answers none of 3 questions right and to the end (exact_match" in log
