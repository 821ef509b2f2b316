"""
Everything the rules share: the validated configuration, the code a stage depends on, resources.

The only .smk file with Python of its own. It provides

    CONFIG              the validated configuration (scripts/pruning/config.py)
    METHODS             names of all methods, shuffled ones included
    code("score", …)    a stage's script and the library modules it imports, transitively
    settings(…)         a job's settings as one labelled JSON string, tracked by Snakemake
    one_of(names)       a wildcard constraint
"""

import ast
import json
import os
import re
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from pruning import base_model, devices, locks, preflight
from pruning.config import validate
from pruning.errors import InputError


def checked(function, *arguments):
    """Call; bad input ends the run before any job starts, with one line a mistake and no traceback."""
    try:
        return function(*arguments)
    except InputError as error:
        sys.exit(f"error: {error}")


CONFIG = checked(validate, config)
METHODS = [*CONFIG.methods, *(f"shuffle_{name}" for name in CONFIG.methods)]


def one_of(names):
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True))


@cache
def imports(path):
    """Library files that a Python file imports, wherever in the file it does."""
    library, found = Path("scripts/pruning"), set()
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "pruning":
                for depth in range(1, len(parts) + 1):
                    stem = library.joinpath(*parts[1:depth])
                    found |= {str(f) for f in (stem.with_suffix(".py"), stem / "__init__.py") if f.is_file()}
    return found


def code(stage, *plugins):
    """scripts/{stage}.py, the plug-ins it is told to load, and all they import: what a stage's result depends on."""
    pending = [f"scripts/{stage}.py", *(f"scripts/pruning/{plugin}.py" for plugin in plugins)]
    files = set()
    while pending:
        file = pending.pop()
        if file not in files:
            files.add(file)
            pending += imports(file)
    return sorted(files)


def settings(section, *, exclude=(), **extra):
    """One labelled dict a job, as JSON (Snakemake compares params without their names); order is kept, for tables."""
    own = section.model_dump(exclude=set(exclude)) if section else {}
    return json.dumps({**own, **extra})


def memory_mb(wildcards):
    return CONFIG.models[wildcards.model].memory_gb * 1000


def gpus(wildcards):
    return CONFIG.models[wildcards.model].gpus


def threads_of(wildcards):
    return CONFIG.models[wildcards.model].threads


# Datasets (rules/data.smk)


def source_of(wildcards):
    """What of the config one split's records depend on."""
    dataset, split = CONFIG.datasets[wildcards.dataset], wildcards.split
    if split not in CONFIG.splits(wildcards.dataset):
        raise WorkflowError(f"datasets.{wildcards.dataset}: no split {split!r} declared")
    if dataset.kind == "generated":
        own = dataset.model_dump(exclude={"splits", "prompt", "completion"})
        return settings(None, **own, adapter=None, size=dataset.splits[split])
    files = CONFIG.files(wildcards.dataset)
    own = {"fields": dataset.fields, "adapter": files.adapter}
    if path := CONFIG.local_path(wildcards.dataset, split):
        return settings(None, **own, kind="local", path=str(path))
    return settings(
        None, **own, kind="hub", repo=files.repo, name=files.name, revision=files.revision, split=files.splits[split]
    )


def local_file(wildcards):
    return [str(path)] if (path := CONFIG.local_path(wildcards.dataset, wildcards.split)) else []


def adapter_of(wildcards):
    adapter = json.loads(source_of(wildcards))["adapter"]
    return [f"adapters/{adapter}"] if adapter else []


# The dense model (rules/model.smk)


def model_files(wildcards):
    source = CONFIG.models[wildcards.model].source
    patterns = base_model.FILES if source.kind == "local" else ()
    return sorted({str(file) for pattern in patterns for file in Path(source.path).glob(pattern)})


# Calibration (rules/calibrate.smk)


def calibration_data(wildcards):
    calibration = CONFIG.calibrations[wildcards.calib]
    return f"results/data/{calibration.dataset}/{calibration.split}.parquet"


def calibration_settings(wildcards):
    calibration = CONFIG.calibrations[wildcards.calib]
    dataset = CONFIG.datasets[calibration.dataset]
    return settings(
        calibration,
        exclude=["shards", "dataset", "split"],
        shards=int(wildcards.shards),
        dtype=CONFIG.models[wildcards.model].dtype,
        prompt=dataset.prompt,
        completion=dataset.completion,
    )


def shards_of(wildcards):
    shards = CONFIG.calibrations[wildcards.calib].shards
    return [f"{CALIBRATION}/shards/{shard}-of-{shards}".format(**wildcards) for shard in range(shards)]


# Masks (rules/mask.smk)


def mask_settings(wildcards):
    method = CONFIG.method(wildcards.method)
    kept = {"allocate": method.allocate, "options": method.allocate_options}
    return settings(None, **kept, min_keep=method.min_keep, round_to=method.round_to)


# Compact models (rules/compact.smk)


def compensation_of(wildcards):
    scheme = CONFIG.method(wildcards.method).compensate
    return [] if scheme == "none" else [f"compensation/{scheme}"]


def kept_or_temp(output):
    return temp(output) if CONFIG.storage.compact == "temp" else output


# Evaluation (rules/evaluate.smk)


def tasks_of(kind):
    return one_of(name for name, task in CONFIG.tasks.items() if task.kind == kind) or "(?!)"


def folder_of(wildcards):
    """Where a variant's manifest.json lies."""
    folder = "base" if wildcards.variant == "dense" else "compact/{variant}"
    return f"results/{{model}}/{folder}".format(**wildcards)


def model_of(wildcards):
    """A variant's Hugging Face model directory."""
    return folder_of(wildcards) if wildcards.variant == "dense" else os.path.join(folder_of(wildcards), "model")


def manifest_of(wildcards):
    return os.path.join(folder_of(wildcards), "manifest.json")


def weights_of(wildcards):
    """The compact model's directory, so that a deleted one is made again; the manifest says whether it changed."""
    return [] if wildcards.variant == "dense" else ancient(model_of(wildcards))


def definition(wildcards):
    return f"config/tasks/{wildcards.task}.yaml"


def task_data(wildcards):
    return preflight.data_files(Path(definition(wildcards)))


def task_settings(wildcards):
    return settings(CONFIG.tasks[wildcards.task], exclude=["title"], dtype=CONFIG.models[wildcards.model].dtype)


# Recovery (rules/recover.smk)


def tuning_data(wildcards):
    tuning = CONFIG.tunings[wildcards.tuning]
    return f"results/data/{tuning.dataset}/{tuning.split}.parquet"


def tuning_settings(wildcards):
    tuning = CONFIG.tunings[wildcards.tuning]
    text = CONFIG.datasets[tuning.dataset]
    dtype = CONFIG.models[wildcards.model].dtype
    return settings(tuning, exclude=["dataset", "split"], dtype=dtype, prompt=text.prompt, completion=text.completion)


# Overlap (rules/overlap.smk)


def masks_of(method):
    return [f"results/{{model}}/masks/{{calib}}/{{{method}}}/{sparsity}.parquet" for sparsity in OVERLAP_SPARSITIES]


# Tables (rules/tables.smk)


def table1_variants():
    grid = CONFIG.table1
    return [f"{c}/{m}/{s}" for c in grid.calibrations for m in grid.methods for s in grid.sparsities]


def table1_settings():
    grid = CONFIG.table1
    calibrations = {name: {"seed": CONFIG.calibrations[name].seed} for name in grid.calibrations}
    return settings(
        grid,
        published="resources/paper/table1.csv",
        models={name: {"note": CONFIG.models[name].note, "calibrations": calibrations} for name in grid.models},
        tasks={name: table1_task(CONFIG.tasks[name]) for name in grid.tasks},
    )


def table1_task(task):
    if task.kind == "perplexity":
        return {"metrics": ["perplexity"], "kind": "perplexity", "title": f"{task.title} (seqlen {task.seqlen})"}
    return {"metrics": task.metrics, "kind": "accuracy", "title": task.title}


if workflow.is_main_process:
    LIVE = locks.clear_stale(Path(".snakemake"))
    checked(preflight.check, CONFIG)


onstart:
    # Snakemake starts as many local jobs as there are cores; memory and GPUs must suffice as well. Known only now:
    # whether jobs run here at all, and that this is no dry-run.
    if workflow.local_exec:
        visible = devices.visible()
        checked(preflight.check_gpus, CONFIG, visible)
        machine_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**6
        for name, limit in (("mem_mb", machine_mb), ("gpu", len(visible))):
            if name not in workflow.global_resources:
                workflow.register_resource(name, limit)
