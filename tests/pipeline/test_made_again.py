"""What is made again after a change, and what continues after a kill, where a run must be seen to say it."""

import os
import signal
import subprocess
import time

import pandas as pd

import tiny
from pruning.core import names
from pruning.evaluation.answers import AnswerFile
from workspace import Workspace, undescribed

NOTHING: dict[str, int] = {}
TABLE = "results/table1.csv"


def test_a_touched_model_of_more_than_a_hundred_megabytes_plans_nothing(workspace: Workspace):
    """Snakemake compares inputs above 1 MB by time unless it is told otherwise (profiles/default)."""
    folder, target = workspace.path / "resources/model", "results/tiny-reasoner/base/manifest.json"
    tiny.save(tiny.qwen2(intermediate_size=140_000), folder)
    assert (folder / "model.safetensors").stat().st_size > 100_000_000
    workspace.snakemake(target)
    (folder / "model.safetensors").touch()
    assert workspace.planned(target) == NOTHING
    tiny.save(tiny.qwen2(intermediate_size=140_000, seed=1), folder)
    assert workspace.planned(target) == {"fetch_model": 1}


def test_a_changed_gguf_file_is_fetched_again(workspace: Workspace):
    file, target = workspace.path / "resources/part1.gguf", "results/tiny-reasoner/base/manifest.json"
    tiny.gguf(tiny.llama(), file)
    workspace.configure(
        {"models.tiny-reasoner.source": {"kind": "gguf", "path": "resources/part{part}.gguf", "parts": 1}}
    )
    workspace.snakemake(target)
    assert workspace.planned(target) == NOTHING
    tiny.gguf(tiny.llama(seed=1), file)
    assert workspace.planned(target) == {"fetch_model": 1}


def test_what_keeps_to_a_speed_measures_it_once(finished: Workspace):
    """One table for all methods of a model; how it is measured re-runs their masks, and nobody else's."""
    fast = {"score": "wanda", "allocate": "sensitivity", "allocate_options": {"per": "decode"}}
    methods = {"fast": fast, "joint": {**fast, "allocate": "joint"}}
    clock = {"prompt_tokens": 32, "decode_tokens": 2, "rounds": 40}  # a tiny FFN costs little more than noise
    masks = [f"results/tiny-reasoner/masks/gsm_symbolic-s0/{name}/50.parquet" for name in methods]
    with finished.configured({"methods": methods, "latency_table": clock}):
        attention = names.of_kind("attention").format(model="tiny-reasoner", calib="gsm_symbolic-s0")
        (finished.path / attention).unlink(missing_ok=True)
        planned = {"latency_table": 1, "score": 2, "sensitivity": 1, "attention_statistics": 1, "mask": 2}
        assert finished.planned(*masks) == planned
        finished.snakemake("results/tiny-reasoner/latency_table.parquet", masks[0])
        table = pd.read_parquet(finished.path / "results/tiny-reasoner/latency_table.parquet")
        assert table["units"].tolist() == [*range(0, 49, 3), 1, 2] and undescribed(finished) == []
        assert finished.planned(masks[0]) == NOTHING
        finished.configure({"latency_table.rounds": 6})
        assert finished.planned(masks[0]) == {"latency_table": 1, "mask": 1}
        assert finished.planned(TABLE) == NOTHING


GRADIENTS = "results/tiny-reasoner/scores/gsm_symbolic-s0/by_gradients.parquet"


def test_parameter_gradients_are_a_stage_of_their_own(workspace: Workspace):
    """Only the score that wants them runs them, without the statistics; what those alone depend on re-runs nothing."""
    by_gradients = {"score": "parameter_taylor"}
    joint = GRADIENTS.replace("by_gradients", "by_gradients_joint")
    workspace.configure(
        {"methods": {"by_gradients": by_gradients, "by_gradients_joint": {**by_gradients, "allocate": "joint"}}}
    )
    workspace.snakemake(GRADIENTS)
    assert len(pd.read_parquet(workspace.path / GRADIENTS)) == 96
    assert not (workspace.path / "results/tiny-reasoner/calibration/gsm_symbolic-s0/statistics.parquet").exists()
    again, with_groups = {"parameter_gradients": 1, "score": 1}, {"attention_parameter_gradients": 1, "score": 1}
    dag = workspace.dag(GRADIENTS)
    for file, jobs in {
        "measure.py": again,
        "pruning/calibration/parameter_gradients.py": again,
        "pruning/methods/scores/parameter_taylor.py": {"score": 1},
        "pruning/calibration/second_moments.py": NOTHING,
    }.items():
        assert dag.after_editing(f"scripts/{file}") == jobs
    for key, value, jobs in (
        ("token_mask", "answer", again),
        ("gradient_checkpointing", True, again),
        ("objectives", ["energy", "ce", "energy_post"], NOTHING),
    ):
        with workspace.configured({f"calibrations.gsm_symbolic-s0.{key}": value}):
            assert workspace.planned(GRADIENTS) == jobs
    assert workspace.planned(joint) == with_groups
    workspace.snakemake(joint)
    scores = pd.read_parquet(workspace.path / joint)
    assert scores.groupby("structure").size().to_dict() == {"ffn": 96, "kv_groups": 4} and (scores["score"] > 0).all()
    assert undescribed(workspace) == []
    dag = workspace.dag(joint)
    for file in ("measure.py", "pruning/calibration/parameter_gradients.py"):
        assert dag.after_editing(f"scripts/{file}") == again | with_groups


def test_iterations_of_gisp_are_a_stage_of_their_own(workspace: Workspace):
    target = "results/tiny-reasoner/scores/gsm_symbolic-s0/mine.parquet"
    workspace.configure({"methods": {"mine": {"score": "gisp", "allocate": "global"}}})
    workspace.snakemake(target)
    assert sorted(pd.read_parquet(workspace.path / target)["score"]) == list(range(96)) and undescribed(workspace) == []
    assert not (workspace.path / "results/tiny-reasoner/calibration/gsm_symbolic-s0/statistics.parquet").exists()
    again, dag = {"gisp": 1, "score": 1}, workspace.dag(target)
    for file in ("calibration/gisp", "calibration/parameter_gradients"):
        assert dag.after_editing(f"scripts/pruning/{file}.py") == again
    assert dag.after_editing("scripts/pruning/methods/scores/gisp.py") == {"score": 1}


def test_a_changed_mask_is_never_answered_from_another_models_cache(workspace: Workspace):
    target = "results/tiny-reasoner/eval/gsm_symbolic-s0/random/50/gsm_symbolic.samples.parquet"
    workspace.snakemake(target)
    folder = (workspace.path / target).parent
    (old,) = folder.glob(".gsm_symbolic.*.jsonl")
    answers = AnswerFile(old)
    for key, record in list(answers.items()):  # later lines count; altered ones would not be believed
        answers.add(key, {**record, "response": "#### 777"})
    workspace.configure({"methods.random.options.seed": 1})
    workspace.snakemake(target)
    assert len(list(folder.glob(".gsm_symbolic.*.jsonl"))) == 2
    assert "777" not in set(pd.read_parquet(workspace.path / target)["prediction"])


def test_a_run_keeps_others_off_and_after_sigkill_the_same_command_goes_on(workspace: Workspace):
    workspace.configure({"tasks.gsm_symbolic.limit": 12, "tasks.gsm_symbolic.batch_size": 1})
    target = "results/tiny-reasoner/eval/dense/gsm_symbolic.samples.parquet"
    folder = (workspace.path / target).parent
    workspace.snakemake("results/tiny-reasoner/base/manifest.json", "results/data/gsm_symbolic/test.parquet")
    command = ["snakemake", "--cores", "1", target, "--configfile", "test.yaml"]
    run = subprocess.Popen(command, cwd=workspace.path, start_new_session=True, stdout=-3, stderr=-3)
    deadline = time.monotonic() + 300
    while not (answers := [p for p in folder.glob(".gsm_symbolic.*.jsonl") if p.read_bytes().count(b"\n") >= 2]):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGSTOP)  # so that it stays at work
    workspace.snakemake("results/data/gsm_symbolic/test.parquet")  # there is nothing to do, and Snakemake's locks go
    second = workspace.snakemake(target, check=False)
    assert f"error: another run is active in {workspace.path}: wait for its end, or stop it" in second.stderr
    os.killpg(run.pid, 9)
    run.wait()
    assert not (workspace.path / target).exists()
    before = answers[0].read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    assert before.count(b"\n") < 12, "killed too late to show anything"
    workspace.snakemake(target)
    after = answers[0].read_bytes()
    assert after.startswith(before)  # nothing that was answered was asked again
    assert after.count(b"\n") == 12
    assert len(pd.read_parquet(workspace.path / target)) == 12


def test_temporary_models_are_deleted_and_not_missed(workspace: Workspace):
    one = {"experiment.methods": ["wanda"], "tables.table1.sparsities": [50], "overlap": None, "readings": None}
    workspace.configure(one | {"storage.compact": "temp"})
    workspace.snakemake(TABLE)
    folder = workspace.path / "results/tiny-reasoner/compact/gsm_symbolic-s0/wanda/50"
    assert (folder / "manifest.json").exists() and not (folder / "model").exists()
    assert workspace.planned(TABLE) == NOTHING
