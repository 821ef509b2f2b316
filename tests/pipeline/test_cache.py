"""What is planned after a change is exactly what depends on it: no job less, no job more."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from planned_jobs import Dag
from pruning.command import reference
from pruning.config.schema import Config
from pruning.config.tasks import PerplexityTask
from workspace import ROOT, Workspace, changed

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
FROM_TABLE = {"table": 1}
FROM_LEAKAGE = {"leakage": 1, **FROM_TABLE}
NOTHING: dict[str, int] = {}
TABLE = "results/table1.csv"

# Jobs, folder of scripts/, modules: by hand, so that a wrong import graph in rules/common.smk shows.
RE_RUN_BY_CODE = [
    (ALL, "pruning", "__init__"),
    (ALL, "pruning/core", "__init__ artifacts chain cli errors files gpu_request"),
    (FROM_DATA, "", "fetch_dataset"),
    (FROM_DATA, "pruning/data", "__init__ arithmetic datasets word_problems"),
    (FROM_MODEL | FROM_DATA, "pruning/core", "hub"),
    (FROM_MODEL, "", "fetch_model"),
    (
        FROM_MODEL,
        "pruning/models",
        "__init__ checkpoint complete families gguf_reader multimodal settled sources tokenizers",
    ),
    (FROM_MODEL, "pruning/models/structures", "__init__ base expert_neurons experts ffn kv_groups"),
    (FROM_CALIBRATION, "", "measure"),
    (FROM_CALIBRATION, "pruning/calibration", "__init__ columns gradients prepare"),
    (FROM_CALIBRATION, "pruning/core", "layer_files"),
    (FROM_CALIBRATION, "pruning/data", "text"),
    (FROM_CALIBRATION, "pruning/models", "checkpointing head offload rehearsal"),
    (FROM_CALIBRATION | FROM_EVALUATE, "pruning/core", "memory out_of_memory"),
    (FROM_CALIBRATION | FROM_EVALUATE, "pruning/models", "loading"),
    (FROM_MERGE, "", "merge_calibration"),
    (FROM_SCORE, "", "score"),
    (FROM_SCORE, "pruning/methods", "scoring"),
    (FROM_SCORE, "pruning/methods/scores", "__init__"),
    (FROM_SCORE | FROM_EVALUATE, "pruning/methods", "__init__ masks"),
    (FROM_MASK, "", "mask"),
    (FROM_MASK, "pruning/methods/allocation", "__init__ uniform"),
    (FROM_COMPACT, "", "compact"),
    (FROM_COMPACT, "pruning/methods", "tokens"),
    (FROM_COMPACT | FROM_EVALUATE, "pruning/methods", "compact"),
    (FROM_COMPACT | FROM_EVALUATE, "pruning/methods/compensation", "__init__"),
    (FROM_COMPACT | FROM_EVALUATE, "pruning/models", "remote_code vocabulary"),
    (FROM_EVALUATE, "", "evaluate"),
    (
        FROM_EVALUATE,
        "pruning/evaluation",
        "__init__ answers degeneration generation harness likelihood samples tasks",
    ),
    (FROM_EVALUATE, "pruning/evaluation/backends", "__init__ hf"),
    (FROM_EVALUATE, "pruning/evaluation/kinds", "__init__ lm_eval"),
    (FROM_EVALUATE, "pruning/methods", "variants"),
    (FROM_EVALUATE, "pruning/models", "packing pruned"),
    (ONE_METHOD, "pruning/core", "objectives"),
    (ONE_METHOD, "pruning/methods/scores", "random utility wanda"),
    (FROM_LEAKAGE, "", "report"),
    (FROM_LEAKAGE, "pruning/core", "names"),
    (FROM_LEAKAGE, "pruning/report", "__init__ files leakage"),
    (FROM_TABLE, "pruning/analysis", "__init__ comparison costs"),
    (FROM_TABLE, "pruning/core", "limits significance"),
    (FROM_TABLE, "pruning/report", "notes printing"),
    (FROM_TABLE, "pruning/report/tables", "__init__ results"),
]
CODE = {str(path.relative_to(ROOT)): NOTHING for path in (ROOT / "scripts").rglob("*.py")} | {
    str(Path("scripts", folder, f"{name}.py")): jobs for jobs, folder, names in RE_RUN_BY_CODE for name in names.split()
}

REFITTED, BLOCK = {"refit": 2, "compact": 2, "evaluate": 2, "table": 1}, {"methods.rku.compensate": "ridge_block"}
OTHER = {"models.other": {"source": {"kind": "local", "path": "resources/model"}}}  # a second model
# Key -> (new value, jobs), and what must be changed with it. A new key must say what depends on it, or which test does.
KEYS = {
    "data_folder": ("elsewhere", NOTHING),
    "models.tiny-reasoner.source.path": ("resources/other", FROM_MODEL),
    "models.tiny-reasoner.dtype": ("bfloat16", FROM_CALIBRATION | FROM_EVALUATE),
    "models.tiny-reasoner.gpus": (1, NOTHING),
    "models.tiny-reasoner.threads": (2, NOTHING),
    "models.tiny-reasoner.memory_gb": (3, NOTHING),
    "models.tiny-reasoner.offload": (True, FROM_CALIBRATION),
    "models.tiny-reasoner.backend": ("vllm", FROM_EVALUATE),
    "models.tiny-reasoner.note": ("random weights", FROM_TABLE),
    "datasets.gsm_symbolic.templates": ([4, 9, 14, 20, 30, 34], FROM_DATA),
    "datasets.gsm_symbolic.difficulty": (1.5, FROM_DATA),
    "datasets.gsm_symbolic.seed": (1, FROM_DATA),
    "datasets.gsm_symbolic.splits.train": (41, {"fetch_dataset": 1, "leakage": 1, **FROM_CALIBRATION}),
    "datasets.gsm_symbolic.splits.test": (13, {"fetch_dataset": 1, "leakage": 1, **FROM_EVALUATE}),
    "datasets.gsm_symbolic.fields": (["question", "answer"], FROM_DATA),
    "datasets.gsm_symbolic.prompt": ("Q: {question}\nAnswer:", FROM_CALIBRATION),
    "datasets.gsm_symbolic.completion": ("{answer}", FROM_CALIBRATION),
    "calibrations.gsm_symbolic-s0.split": ("test", {"leakage": 1, **FROM_CALIBRATION}),
    "calibrations.gsm_symbolic-s0.answers": ("gsm_symbolic", {"own_answers": 1, "leakage": 1, **FROM_CALIBRATION}),
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
    "calibrations.gsm_symbolic-s0.gradient_samples": (3, NOTHING),
    "methods.random.options": ({"seed": 1}, ONE_METHOD),
    "methods.rku.normalise": ("layer_mean", ONE_METHOD),
    "methods.rku.allocate": ("global", FROM_MASK_OF_ONE),
    "methods.rku.training.epochs": (3, REFITTED, BLOCK),
    "methods.rku.training.rates": ([1e-3], REFITTED, BLOCK),
    "methods.rku.compensate": ("bias", {"compact": 2, "evaluate": 2, "table": 1}),
    "methods.rku.min_keep": (0.1, FROM_MASK_OF_ONE),
    "methods.rku.drop_layers": (True, FROM_MASK_OF_ONE),
    "methods.rku.round_to": (8, FROM_MASK_OF_ONE),
    "methods.rku.export": ("pad", {"compact": 2, "evaluate": 2, "table": 1}),
    "methods.rku.shuffle": (1, ONE_METHOD),
    "tasks.gsm_symbolic.title": ("Sums", FROM_TABLE),
    "tasks.gsm_symbolic.limit": (5, {"leakage": 1, **FROM_EVALUATE}),
    "tasks.gsm_symbolic.chance": (0.1, NOTHING),
    "tasks.gsm_symbolic.batch_size": (3, FROM_EVALUATE),
    "tasks.gsm_symbolic.first": (1, {"leakage": 1, **FROM_EVALUATE}),
    "tasks.gsm_symbolic.backend": ("llama_cpp", NOTHING),  # of quantised models alone
    "tasks.gsm_symbolic.num_fewshot": (0, FROM_EVALUATE),
    "tasks.gsm_symbolic.shared_examples": (True, FROM_EVALUATE),
    "tasks.gsm_symbolic.max_gen_toks": (50, FROM_EVALUATE),
    "experiment.methods": (["wanda", "rku"], FROM_TABLE),
    "experiment.reference": ("rku", FROM_TABLE),
    "experiment.sparsity": (30, NOTHING),
    "experiment.layer": (0, NOTHING),
    "experiment.confidence": (0.9, FROM_TABLE),
    "experiment.resamples": (100, FROM_TABLE),
    "experiment.seed": (1, FROM_TABLE),
    "experiment.together": ([["gsm_symbolic", "gsm_symbolic_options"]], NOTHING),  # see test_together.py
    "tables.table1.title": ("Another", FROM_TABLE),
    "tables.table1.tasks": (["gsm_symbolic_options"], {"leakage": 1, **FROM_EVALUATE}),
    "tables.table1.sparsities": ([30, 50, 70], {"mask": 3, "compact": 3, "evaluate": 3, "table": 1}),
    "tables.table1.methods": (["wanda", "rku"], FROM_TABLE),
    "tables.table1.reference": ("rku", FROM_TABLE),
    "tables.table1.layout": ("long", FROM_TABLE),
    "tables.table1.costs": (True, FROM_TABLE),
    "llama_cpp.prompt_tokens": (64, NOTHING),
    "llama_cpp.decode_tokens": (4, NOTHING),
    "llama_cpp.rounds": (5, NOTHING),
    "llama_cpp.warmup": (2, NOTHING),
    "latency_table.prompt_tokens": (64, NOTHING),  # see test_what_keeps_to_a_speed_measures_it_once
    "latency_table.decode_tokens": (4, NOTHING),
    "latency_table.rounds": (5, NOTHING),
    "latency_table.warmup": (2, NOTHING),
    "storage.second_moments": ("keep", NOTHING),
    "storage.gguf": ("keep", NOTHING),
    "reasoner": (None, NOTHING),
    "ask_above": (1, NOTHING),  # a dry-run asks nothing
    "confirm": (True, NOTHING),
    "datasets.gsm_symbolic.content": (
        "arithmetic",
        FROM_DATA,
        {"datasets.gsm_symbolic.with_options": False, "datasets.gsm_symbolic.fields": ["question", "answer"]},
    ),
    "calibrations.gsm_symbolic-s0.dataset": ("arithmetic", {"fetch_dataset": 1, "leakage": 1, **FROM_CALIBRATION}),
    "methods.wanda.score": ("magnitude", ONE_METHOD),
    "experiment.models": (["other"], FROM_MODEL, OTHER),
    "experiment.calibrations": (["gsm_symbolic-s1"], {"leakage": 1, **FROM_CALIBRATION}),
    "tables.table1.models": (["other"], FROM_MODEL, OTHER),
    "tables.table1.calibrations": (["gsm_symbolic-s1"], {"leakage": 1, **FROM_CALIBRATION}),
    "tables.table1.at": ({"wanda": 30, "rku": 50, "random": 50}, FROM_TABLE, {"tables.table1.sparsities": None}),
    "tables.table1.paper": (None, FROM_TABLE),
}
ELSEWHERE = {
    "models.tiny-reasoner.max_model_len": "test_what_vllm_is_told_re_runs_what_it_answers",
    "datasets.gsm_symbolic.with_options": "datasets.gsm_symbolic.content",
    "tasks.gsm_symbolic.metrics": "tables.table1.tasks",
    "tasks.gsm_symbolic.definition": "test_editing_a_task_definition_plans_its_evaluations",
    "tasks.gsm_symbolic.chat_template": "tasks.gsm_symbolic.shared_examples",
    **dict.fromkeys(
        (f"tasks.gsm_symbolic.stop_early.{key}" for key in ("after", "below", "confidence")),
        "test_stopping_early_asks_again",
    ),
    "experiment.name": "test_an_experiment_with_a_name_has_its_own_tables_and_the_same_models",
    "methods.rku.allocate_options": "test_options_of_an_allocation_re_run_its_mask",
    "methods.rku.vocabulary": "test_what_is_cut_depends_on_the_budget_and_the_data_alone",
    "storage.compact": "test_temporary_models_are_deleted_and_not_missed",
    "custom_rules": "test_rules_of_the_users_own",
    **dict.fromkeys(
        (f"tables.table1.{key}" for key in ("quantised", "siblings")),
        "test_quantised_models_and_siblings_beside_a_pruned_one",
    ),
}
"""Key -> a test of it, or another key, given to the same jobs by the same rule."""


def test_nothing_is_planned_after_a_run(finished: Workspace):
    assert finished.planned(TABLE) == NOTHING


def test_touched_files_plan_nothing(finished: Workspace):
    for name in ("Snakefile", "rules", "scripts", "config"):
        for path in [finished.path / name, *(finished.path / name).rglob("*")]:
            path.touch()
    assert finished.planned(TABLE) == NOTHING


def test_code_files_that_are_listed_are_there():
    """One that is not listed must re-run nothing; so a new one that a stage of Table 1 imports is missed here."""
    assert [file for file in CODE if not (ROOT / file).is_file()] == []


@pytest.fixture(scope="module")
def dag(finished: Workspace) -> Dag:
    return finished.dag(TABLE)


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
        "scripts/pruning/evaluation/kinds/lm_eval.py",
        "scripts/pruning/methods/allocation/uniform.py",
        "scripts/pruning/methods/masks.py",
        "scripts/pruning/methods/scores/wanda.py",
        "scripts/pruning/models/families.py",
        "scripts/pruning/report/catalogue.py",
        "scripts/pruning/report/leakage.py",
    ],
)
def test_snakemake_plans_what_the_dag_says(finished: Workspace, file: str):
    """Real edits, of files of all stages: the proof of the test above."""
    path = finished.path / file
    with changed(path, path.read_text() + "\n# edited\n"):
        assert finished.planned(TABLE) == CODE[file]


def leaf_keys(fields: dict, definitions: dict, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of a schema, entries of named tables as `*`."""
    for name, field in fields.items():
        kinds = reference.referred(field)
        entry = "*." if {"patternProperties", "additionalProperties"} & field.keys() else ""
        for kind in kinds:
            yield from leaf_keys(definitions[kind]["properties"], definitions, f"{prefix}{name}.{entry}")
        if not kinds:
            yield f"{prefix}{name}"


def test_every_config_key_is_listed():
    listed = set()
    for key in (*KEYS, *ELSEWHERE):
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
    schema = Config.model_json_schema()
    missing = {
        key
        for key in leaf_keys(schema["properties"], schema["$defs"])
        if not key.startswith(elsewhere) and not key.endswith(".kind") and key not in perplexity
    }
    assert missing - listed == set()
    tests = "".join(file.read_text() for file in (ROOT / "tests/pipeline").glob("*.py"))
    assert [name for name in ELSEWHERE.values() if name not in KEYS and f"def {name}(" not in tests] == []


@pytest.fixture(scope="module")
def silent(finished: Workspace) -> bool:
    """Whether all settings that re-run nothing do so together: then none of them re-runs anything alone."""
    values = {key: value for key, (value, jobs, *_) in KEYS.items() if jobs == NOTHING}
    with finished.configured(values):
        return len(values) > 10 and finished.planned(TABLE) == NOTHING


@pytest.mark.parametrize("key", KEYS)
def test_changing_a_setting_plans_its_dependants(finished: Workspace, silent: bool, key: str):
    value, jobs, *others = KEYS[key]
    if jobs == NOTHING and silent:
        return
    if key == "models.tiny-reasoner.source.path":
        shutil.copytree(finished.path / "resources/model", finished.path / value, dirs_exist_ok=True)
    with finished.configured({**(others[0] if others else {}), key: value}):
        assert finished.planned(TABLE) == jobs


def test_options_of_an_allocation_re_run_its_mask(finished: Workspace):
    mask, own = "results/tiny-reasoner/masks/gsm_symbolic-s0/mine/50.parquet", {"score": "wanda", "allocate": "cfsp"}
    with finished.configured({"methods.mine": own}):
        finished.snakemake(mask)
    with finished.configured({"methods.mine": own | {"allocate_options": {"alpha": 0.5}}}):
        assert finished.planned(mask) == {"mask": 1}


def test_iterations_are_made_again_where_they_are_measured_otherwise(finished: Workspace):
    order, own = "results/tiny-reasoner/calibration/gsm_symbolic-s0/rounds.parquet", "calibrations.gsm_symbolic-s0"
    with finished.configured({f"{own}.rounds": [50]}):
        finished.snakemake(order)
        assert finished.planned(order) == NOTHING
    for change in ({f"{own}.rounds": [40]}, {f"{own}.rounds": [50], f"{own}.gradient_samples": 3}):
        with finished.configured(change):
            assert finished.planned(order) == {"rounds": 1}


def test_stopping_early_asks_again(finished: Workspace):
    stop = {"tasks.gsm_symbolic.stop_early": {"after": 3, "below": 0.1}}
    with finished.configured(stop | {"collapse": None, "ablation": None}):  # which need every item
        assert finished.planned(TABLE) == FROM_EVALUATE


def test_what_vllm_is_told_re_runs_what_it_answers(finished: Workspace):
    """A text is the model's own, whatever answers."""
    model, texts = "models.tiny-reasoner", "results/table6.csv"
    before = finished.planned(texts)
    with finished.configured({f"{model}.backend": "vllm", f"{model}.max_model_len": 256}):
        assert finished.planned(TABLE) == FROM_EVALUATE
        assert finished.planned(texts) == before


def test_adding_a_preset_plans_only_its_jobs(finished: Workspace):
    preset = {"score": "utility", "options": {"objective": "ce", "reduction": "net_sq"}}
    methods = [*finished.config["experiment"]["methods"], "taylor_sq"]
    with finished.configured({"methods.taylor_sq": preset, "experiment.methods": methods}):
        assert finished.planned(TABLE) == ONE_METHOD


def test_editing_a_task_definition_plans_its_evaluations(finished: Workspace):
    path = finished.path / "config/tasks/gsm_symbolic.yaml"
    with changed(path, path.read_text().replace("max_gen_toks: 192", "max_gen_toks: 100")):
        assert finished.planned(TABLE) == FROM_EVALUATE
