"""What is planned after a change is exactly what depends on it: no job less, no job more."""

import os
import shutil
import subprocess
import time

import pandas as pd
import pytest
import yaml

import tiny
from pruning.config.schema import Config
from pruning.config.tasks import PerplexityTask
from pruning.evaluation.answers import AnswerFile
from workspace import ROOT, Dag, Workspace, changed

# Jobs of the test grid: three methods, two sparsities, one task.
ALL = {
    "fetch_dataset": 2,
    "fetch_model": 1,
    "calibrate_shard": 2,
    "merge_calibration": 1,
    "score": 3,
    "mask": 6,
    "compact": 6,
    "evaluate": 7,
    "leakage": 1,
    "table": 1,
}
FROM_MASK = {"mask": 6, "compact": 6, "evaluate": 6, "table": 1}
FROM_SCORE = {"score": 3, **FROM_MASK}
FROM_COMPACT = {"compact": 6, "evaluate": 6, "table": 1}
FROM_MERGE = {"merge_calibration": 1, **FROM_SCORE}
FROM_CALIBRATION = {"calibrate_shard": 2, **FROM_MERGE}
FROM_EVALUATE = {"evaluate": 7, "table": 1}
FROM_MODEL = {"fetch_model": 1, **FROM_CALIBRATION, **FROM_EVALUATE}
FROM_DATA = {"fetch_dataset": 2, "leakage": 1, **FROM_CALIBRATION, **FROM_EVALUATE}
ONE_METHOD = {"score": 1, "mask": 2, "compact": 2, "evaluate": 2, "table": 1}
FROM_MASK_OF_ONE = {"mask": 2, "compact": 2, "evaluate": 2, "table": 1}
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
    "scripts/table.py": {"table": 1},
    "scripts/pruning/analysis/costs.py": {"table": 1},
    "scripts/launch.py": NOTHING,
    **dict.fromkeys(
        (
            "scripts/own_answers.py",
            "scripts/pruning/methods/least_squares.py",
            "scripts/overlap.py",
            "scripts/spectrum.py",
            "scripts/trap.py",
            "scripts/cases.py",
            "scripts/observe.py",
            "scripts/pruning/calibration/observe.py",
            "scripts/pruning/calibration/token_classes.py",
            "scripts/pruning/analysis/layer.py",
            "scripts/collapse.py",
            "scripts/widths.py",
            "scripts/second_moments.py",
            "scripts/attention_statistics.py",
            "scripts/export.py",
            "scripts/pruning/evaluation/backends/vllm.py",
            "scripts/to_gguf.py",
            "scripts/pruning/evaluation/runtimes.py",
            "scripts/pruning/models/gguf_model.py",
            "scripts/pruning/models/gguf_tokenizer.py",
            "scripts/pruning/models/gguf_types.py",
            "scripts/pruning/report/card.py",
            "scripts/latency.py",
            "scripts/latency_table.py",
            "scripts/pruning/analysis/latency_table.py",
            "scripts/pruning/methods/latency_table.py",
            "scripts/speed.py",
            "scripts/budget.py",
            "scripts/pruning/analysis/budget.py",
            "scripts/page.py",
            "scripts/index.py",
            "scripts/experiments.py",
            "scripts/pruning/report/site.py",
            "scripts/pruning/analysis/readings.py",
            "scripts/figure.py",
            "scripts/pruning/analysis/ablation.py",
            "scripts/pruning/analysis/cases.py",
            "scripts/pruning/analysis/collapse.py",
            "scripts/pruning/analysis/latency.py",
            "scripts/pruning/analysis/tradeoff.py",
            "scripts/pruning/calibration/second_moments.py",
            "scripts/pruning/calibration/layerwise.py",
            "scripts/output_gradients.py",
            "scripts/pruning/calibration/output_gradients.py",
            "scripts/sensitivity.py",
            "scripts/pruning/methods/sensitivity.py",
            "scripts/pruning/methods/allocation/sensitivity.py",
            "scripts/pruning/methods/allocation/greedy.py",
            "scripts/rounds.py",
            "scripts/pruning/methods/rounds.py",
            "scripts/pruning/methods/surgeon.py",
            "scripts/refit.py",
            "scripts/pruning/methods/refit.py",
            "scripts/pruning/methods/compensation/ridge_sequential.py",
            "scripts/pruning/methods/compensation/ridge_corrective.py",
            "scripts/pruning/methods/compensation/ridge_attention.py",
            "scripts/pruning/methods/scores/obs.py",
            "scripts/pruning/methods/scores/leverage.py",
            "scripts/pruning/methods/scores/rounds.py",
            "scripts/pruning/analysis/spectrum.py",
            "scripts/pruning/analysis/trap.py",
            "scripts/parameter_gradients.py",
            "scripts/pruning/calibration/parameter_gradients.py",
            "scripts/pruning/methods/compensation/ridge.py",
            "scripts/pruning/data/adapters/aqua_rationale.py",
            "scripts/pruning/report/catalogue.py",
        ),
        NOTHING,
    ),
    **{
        str(path.relative_to(ROOT)): NOTHING
        for folder in ("config", "command", "report/figures", "report/tables")
        for path in (ROOT / "scripts/pruning" / folder).glob("*.py")
    },
    "scripts/pruning/report/tables/__init__.py": {"table": 1},
    "scripts/pruning/report/tables/results.py": {"table": 1},
    "scripts/leakage.py": {"leakage": 1, "table": 1},
    "scripts/pruning/data/leakage.py": {"leakage": 1, "table": 1},
    "scripts/pruning/data/arithmetic.py": FROM_DATA,
    "scripts/pruning/evaluation/degeneration.py": FROM_EVALUATE,
    "scripts/pruning/report/printing.py": {"table": 1},
    "scripts/recover.py": NOTHING,
    "scripts/train_reasoner.py": NOTHING,
    "scripts/promote_reasoner.py": NOTHING,
    "scripts/write_config.py": NOTHING,
    "scripts/verify.py": NOTHING,
    "scripts/estimate.py": NOTHING,
    "scripts/pruning/models/rehearsal.py": FROM_CALIBRATION,  # which refuses what would not fit
    "scripts/pruning/calibration/footprint.py": NOTHING,
    "scripts/pruning/analysis/work.py": NOTHING,
    "scripts/pruning/__init__.py": ALL,
    "scripts/pruning/core/__init__.py": ALL,
    "scripts/pruning/models/__init__.py": FROM_MODEL,
    "scripts/pruning/data/__init__.py": FROM_DATA,
    "scripts/pruning/calibration/__init__.py": FROM_CALIBRATION,
    "scripts/pruning/methods/__init__.py": FROM_SCORE | FROM_EVALUATE,
    "scripts/pruning/evaluation/__init__.py": FROM_EVALUATE,
    "scripts/pruning/analysis/__init__.py": {"table": 1},
    "scripts/pruning/analysis/comparison.py": {"table": 1},
    "scripts/pruning/report/__init__.py": {"table": 1},
    "scripts/pruning/core/artifacts.py": ALL,
    "scripts/pruning/core/chain.py": ALL,
    "scripts/pruning/core/layer_files.py": FROM_SCORE,
    "scripts/pruning/core/cli.py": ALL,
    "scripts/pruning/core/errors.py": ALL,
    "scripts/pruning/core/files.py": ALL,
    "scripts/pruning/data/adapters/__init__.py": NOTHING,
    "scripts/pruning/data/adapters/aqua_raw.py": NOTHING,
    "scripts/pruning/data/adapters/arc_olmo.py": NOTHING,
    "scripts/pruning/methods/allocation/__init__.py": FROM_MASK,
    "scripts/pruning/methods/allocation/cfsp.py": NOTHING,
    "scripts/pruning/methods/allocation/cfsp_refill.py": NOTHING,
    "scripts/pruning/methods/allocation/global.py": NOTHING,
    "scripts/pruning/methods/allocation/joint.py": NOTHING,
    "scripts/pruning/methods/allocation/sensitivity_joint.py": NOTHING,
    "scripts/pruning/methods/allocation/uniform.py": FROM_MASK,
    "scripts/pruning/methods/masks.py": FROM_SCORE | FROM_EVALUATE,
    "scripts/pruning/models/pruned.py": FROM_EVALUATE,
    "scripts/pruning/models/adapters.py": FROM_MODEL,
    "scripts/pruning/models/sources.py": FROM_MODEL,
    "scripts/pruning/calibration/gradients.py": FROM_CALIBRATION,
    "scripts/pruning/calibration/prepare.py": FROM_CALIBRATION,
    "scripts/pruning/data/text.py": FROM_CALIBRATION,
    "scripts/pruning/models/checkpoint.py": FROM_MODEL,
    "scripts/pruning/models/checkpointing.py": FROM_CALIBRATION,
    "scripts/pruning/models/head.py": FROM_CALIBRATION,
    "scripts/pruning/models/complete.py": FROM_MODEL,
    "scripts/pruning/models/tokenizers.py": FROM_MODEL,
    "scripts/pruning/models/families.py": FROM_MODEL,
    "scripts/pruning/models/structures/__init__.py": FROM_MODEL,
    "scripts/pruning/models/structures/base.py": FROM_MODEL,
    "scripts/pruning/models/structures/ffn.py": FROM_MODEL,
    "scripts/pruning/models/structures/kv_groups.py": FROM_MODEL,
    "scripts/pruning/methods/compact.py": FROM_COMPACT | FROM_EVALUATE,
    "scripts/pruning/methods/requirements.py": NOTHING,
    "scripts/pruning/methods/variants.py": FROM_EVALUATE,
    "scripts/pruning/models/remote_code.py": FROM_COMPACT | FROM_EVALUATE,
    "scripts/pruning/methods/compensation/__init__.py": FROM_COMPACT | FROM_EVALUATE,
    "scripts/pruning/methods/compensation/bias.py": NOTHING,
    "scripts/pruning/data/datasets.py": FROM_DATA,
    "scripts/pruning/core/devices.py": NOTHING,
    "scripts/pruning/core/gpu_request.py": ALL,
    "scripts/pruning/core/failures.py": NOTHING,  # rules/messages.smk alone
    "scripts/pruning/evaluation/harness.py": FROM_EVALUATE,
    "scripts/pruning/evaluation/generation.py": FROM_EVALUATE,
    "scripts/pruning/evaluation/shared_prefix.py": FROM_EVALUATE,
    "scripts/pruning/core/significance.py": {"table": 1},
    "scripts/pruning/evaluation/likelihood.py": FROM_EVALUATE,
    "scripts/pruning/core/names.py": {"table": 1},
    "scripts/pruning/core/limits.py": {"table": 1},
    "scripts/pruning/core/locks.py": NOTHING,
    "scripts/pruning/core/strict_yaml.py": NOTHING,
    "scripts/pruning/core/slurm.py": NOTHING,
    "scripts/pruning/core/hub.py": FROM_MODEL | FROM_DATA,
    "scripts/pruning/models/loading.py": FROM_CALIBRATION | FROM_EVALUATE,
    "scripts/pruning/models/packing.py": FROM_EVALUATE,
    "scripts/pruning/core/memory.py": FROM_CALIBRATION | FROM_EVALUATE,
    "scripts/pruning/methods/normalise.py": FROM_SCORE,
    "scripts/pruning/calibration/objectives.py": ONE_METHOD,
    "scripts/pruning/core/out_of_memory.py": FROM_CALIBRATION | FROM_EVALUATE,
    "scripts/pruning/analysis/overlap.py": NOTHING,
    "scripts/pruning/evaluation/perplexity.py": NOTHING,
    "scripts/pruning/evaluation/kinds/__init__.py": FROM_EVALUATE,
    "scripts/pruning/evaluation/kinds/lm_eval.py": FROM_EVALUATE,
    "scripts/pruning/evaluation/kinds/perplexity.py": NOTHING,
    "scripts/pruning/models/reasoner.py": NOTHING,
    "scripts/pruning/evaluation/recovery.py": NOTHING,
    "scripts/pruning/evaluation/answers.py": FROM_EVALUATE,
    "scripts/pruning/evaluation/backends/__init__.py": FROM_EVALUATE,
    "scripts/pruning/evaluation/backends/hf.py": FROM_EVALUATE,
    "scripts/pruning/evaluation/samples.py": FROM_EVALUATE,
    "scripts/pruning/evaluation/tasks.py": FROM_EVALUATE,
    "scripts/pruning/methods/scores/__init__.py": FROM_SCORE,
    "scripts/pruning/methods/scores/cfsp.py": NOTHING,
    "scripts/pruning/methods/scores/cfsp_as_code.py": NOTHING,
    "scripts/pruning/methods/scores/fluctuation.py": NOTHING,
    "scripts/pruning/methods/scores/magnitude.py": NOTHING,
    "scripts/pruning/methods/scores/minitron.py": NOTHING,
    "scripts/pruning/methods/scores/parameter_taylor.py": NOTHING,
    "scripts/pruning/methods/scores/random.py": ONE_METHOD,
    "scripts/pruning/methods/scores/utility.py": ONE_METHOD,
    "scripts/pruning/methods/scores/wanda.py": ONE_METHOD,
    "scripts/pruning/calibration/columns.py": FROM_CALIBRATION,
    "scripts/pruning/report/files.py": {"table": 1},
    "scripts/pruning/report/layout.py": {"table": 1},
    "scripts/pruning/report/notes.py": {"table": 1},
    "scripts/pruning/data/word_problems.py": FROM_DATA,
}

# Key -> (new value, jobs). With `test_every_config_key_is_listed`, a new key must say what depends on it.
KEYS = {
    "data_folder": ("elsewhere", NOTHING),
    "models.tiny-reasoner.source.path": ("resources/other", FROM_MODEL),
    "models.tiny-reasoner.dtype": ("bfloat16", FROM_CALIBRATION | FROM_EVALUATE),
    "models.tiny-reasoner.gpus": (1, NOTHING),
    "models.tiny-reasoner.threads": (2, NOTHING),
    "models.tiny-reasoner.memory_gb": (3, NOTHING),
    "models.tiny-reasoner.backend": ("vllm", FROM_EVALUATE),
    "models.tiny-reasoner.max_model_len": (None, None),  # vLLM's: see test_what_vllm_is_told_re_runs_what_it_answers
    "models.tiny-reasoner.note": ("random weights", {"table": 1}),
    "datasets.gsm_symbolic.templates": ([4, 9, 14, 20, 30, 34], FROM_DATA),
    "datasets.gsm_symbolic.with_options": (None, None),  # the default's fields need it
    "datasets.gsm_symbolic.content": (None, None),  # the default's fields need word problems
    "datasets.gsm_symbolic.difficulty": (1.5, FROM_DATA),
    "datasets.gsm_symbolic.seed": (1, FROM_DATA),
    "datasets.gsm_symbolic.splits.train": (41, {"fetch_dataset": 1, "leakage": 1, **FROM_CALIBRATION}),
    "datasets.gsm_symbolic.splits.test": (13, {"fetch_dataset": 1, "leakage": 1, **FROM_EVALUATE}),
    "datasets.gsm_symbolic.fields": (["question", "answer"], FROM_DATA),
    "datasets.gsm_symbolic.prompt": ("Q: {question}\nAnswer:", FROM_CALIBRATION),
    "datasets.gsm_symbolic.completion": ("{answer}", FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.dataset": (None, None),  # another dataset: see splits
    "calibrations.gsm_symbolic-s0.split": ("test", {"leakage": 1, **FROM_CALIBRATION}),
    "calibrations.gsm_symbolic-s0.answers": ("gsm_symbolic", {"own_answers": 1, **FROM_CALIBRATION}),
    "calibrations.gsm_symbolic-s0.completion": ("{answer}", FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.samples": (10, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.sequence_length": (50, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.packing": ("concat", FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.seed": (1, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.objectives": (["energy", "ce"], FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.token_mask": ("answer", FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.micro_batch": (3, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.shards": (3, {**FROM_CALIBRATION, "calibrate_shard": 3}),
    "calibrations.gsm_symbolic-s0.gradient_checkpointing": (True, FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.rounds": ([50], NOTHING),
    "calibrations.gsm_symbolic-s0.probed": (3, NOTHING),
    "methods.random.score": ("magnitude", None),  # takes no seed: see options
    "methods.random.options": ({"seed": 1}, ONE_METHOD),
    "methods.rku.normalise": ("layer_mean", ONE_METHOD),
    "methods.rku.allocate": ("global", FROM_MASK_OF_ONE),
    "methods.rku.allocate_options": ({"alpha": 1}, FROM_MASK_OF_ONE),
    "methods.rku.compensate": ("bias", {"compact": 2, "evaluate": 2, "table": 1}),
    "methods.rku.min_keep": (0.1, FROM_MASK_OF_ONE),
    "methods.rku.drop_layers": (True, FROM_MASK_OF_ONE),
    "methods.rku.round_to": (8, FROM_MASK_OF_ONE),
    "methods.rku.export": ("pad", {"compact": 2, "evaluate": 2, "table": 1}),
    "methods.rku.shuffle": (1, ONE_METHOD),
    "tasks.gsm_symbolic.title": ("Sums", {"table": 1}),
    "tasks.gsm_symbolic.metrics": (None, None),  # it has one
    "tasks.gsm_symbolic.limit": (5, {"leakage": 1, **FROM_EVALUATE}),
    "tasks.gsm_symbolic.chance": (0.1, NOTHING),
    "tasks.gsm_symbolic.batch_size": (3, FROM_EVALUATE),
    "tasks.gsm_symbolic.definition": (None, None),  # another one reads other data
    "tasks.gsm_symbolic.first": (1, {"leakage": 1, **FROM_EVALUATE}),
    "tasks.gsm_symbolic.num_fewshot": (0, FROM_EVALUATE),
    "tasks.gsm_symbolic.shared_examples": (True, FROM_EVALUATE),
    "tasks.gsm_symbolic.chat_template": (None, None),  # the model has none
    "tasks.gsm_symbolic.max_gen_toks": (50, FROM_EVALUATE),
    **{f"tasks.gsm_symbolic.stop_early.{key}": (None, None) for key in ("after", "below", "confidence")},  # below
    "experiment.name": ("mine", None),  # see test_paper.py
    "experiment.models": (None, None),
    "experiment.calibrations": (None, None),
    "experiment.methods": (["wanda", "rku"], {"table": 1}),
    "experiment.reference": ("rku", {"table": 1}),
    "experiment.sparsity": (30, NOTHING),
    "experiment.layer": (0, NOTHING),
    "experiment.confidence": (0.9, {"table": 1}),
    "experiment.resamples": (100, {"table": 1}),
    "experiment.seed": (1, {"table": 1}),
    "experiment.together": ([["gsm_symbolic", "gsm_symbolic_options"]], NOTHING),  # see test_together.py
    "tables.table1.title": ("Another", {"table": 1}),
    "tables.table1.tasks": (["gsm_symbolic_options"], {"leakage": 1, **FROM_EVALUATE}),
    "tables.table1.sparsities": ([30, 50, 70], {"mask": 3, "compact": 3, "evaluate": 3, "table": 1}),
    "tables.table1.at": (None, None),  # in their place: see test_tables.py
    "tables.table1.models": (None, None),
    "tables.table1.calibrations": (None, None),
    "tables.table1.methods": (["wanda", "rku"], {"table": 1}),
    "tables.table1.reference": ("rku", {"table": 1}),
    "tables.table1.layout": ("long", {"table": 1}),
    "tables.table1.costs": (True, {"table": 1}),
    "tables.table1.paper": (None, None),  # see test_a_table_without_the_paper
    "latency_table.prompt_tokens": (64, NOTHING),  # see test_what_keeps_to_a_speed_measures_it_once
    "latency_table.decode_tokens": (4, NOTHING),
    "latency_table.rounds": (5, NOTHING),
    "latency_table.warmup": (2, NOTHING),
    "storage.second_moments": ("keep", NOTHING),
    "storage.compact": (None, None),  # see test_temporary_models
    "reasoner": (None, NOTHING),
    "ask_above": (1, NOTHING),  # a dry-run asks nothing
    "confirm": (True, NOTHING),
    "custom_rules": (None, None),  # see test_elsewhere.py
}


def test_nothing_is_planned_after_a_run(finished: Workspace):
    assert finished.planned("results/table1.csv") == NOTHING


def test_touched_files_plan_nothing(finished: Workspace):
    for name in ("Snakefile", "rules", "scripts", "config"):
        for path in [finished.path / name, *(finished.path / name).rglob("*")]:
            path.touch()
    assert finished.planned("results/table1.csv") == NOTHING


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


def test_every_code_file_is_listed():
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "scripts").rglob("*.py")}
    assert files == set(CODE)


@pytest.fixture(scope="module")
def dag(finished: Workspace) -> Dag:
    return finished.dag("results/table1.csv")


@pytest.mark.parametrize("file", CODE)
def test_editing_code_plans_its_dependants(dag: Dag, file: str):
    assert dag.after_editing(file) == CODE[file]


@pytest.mark.parametrize(
    "file",
    [
        "scripts/launch.py",
        "scripts/merge_calibration.py",
        "scripts/pruning/core/names.py",
        "scripts/pruning/data/arithmetic.py",
        "scripts/pruning/data/leakage.py",
        "scripts/pruning/evaluation/kinds/lm_eval.py",
        "scripts/pruning/methods/allocation/uniform.py",
        "scripts/pruning/methods/masks.py",
        "scripts/pruning/methods/scores/wanda.py",
        "scripts/pruning/models/families.py",
        "scripts/pruning/report/catalogue.py",
    ],
)
def test_snakemake_plans_what_the_dag_says(finished: Workspace, file: str):
    """Real edits, of files of all stages: the proof of the test above."""
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
        if parts[0] in ("models", "datasets", "calibrations", "methods", "tasks", "tables"):
            parts[1] = "*"
        listed.add(".".join(parts[:3] if parts[0] == "datasets" else parts))
    elsewhere = (  # no part of Table 1; tests/pipeline/test_paper.py
        *("overlap.", "readings.", "spectrum.", "trap.", "cases.", "collapse.", "ablation.", "latency.", "tradeoff."),
        "reasoner.",
        "budgets.",
        "tunings.",
        "datasets.*.hub.",
        "datasets.*.local.",
        "models.*.source.",
    )
    perplexity = {f"tasks.*.{name}" for name in PerplexityTask.model_fields}  # no such task in this grid
    missing = {
        key
        for key in leaf_keys(Config)
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


def test_stopping_early_asks_again(finished: Workspace):
    content = yaml.safe_load((finished.path / "test.yaml").read_text())
    content["tasks"]["gsm_symbolic"]["stop_early"] = {"after": 3, "below": 0.1}
    content |= {"collapse": None, "ablation": None}  # which need every item
    with changed(finished.path / "test.yaml", yaml.safe_dump(content)):
        assert finished.planned("results/table1.csv") == FROM_EVALUATE


def test_what_vllm_is_told_re_runs_what_it_answers(finished: Workspace):
    """A text is the model's own, whatever answers."""
    content = yaml.safe_load((finished.path / "test.yaml").read_text())
    own, texts = content["models"]["tiny-reasoner"], "results/table6.csv"
    before = finished.planned(texts)
    own |= {"backend": "vllm", "max_model_len": 256}
    with changed(finished.path / "test.yaml", yaml.safe_dump(content)):
        assert finished.planned("results/table1.csv") == FROM_EVALUATE
        assert finished.planned(texts) == before


def test_a_changed_gguf_file_is_fetched_again(workspace: Workspace):
    file, target = workspace.path / "resources/part1.gguf", "results/tiny-reasoner/base/manifest.json"
    tiny.gguf(tiny.llama(), file)
    content = yaml.safe_load((workspace.path / "test.yaml").read_text())
    content["models"]["tiny-reasoner"]["source"] = {"kind": "gguf", "path": "resources/part{part}.gguf", "parts": 1}
    (workspace.path / "test.yaml").write_text(yaml.safe_dump(content))
    workspace.snakemake(target)
    assert workspace.planned(target) == NOTHING
    tiny.gguf(tiny.llama(seed=1), file)
    assert workspace.planned(target) == {"fetch_model": 1}


def test_adding_a_preset_plans_only_its_jobs(finished: Workspace):
    content = yaml.safe_load((finished.path / "test.yaml").read_text())
    content["methods"] = {"taylor_sq": {"score": "utility", "options": {"objective": "ce", "reduction": "net_sq"}}}
    content["experiment"]["methods"].append("taylor_sq")
    with changed(finished.path / "test.yaml", yaml.safe_dump(content)):
        assert finished.planned("results/table1.csv") == ONE_METHOD


def test_what_keeps_to_a_speed_measures_it_once(finished: Workspace):
    """One table for all methods of a model; how it is measured re-runs their masks, and nobody else's."""
    content = yaml.safe_load((finished.path / "test.yaml").read_text())
    fast = {"score": "wanda", "allocate": "sensitivity", "allocate_options": {"per": "decode"}}
    content["methods"] = {"fast": fast, "joint": {**fast, "allocate": "joint"}}
    content["latency_table"] = {"prompt_tokens": 32, "decode_tokens": 2, "rounds": 5}
    masks = [f"results/tiny-reasoner/masks/gsm_symbolic-s0/{name}/50.parquet" for name in ("fast", "joint")]
    with changed(finished.path / "test.yaml", yaml.safe_dump(content)):
        planned = {"latency_table": 1, "score": 2, "sensitivity": 1, "attention_statistics": 1, "mask": 2}
        assert finished.planned(*masks) == planned
        finished.snakemake("results/tiny-reasoner/latency_table.parquet", masks[0])
        table = pd.read_parquet(finished.path / "results/tiny-reasoner/latency_table.parquet")
        assert table["units"].tolist() == [*range(0, 49, 3), 1, 2]
        assert finished.planned(masks[0]) == NOTHING
        content["latency_table"]["rounds"] = 6
        (finished.path / "test.yaml").write_text(yaml.safe_dump(content))
        assert finished.planned(masks[0]) == {"latency_table": 1, "mask": 1}
        assert finished.planned("results/table1.csv") == NOTHING


GRADIENTS = "results/tiny-reasoner/scores/gsm_symbolic-s0/by_gradients.parquet"


def test_parameter_gradients_are_a_stage_of_their_own(workspace: Workspace):
    """Only the score that wants them runs them, without the statistics; what those alone depend on re-runs nothing."""
    content = yaml.safe_load((workspace.path / "test.yaml").read_text())
    content["methods"] = {
        "by_gradients": {"score": "parameter_taylor"},
        "by_gradients_joint": {"score": "parameter_taylor", "allocate": "joint"},
    }
    (workspace.path / "test.yaml").write_text(yaml.safe_dump(content))
    workspace.snakemake(GRADIENTS)
    assert len(pd.read_parquet(workspace.path / GRADIENTS)) == 96
    assert not (workspace.path / "results/tiny-reasoner/calibration/gsm_symbolic-s0/statistics.parquet").exists()
    again = {"parameter_gradients": 1, "score": 1}
    for file, jobs in {
        "parameter_gradients.py": again,
        "pruning/calibration/parameter_gradients.py": again,
        "pruning/methods/scores/parameter_taylor.py": {"score": 1},
        "calibrate.py": NOTHING,
    }.items():
        path = workspace.path / "scripts" / file
        with changed(path, path.read_text() + "\n# edited\n"):
            assert workspace.planned(GRADIENTS) == jobs
    changes = {
        "token_mask": "answer",
        "gradient_checkpointing": True,
        "objectives": ["energy", "ce", "energy_post"],
    }
    for key, value in changes.items():
        content["calibrations"]["gsm_symbolic-s0"] |= {key: value}
        with changed(workspace.path / "test.yaml", yaml.safe_dump(content)):
            assert workspace.planned(GRADIENTS) == (NOTHING if key == "objectives" else again)
        del content["calibrations"]["gsm_symbolic-s0"][key]
    joint = GRADIENTS.replace("by_gradients", "by_gradients_joint")
    assert workspace.planned(joint) == {"attention_parameter_gradients": 1, "score": 1}
    workspace.snakemake(joint)
    scores = pd.read_parquet(workspace.path / joint)
    assert scores.groupby("structure").size().to_dict() == {"ffn": 96, "kv_groups": 4} and (scores["score"] > 0).all()
    for file in ("parameter_gradients.py", "pruning/calibration/parameter_gradients.py"):
        path = workspace.path / "scripts" / file
        with changed(path, path.read_text() + "\n# edited\n"):
            assert workspace.planned(joint) == again | {"attention_parameter_gradients": 1}


def test_editing_a_task_definition_plans_its_evaluations(finished: Workspace):
    path = finished.path / "config/tasks/gsm_symbolic.yaml"
    with changed(path, path.read_text().replace("max_gen_toks: 192", "max_gen_toks: 100")):
        assert finished.planned("results/table1.csv") == FROM_EVALUATE


def test_a_changed_mask_is_never_answered_from_another_models_cache(workspace: Workspace):
    target = "results/tiny-reasoner/eval/gsm_symbolic-s0/random/50/gsm_symbolic.samples.parquet"
    workspace.snakemake(target)
    folder = (workspace.path / target).parent
    (old,) = folder.glob(".gsm_symbolic.*.jsonl")
    answers = AnswerFile(old)
    for key, record in list(answers.records.items()):  # later lines count; altered ones would not be believed
        answers.add(key, {**record, "response": "#### 777"})
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
    content["experiment"]["methods"] = ["wanda"]
    content["tables"]["table1"] |= {"sparsities": [50]}
    content["overlap"] = content["readings"] = None
    (workspace.path / "test.yaml").write_text(yaml.safe_dump(content))
    workspace.snakemake("results/table1.csv")
    folder = workspace.path / "results/tiny-reasoner/compact/gsm_symbolic-s0/wanda/50"
    assert (folder / "manifest.json").exists() and not (folder / "model").exists()
    assert workspace.planned("results/table1.csv") == NOTHING
