"""One command from a model and a file to a decision and a folder."""

import json
import os
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

import tiny
import workspace

RECORDS = [
    {"question": f"What is {n} + {n % 7}?", "answer": f"{n + n % 7} of course, as anyone sees"} for n in range(250)
]


def prune(folder, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pruning.command.prune", "Model", "--data", "mine.jsonl", "--cores", "2", *options]
    path = os.pathsep.join([*workspace.FORKING, os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(workspace.ROOT / "scripts"), "PATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def own(tmp_path):
    tiny.save(tiny.qwen2(), tmp_path / "Model")
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    return tmp_path


def test_a_model_and_data_become_a_page_and_a_folder_and_a_second_run_does_nothing(own):
    options = ("--sparsity", "50", "--methods", "agf_global")
    done = prune(own, *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    page = (own / "pruned/decision.md").read_text()
    folder = own / page.split("It lies in `")[1].partition("`")[0]
    assert AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).num_parameters() > 0
    assert page.count("| dense |") == 1 and "agf_global, 50%" in page and "your test data" in done.stdout
    made = {path: path.stat().st_mtime_ns for path in (own / "pruned/results").rglob("*.parquet")}
    assert prune(own, *options).returncode == 0
    assert made == {path: path.stat().st_mtime_ns for path in (own / "pruned/results").rglob("*.parquet")}


def test_mistakes_are_one_line_in_the_words_of_what_failed(own):
    done = prune(own, "--methods", "wandaa")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "unknown name 'wandaa'" in done.stderr and "prune.log" in done.stderr
    (own / "mine.jsonl").write_text('{"a": "b"}')
    done = prune(own)
    assert done.returncode == 1 and "its records have a; one of these is needed" in done.stderr
