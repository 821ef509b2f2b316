"""What is planned after a change is exactly what depends on it: no job less, no job more."""

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pruning import config
from workspace import ROOT, Workspace

# Jobs of the test grid: three methods, two sparsities, one task.
ALL = {
    "fetch_dataset": 2,
    "fetch_model": 1,
    "calibrate_shard": 1,
    "merge_calibration": 1,
    "score": 3,
    "mask": 6,
    "compact": 6,
    "evaluate": 7,
    "table1": 1,
}
AFTER_EVALUATION = {"table1": 1}
AFTER_DATA_TEST = {"evaluate": 7, "table1": 1}
FROM_MASK = {"mask": 6, "compact": 6, "evaluate": 6, "table1": 1}
FROM_SCORE = {"score": 3, **FROM_MASK}
FROM_COMPACT = {"compact": 6, "evaluate": 6, "table1": 1}
FROM_MERGE = {"merge_calibration": 1, **FROM_SCORE}
FROM_CALIBRATION = {"calibrate_shard": 1, **FROM_MERGE}
FROM_EVALUATE = {"evaluate": 7, "table1": 1}
FROM_MODEL = {"fetch_model": 1, **FROM_CALIBRATION, **FROM_EVALUATE}
FROM_DATA = {"fetch_dataset": 2, **FROM_CALIBRATION, **FROM_EVALUATE}
ONE_METHOD = {"score": 1, "mask": 2, "compact": 2, "evaluate": 2, "table1": 1}
FROM_MASK_OF_ONE = {"mask": 2, "compact": 2, "evaluate": 2, "table1": 1}
NOTHING: dict[str, int] = {}

# Written by hand, so that a wrong import graph in rules/common.smk shows.
CODE = {
    "scripts/fetch_dataset.py": FROM_DATA,
    "scripts/fetch_model.py": FROM_MODEL,
    "scripts/calibrate.py": FROM_CALIBRATION,
    "scripts/merge_calibration.py": FROM_MERGE,
    "scripts/score.py": FROM_SCORE,
    "scripts/mask.py": FROM_MASK,
    "scripts/compact.py": FROM_COMPACT,
    "scripts/evaluate.py": FROM_EVALUATE,
    "scripts/perplexity.py": NOTHING,
    "scripts/table1.py": {"table1": 1},
    "scripts/launch.py": NOTHING,
    "scripts/overlap.py": NOTHING,
    "scripts/recover.py": NOTHING,
    "scripts/train_reasoner.py": NOTHING,
    "scripts/promote_reasoner.py": NOTHING,
    "scripts/write_config.py": NOTHING,
    "scripts/pruning/__init__.py": ALL,
    "scripts/pruning/artifacts.py": ALL,
    "scripts/pruning/cli.py": ALL,
    "scripts/pruning/errors.py": ALL,
    "scripts/pruning/adapters/__init__.py": NOTHING,
    "scripts/pruning/adapters/aqua_raw.py": NOTHING,
    "scripts/pruning/adapters/arc_olmo.py": NOTHING,
    "scripts/pruning/allocation/__init__.py": FROM_MASK,
    "scripts/pruning/allocation/cfsp.py": NOTHING,
    "scripts/pruning/allocation/global.py": FROM_MASK_OF_ONE,
    "scripts/pruning/allocation/uniform.py": {"mask": 4, "compact": 4, "evaluate": 4, "table1": 1},
    "scripts/pruning/base_model.py": FROM_MODEL,
    "scripts/pruning/calibration.py": FROM_CALIBRATION,
    "scripts/pruning/calibration_data.py": FROM_CALIBRATION,
    "scripts/pruning/checkpoint.py": FROM_MODEL,
    "scripts/pruning/compact.py": FROM_COMPACT,
    "scripts/pruning/compensation/__init__.py": NOTHING,
    "scripts/pruning/compensation/bias.py": NOTHING,
    "scripts/pruning/config.py": NOTHING,
    "scripts/pruning/datasets.py": FROM_DATA,
    "scripts/pruning/default_config.py": NOTHING,
    "scripts/pruning/devices.py": NOTHING,
    "scripts/pruning/evaluation.py": FROM_EVALUATE,
    "scripts/pruning/inference.py": {"table1": 1},
    "scripts/pruning/locks.py": NOTHING,
    "scripts/pruning/loading.py": FROM_CALIBRATION | FROM_EVALUATE,
    "scripts/pruning/normalise.py": FROM_SCORE,
    "scripts/pruning/out_of_memory.py": FROM_CALIBRATION | FROM_EVALUATE,
    "scripts/pruning/overlap.py": NOTHING,
    "scripts/pruning/perplexity.py": NOTHING,
    "scripts/pruning/preflight.py": NOTHING,
    "scripts/pruning/reasoner.py": NOTHING,
    "scripts/pruning/recovery.py": NOTHING,
    "scripts/pruning/response_cache.py": FROM_EVALUATE,
    "scripts/pruning/scores/__init__.py": FROM_SCORE,
    "scripts/pruning/scores/cfsp.py": NOTHING,
    "scripts/pruning/scores/cfsp_as_code.py": NOTHING,
    "scripts/pruning/scores/fluctuation.py": NOTHING,
    "scripts/pruning/scores/magnitude.py": NOTHING,
    "scripts/pruning/scores/minitron.py": NOTHING,
    "scripts/pruning/scores/random.py": ONE_METHOD,
    "scripts/pruning/scores/utility.py": ONE_METHOD,
    "scripts/pruning/scores/wanda.py": ONE_METHOD,
    "scripts/pruning/statistics.py": FROM_CALIBRATION,
    "scripts/pruning/tables.py": {"table1": 1},
    "scripts/pruning/word_problems.py": FROM_DATA,
}

# Key -> (new value, jobs). With `test_every_config_key_is_listed`, a new key must say what depends on it.
KEYS = {
    "data_folder": ("elsewhere", NOTHING),
    "models.tiny-reasoner.source.path": ("resources/other", FROM_MODEL),
    "models.tiny-reasoner.dtype": ("bfloat16", FROM_CALIBRATION | FROM_EVALUATE),
    "models.tiny-reasoner.gpus": (1, NOTHING),
    "models.tiny-reasoner.threads": (2, NOTHING),
    "models.tiny-reasoner.memory_gb": (3, NOTHING),
    "models.tiny-reasoner.note": ("random weights", {"table1": 1}),
    "datasets.gsm_symbolic.templates": ([4, 9, 14, 20, 30, 34], FROM_DATA),
    "datasets.gsm_symbolic.with_options": (None, None),  # the default's fields need it
    "datasets.gsm_symbolic.seed": (1, FROM_DATA),
    "datasets.gsm_symbolic.splits.train": (41, {"fetch_dataset": 1, **FROM_CALIBRATION}),
    "datasets.gsm_symbolic.splits.test": (13, {"fetch_dataset": 1, **FROM_EVALUATE}),
    "datasets.gsm_symbolic.fields": (["question", "answer"], FROM_DATA),
    "datasets.gsm_symbolic.prompt": ("Q: {question}\nAnswer:", FROM_CALIBRATION),
    "datasets.gsm_symbolic.completion": ("{answer}", FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.dataset": (None, None),  # another dataset: see splits
    "calibrations.gsm_symbolic-s0.split": ("test", {**FROM_CALIBRATION}),
    "calibrations.gsm_symbolic-s0.samples": (10, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.sequence_length": (50, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.packing": ("concat", FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.seed": (1, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.energy": ("pre_norm", FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.token_mask": ("answer", FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.mask_first_token": (True, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.micro_batch": (3, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.shards": (2, {**FROM_CALIBRATION, "calibrate_shard": 2}),
    "calibrations.gsm_symbolic-s0.gradient_checkpointing": (True, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.sampled_tokens": (10, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.analysed_layer": (1, FROM_CALIBRATION),
    "methods.random.score": ("magnitude", None),  # takes no seed: see options
    "methods.random.options": ({"seed": 1}, ONE_METHOD),
    "methods.rku.normalise": ("layer_mean", ONE_METHOD),
    "methods.rku.allocate": ("uniform", FROM_MASK_OF_ONE),
    "methods.rku.allocate_options": ({"alpha": 1}, FROM_MASK_OF_ONE),
    "methods.rku.compensate": (None, None),  # not on Qwen2
    "methods.rku.min_keep": (0.1, FROM_MASK_OF_ONE),
    "methods.rku.round_to": (8, FROM_MASK_OF_ONE),
    "methods.rku.export": ("pad", {"compact": 2, "evaluate": 2, "table1": 1}),
    "methods.rku.shuffle": (1, ONE_METHOD),
    "tasks.gsm_symbolic.title": ("Sums", {"table1": 1}),
    "tasks.gsm_symbolic.metrics": (None, None),  # it has one
    "tasks.gsm_symbolic.limit": (5, FROM_EVALUATE),
    "tasks.gsm_symbolic.batch_size": (3, FROM_EVALUATE),
    "table1.models": (None, None),
    "table1.calibrations": (None, None),
    "table1.methods": (["wanda", "rku"], {"table1": 1}),
    "table1.sparsities": ([30, 50, 70], {"mask": 3, "compact": 3, "evaluate": 3, "table1": 1}),
    "table1.tasks": (["gsm_symbolic_options"], FROM_EVALUATE),
    "table1.reference": ("rku", {"table1": 1}),
    "table1.confidence": (0.9, {"table1": 1}),
    "table1.resamples": (100, {"table1": 1}),
    "table1.seed": (1, {"table1": 1}),
    "storage.compact": (None, None),  # see test_temporary_models
    "reasoner": (None, NOTHING),
}


@contextmanager
def changed(path: Path, text: str):
    """A file with other content, put back with its time stamp afterwards."""
    before, stat = path.read_bytes(), path.stat()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_nothing_is_planned_after_a_run(finished: Workspace):
    assert finished.planned("results/table1.csv") == NOTHING


def test_touched_files_plan_nothing(finished: Workspace):
    for name in ("Snakefile", "rules", "scripts", "config"):
        for path in [finished.path / name, *(finished.path / name).rglob("*")]:
            path.touch()
    assert finished.planned("results/table1.csv") == NOTHING


def test_every_code_file_is_listed():
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "scripts").rglob("*.py")}
    assert files == set(CODE)


@pytest.mark.parametrize("file", CODE)
def test_editing_code_plans_its_dependants(finished: Workspace, file: str):
    path = finished.path / file
    with changed(path, path.read_text() + "\n# edited\n"):
        assert finished.planned("results/table1.csv") == CODE[file]


def leaf_keys(model: type, prefix: str = "") -> set[str]:
    """Dotted names of all settings, entries of named tables as `*`."""
    import typing

    from pydantic import BaseModel

    found = set()
    for name, field in model.model_fields.items():
        inner = [field.annotation, *typing.get_args(field.annotation)]
        inner += [a for i in inner for a in typing.get_args(i)]
        inner += [a for i in inner for a in typing.get_args(i)]
        models = [i for i in inner if isinstance(i, type) and issubclass(i, BaseModel)]
        table = typing.get_origin(field.annotation) is dict
        for kind in models:
            found |= leaf_keys(kind, f"{prefix}{name}.{'*.' if table else ''}")
        if not models:
            found.add(f"{prefix}{name}")
    return found


def test_every_config_key_is_listed():
    listed = set()
    for key in KEYS:
        parts = key.split(".")
        if parts[0] in ("models", "datasets", "calibrations", "methods", "tasks"):
            parts[1] = "*"
        listed.add(".".join(parts[:3] if parts[0] == "datasets" else parts))
    elsewhere = (
        "reasoner.",
        "tunings.",
        "datasets.*.hub.",
        "datasets.*.local.",
        "models.*.source.",
    )
    perplexity = {f"tasks.*.{name}" for name in config.PerplexityTask.model_fields}  # no such task in this grid
    missing = {
        key
        for key in leaf_keys(config.Config)
        if not key.startswith(elsewhere) and not key.endswith(".kind") and key not in perplexity
    }
    assert missing - listed == set()


@pytest.mark.parametrize("key", [key for key, (_, jobs) in KEYS.items() if jobs is not None])
def test_changing_a_setting_plans_its_dependants(finished: Workspace, key: str):
    value, jobs = KEYS[key]
    if key == "models.tiny-reasoner.source.path":
        shutil.copytree(finished.path / "resources/model", finished.path / value, dirs_exist_ok=True)
    content = yaml.safe_load((finished.path / "test.yaml").read_text())
    section = content
    *parents, last = key.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    with changed(finished.path / "test.yaml", yaml.safe_dump(content)):
        assert finished.planned("results/table1.csv") == jobs


def test_adding_a_preset_plans_only_its_jobs(finished: Workspace):
    content = yaml.safe_load((finished.path / "test.yaml").read_text())
    content["methods"] = {"taylor_sq": {"score": "utility", "options": {"objective": "ce", "reduction": "net_sq"}}}
    content["table1"]["methods"].append("taylor_sq")
    with changed(finished.path / "test.yaml", yaml.safe_dump(content)):
        assert finished.planned("results/table1.csv") == ONE_METHOD


def test_editing_a_task_definition_plans_its_evaluations(finished: Workspace):
    path = finished.path / "config/tasks/gsm_symbolic.yaml"
    with changed(path, path.read_text().replace("max_gen_toks: 192", "max_gen_toks: 100")):
        assert finished.planned("results/table1.csv") == FROM_EVALUATE


def test_a_changed_mask_is_never_answered_from_another_models_cache(workspace: Workspace):
    target = "results/tiny-reasoner/eval/gsm_symbolic-s0/random/50/gsm_symbolic.samples.parquet"
    workspace.snakemake(target)
    folder = (workspace.path / target).parent
    (old,) = folder.glob(".gsm_symbolic.*.jsonl")
    poison = old.read_text().replace('"response": "', '"response": "#### 777 ')
    old.write_text(poison)
    content = yaml.safe_load((workspace.path / "test.yaml").read_text())
    content["methods"] = {"random": {"options": {"seed": 1}}}
    (workspace.path / "test.yaml").write_text(yaml.safe_dump(content))
    workspace.snakemake(target)
    assert len(list(folder.glob(".gsm_symbolic.*.jsonl"))) == 2
    assert "777" not in set(pd.read_parquet(workspace.path / target)["prediction"])


def test_after_sigkill_the_same_command_goes_on_where_it_stopped(workspace: Workspace):
    content = yaml.safe_load((workspace.path / "test.yaml").read_text())
    content["tasks"]["gsm_symbolic"] |= {"limit": 12, "batch_size": 1}
    (workspace.path / "test.yaml").write_text(yaml.safe_dump(content))
    target = "results/tiny-reasoner/eval/dense/gsm_symbolic.samples.parquet"
    folder = (workspace.path / target).parent
    command = ["snakemake", "--cores", "1", target, "--configfile", "test.yaml"]
    run = subprocess.Popen(command, cwd=workspace.path, start_new_session=True, stdout=-3, stderr=-3)
    deadline = time.monotonic() + 300
    while not (answers := [p for p in folder.glob(".gsm_symbolic.*.jsonl") if p.read_bytes().count(b"\n") >= 2]):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.05)
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
    content = yaml.safe_load((workspace.path / "test.yaml").read_text())
    content["storage"] = {"compact": "temp"}
    content["table1"] |= {"methods": ["wanda"], "sparsities": [50]}
    (workspace.path / "test.yaml").write_text(yaml.safe_dump(content))
    workspace.snakemake("results/table1.csv")
    folder = workspace.path / "results/tiny-reasoner/compact/gsm_symbolic-s0/wanda/50"
    assert (folder / "manifest.json").exists() and not (folder / "model").exists()
    assert workspace.planned("results/table1.csv") == NOTHING
