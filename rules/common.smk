"""
Everything the rules share: the validated configuration, the code a stage depends on, resources.

The only .smk file with Python of its own. It provides

    CONFIG              the validated configuration (scripts/pruning/config/schema.py)
    METHODS             names of all methods, recombinations included
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
from itertools import product
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from pruning.config import preflight
from pruning.config.analyses import Trap
from pruning.config.validation import validate
from pruning.core import devices, locks, memory
from pruning.core.errors import InputError
from pruning.models import sources


def checked(function, *arguments):
    """Call; bad input ends the run before any job starts, with one line a mistake and no traceback."""
    try:
        return function(*arguments)
    except InputError as error:
        sys.exit(f"error: {error}")


CONFIG = checked(validate, config)
METHODS = CONFIG.method_names
EXPERIMENT = CONFIG.experiment
CALIB = EXPERIMENT.calibrations[0]  # of the analyses and figures


def one_of(names):
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"


TUNING = one_of(CONFIG.tunings)


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
    hub = {key: getattr(files, key) for key in ("repo", "name", "revision", "data_files")}
    return settings(None, **own, kind="hub", **hub, split=files.splits[split])


def local_file(wildcards):
    return [str(path)] if (path := CONFIG.local_path(wildcards.dataset, wildcards.split)) else []


def adapter_of(wildcards):
    adapter = json.loads(source_of(wildcards))["adapter"]
    return [f"data/adapters/{adapter}"] if adapter else []


# The dense model (rules/model.smk)


def model_files(wildcards):
    """Files outside packages that the dense model is made from."""
    source = CONFIG.models[wildcards.model].source
    if source.kind == "gguf":
        return [path for package, path in sources.locations(source.model_dump()) if not package]
    patterns = sources.FILES if source.kind == "local" else ()
    return sorted({str(file) for pattern in patterns for file in Path(source.path).glob(pattern)})


# Calibration (rules/calibrate.smk)


def calibration_data(wildcards):
    calibration = CONFIG.calibrations[wildcards.calib]
    return f"results/data/{calibration.dataset}/{calibration.split}.parquet"


def calibration_settings(wildcards, **extra):
    calibration = CONFIG.calibrations[wildcards.calib]
    dataset = CONFIG.datasets[calibration.dataset]
    return settings(
        calibration,
        exclude=["shards", "dataset", "split"],
        dtype=CONFIG.models[wildcards.model].dtype,
        prompt=dataset.prompt,
        completion=dataset.completion,
        **extra,
    )


def shard_settings(wildcards):
    return calibration_settings(wildcards, shards=int(wildcards.shards))


def shards_of(wildcards):
    shards = CONFIG.calibrations[wildcards.calib].shards
    return [f"{CALIBRATION}/shards/{shard}-of-{shards}".format(**wildcards) for shard in range(shards)]


def moments_settings(wildcards):
    return without_settings(calibration_settings(wildcards), "gradient_checkpointing")


def gradients_settings(wildcards):
    return without_settings(calibration_settings(wildcards))


def without_settings(text, *unused):
    """A calibration's settings less those of the statistics alone, and `unused`, so that these re-run nothing."""
    unused = {"objectives", "sampled_tokens", "analysed_layer", *unused}
    return json.dumps({key: value for key, value in json.loads(text).items() if key not in unused})


# Scores (rules/score.smk)

STATISTICS = {"parameter_taylor": "parameter_taylor.parquet"}


def statistics_of(wildcards):
    """The calibration result that the method's score is made of."""
    file = STATISTICS.get(CONFIG.method(wildcards.method).score, "statistics.parquet")
    return os.path.join(CALIBRATION, file).format(**wildcards)


# Masks (rules/mask.smk)


def mask_settings(wildcards):
    method = CONFIG.method(wildcards.method)
    kept = {"allocate": method.allocate, "options": method.allocate_options}
    return settings(None, **kept, min_keep=method.min_keep, round_to=method.round_to)


# Compact models (rules/compact.smk)


def compensation_of(wildcards):
    scheme = CONFIG.method(wildcards.method).compensate
    return [] if scheme == "none" else [f"methods/compensation/{scheme}"]


EVIDENCE = {"bias": "statistics.parquet", "ridge": "second_moments.json"}


def evidence_of(wildcards):
    """Calibration results that the method's compensation needs."""
    scheme = CONFIG.method(wildcards.method).compensate
    return [os.path.join(CALIBRATION, EVIDENCE[scheme]).format(**wildcards)] if scheme in EVIDENCE else []


def moments_of(wildcards):
    """The second moments' directory, so that a deleted one is made again; its manifest says whether it changed."""
    needed = CONFIG.method(wildcards.method).compensate == "ridge"
    return ancient(f"{CALIBRATION}/second_moments".format(**wildcards)) if needed else []


def compensation_options(wildcards, input):
    return f"--evidence={input.evidence}" if input.evidence else ""


def compact_threads(wildcards):
    """Cutting is reading and writing; only the linear algebra of ridge makes use of more cores."""
    return threads_of(wildcards) if CONFIG.method(wildcards.method).compensate == "ridge" else 1


def kept_or_temp(output, storage):
    return temp(output) if storage == "temp" else output


# Evaluation (rules/evaluate.smk)


def tasks_of(kind):
    return one_of(name for name, task in CONFIG.tasks.items() if task.kind == kind)


def pruned_and_tuning(variant):
    """`calib/method/sparsity` and the recovery's name (None without) of a variant."""
    parts = variant.split("/")
    return "/".join(parts[:3]), parts[3] if len(parts) > 3 else None


def folder_of(wildcards):
    """Where a variant's manifest.json lies."""
    pruned, _ = pruned_and_tuning(wildcards.variant)
    folder = "base" if pruned == "dense" else f"compact/{pruned}"
    return f"results/{wildcards.model}/{folder}"


def model_of(wildcards):
    """A variant's Hugging Face model directory."""
    return folder_of(wildcards) if wildcards.variant == "dense" else os.path.join(folder_of(wildcards), "model")


def manifest_of(wildcards):
    return os.path.join(folder_of(wildcards), "manifest.json")


def weights_of(wildcards):
    """The compact model's directory, so that a deleted one is made again; the manifest says whether it changed."""
    return [] if wildcards.variant == "dense" else ancient(model_of(wildcards))


def adapter_files(wildcards):
    """The LoRA adapter of a recovered variant."""
    pruned, tuning = pruned_and_tuning(wildcards.variant)
    folder = f"results/{wildcards.model}/recovered/{pruned}/{tuning}"
    return [f"{folder}/{name}" for name in ("adapter_model.safetensors", "adapter_config.json")] if tuning else []


def adapter_option(wildcards):
    return f"--adapter={os.path.dirname(files[0])}" if (files := adapter_files(wildcards)) else ""


def definition(wildcards):
    return str(CONFIG.definition(wildcards.task))


def task_data(wildcards):
    return preflight.data_files(Path(definition(wildcards)))


def task_settings(wildcards):
    return settings(
        CONFIG.tasks[wildcards.task], exclude=["title", "chance"], dtype=CONFIG.models[wildcards.model].dtype
    )


# Recovery (rules/recover.smk)


def tuning_data(wildcards):
    tuning = CONFIG.tunings[wildcards.tuning]
    return f"results/data/{tuning.dataset}/{tuning.split}.parquet"


def tuning_settings(wildcards):
    tuning = CONFIG.tunings[wildcards.tuning]
    text = CONFIG.datasets[tuning.dataset]
    names = {key: wildcards[key] for key in ("model", "calib", "method", "sparsity", "tuning")}
    own = {"dtype": CONFIG.models[wildcards.model].dtype, "prompt": text.prompt, "completion": text.completion}
    return settings(tuning, exclude=["dataset", "split", "note"], **own, names=names)


# Analyses (rules/analyse.smk)


def masks_of(method, sparsities):
    return [f"results/{{model}}/masks/{{calib}}/{{{method}}}/{sparsity}.parquet" for sparsity in sparsities]


def named(option, wildcards, path):
    """`--option METHOD=path` for every method of the experiment; `{method}` in the path, other wildcards filled in."""
    return [f"--{option}={m}={path.format(method=m, **wildcards)}" for m in EXPERIMENT.methods]


def of_methods(path):
    """A path for every method of the experiment, other wildcards left in."""
    return [path.replace("{method}", method) for method in EXPERIMENT.methods]


def analysis_settings(section, **extra):
    """A function of wildcards: a section's settings with the names that the results carry."""
    return lambda w: settings(section, model=w.model, calib=w.calib, sparsity=int(w.sparsity), **extra)


def trap_settings(wildcards):
    layer = CONFIG.calibrations[wildcards.calib].analysed_layer
    return analysis_settings(CONFIG.trap, confidence=EXPERIMENT.confidence, analysed_layer=layer)(wildcards)


def cases_settings(wildcards):
    cases = CONFIG.cases
    own = {"prompt": CONFIG.datasets[cases.dataset].prompt, "dtype": CONFIG.models[wildcards.model].dtype}
    return settings(cases, exclude=["dataset", "split", "excerpt"], **own)


def case_variants():
    return ["dense", *(f"{CALIB}/{method}/{EXPERIMENT.sparsity}" for method in EXPERIMENT.methods)]


def grid_variants(sparsities):
    return [f"{CALIB}/{method}/{sparsity}" for method in EXPERIMENT.methods for sparsity in sparsities]


def statistics_settings(**extra):
    own = {key: getattr(EXPERIMENT, key) for key in ("models", "confidence", "resamples", "seed")}
    return settings(None, **{**own, **extra})


def curve_sparsities():
    return CONFIG.collapse.sparsities if CONFIG.collapse else [EXPERIMENT.sparsity]


def collapse_settings():
    collapse = CONFIG.collapse
    task = CONFIG.tasks[collapse.task]
    return statistics_settings(
        models={model: {"calibrations": [CALIB]} for model in EXPERIMENT.models},
        methods=EXPERIMENT.methods,
        sparsities=collapse.sparsities,
        task=collapse.task,
        metric=task.metrics[0],
        title=task.title,
        chance=task.chance,
        reference=EXPERIMENT.reference,
        resamples=collapse.resamples,
    )


def ablation_grid():
    """Every combination; what cannot differ is not repeated."""
    grid, rows = CONFIG.ablation, []
    for objective, reduction, allocate in product(grid.objectives, grid.reductions, grid.allocations):
        for normalise in grid.normalisations[: 1 if allocate == "uniform" else None]:
            rows.append(f"{objective}-{reduction}-{normalise}-{allocate}")
    return rows


def ablation_variants():
    return [f"{CALIB}/{method}/{EXPERIMENT.sparsity}" for method in ablation_grid()]


def ablation_settings():
    task = CONFIG.tasks[CONFIG.ablation.task]
    return statistics_settings(
        rows=ablation_grid(),
        presets=CONFIG.presets(ablation_grid()),
        calib=CALIB,
        sparsity=EXPERIMENT.sparsity,
        task=CONFIG.ablation.task,
        metric=task.metrics[0],
        title=task.title,
    )


# Latency (rules/latency.smk)

ALL_CORES = workflow.resource_settings.cores or 4  # workflow.cores is an error where --cores is not given (--report)


def latency_shapes():
    return [*(name for name, shape in CONFIG.latency.shapes.items() if shape), *EXPERIMENT.models]


def latency_variants(wildcards):
    latency = CONFIG.latency
    if wildcards.shape in latency.shapes:
        return []
    return [f"{CALIB}/{method}/{sparsity}" for method in latency.methods for sparsity in latency.sparsities]


def latency_architecture(wildcards):
    return [] if wildcards.shape in CONFIG.latency.shapes else f"results/{wildcards.shape}/base/manifest.json"


def latency_manifests(wildcards):
    return [f"results/{wildcards.shape}/compact/{v}/manifest.json" for v in latency_variants(wildcards)]


def latency_files(wildcards, input):
    """Command-line options: the dense model's config.json, and the compact models' widths."""
    base = [f"--architecture={os.path.dirname(input.architecture)}/config.json"] if input.architecture else []
    pairs = zip(latency_variants(wildcards), input.manifests, strict=True)
    return [*base, *(f"--manifest={variant}={path}" for variant, path in pairs)]


def latency_settings(wildcards):
    latency = CONFIG.latency
    exclude = ["shapes", "methods", "gpus", "memory_gb"]
    return settings(
        latency,
        exclude=exclude,
        shape=wildcards.shape,
        changes=latency.shapes.get(wildcards.shape, {}),
        device="cuda" if latency.gpus else "cpu",
        confidence=EXPERIMENT.confidence,
        resamples=EXPERIMENT.resamples,
        seed=EXPERIMENT.seed,
    )


# Tables (rules/tables.smk)

TABLES = {name: CONFIG.table(name) for name, table in CONFIG.tables.items() if table}


def table_variants(table):
    return ["/".join(map(str, v)) for v in product(table.calibrations, table.methods, table.sparsities)]


def table_samples(wildcards):
    table, files = TABLES[wildcards.table], []
    for model, column in product(table.models, table.tasks):
        task, _, tuning = column.partition("@")
        files.append(f"results/{model}/eval/dense/{task}.samples.parquet")
        for variant in table_variants(table):
            folder = os.path.join(variant, tuning) if tuning else variant
            files.append(f"results/{model}/eval/{folder}/{task}.samples.parquet")
    return sorted(set(files))


def table_manifests(wildcards):
    table = TABLES[wildcards.table]
    return [f"results/{m}/compact/{v}/manifest.json" for m, v in product(table.models, table_variants(table))]


def published_of(wildcards):
    paper = TABLES[wildcards.table].paper
    return [f"resources/paper/{paper}.csv", "resources/paper/notes.yaml"] if paper else []


def table_settings(wildcards):
    table = TABLES[wildcards.table]
    calibrations = {name: {"seed": CONFIG.calibrations[name].seed} for name in table.calibrations}
    published = published_of(wildcards) or [None, None]
    return settings(
        table,
        name=wildcards.table,
        published=published[0],
        notes=published[1],
        models={name: {"note": CONFIG.models[name].note, "calibrations": calibrations} for name in table.models},
        tasks={column: table_column(column) for column in table.tasks},
        confidence=EXPERIMENT.confidence,
        resamples=EXPERIMENT.resamples,
        seed=EXPERIMENT.seed,
    )


ASKED = ("num_fewshot", "shared_examples", "chat_template", "max_gen_toks", "first")


def table_column(column):
    name, _, tuning = column.partition("@")
    task = CONFIG.tasks[name]
    own = {"task": name, "tuning": tuning or None, "note": CONFIG.tunings[tuning].note if tuning else None}
    if task.kind == "perplexity":
        return {**own, "metrics": ["perplexity"], "kind": "perplexity", "title": f"{task.title} (seqlen {task.seqlen})"}
    asked = {key: getattr(task, key) for key in ASKED}
    return {**own, "metrics": task.metrics, "kind": "accuracy", "title": task.title, "asked": asked}


def leakage_sources(table):
    """Alias of every text that a table's models were calibrated or tuned on -> its parquet."""
    users = {name: CONFIG.calibrations[name] for name in table.calibrations}
    users |= {name: CONFIG.tunings[name] for column in table.tasks if (name := column.partition("@")[2])}
    return {name: f"results/data/{user.dataset}/{user.split}.parquet" for name, user in users.items()}


def leakage_tasks(table):
    """Task -> the parquet of its test items, and how many of them are used."""
    found = {}
    for name in dict.fromkeys(column.partition("@")[0] for column in table.tasks):
        task = CONFIG.tasks[name]
        if task.kind == "lm_eval":
            found[name] = {"path": preflight.test_file(CONFIG.definition(name)), "first": task.first, "limit": task.limit}
        else:
            found[name] = {"path": f"results/data/{task.dataset}/{task.split}.parquet", "first": 0, "limit": None}
    return found


def leakage_files(wildcards):
    table = TABLES[wildcards.table]
    return sorted({*leakage_sources(table).values(), *(task["path"] for task in leakage_tasks(table).values())})


def leakage_settings(wildcards):
    table = TABLES[wildcards.table]
    return settings(None, sources=leakage_sources(table), tasks=leakage_tasks(table), n=8)


def overlap_files(first, second):
    return [f"results/{model}/analysis/overlap/{CALIB}/{first}/{second}.csv" for model in EXPERIMENT.models]


def per_model_cases():
    return [f"results/{m}/analysis/cases/{v}.json" for m, v in product(EXPERIMENT.models, case_variants())]


def case_options():
    methods = ["dense", *EXPERIMENT.methods] * len(EXPERIMENT.models)
    return [f"--cases={method}={path}" for method, path in zip(methods, per_model_cases(), strict=True)]


def table4_settings():
    layer = CONFIG.overlap.layer
    return settings(None, models=EXPERIMENT.models, pairs=CONFIG.overlap.pairs, layer=layer)


def readings_variants():
    """Pairs of methods whose overlaps the readings compare, and methods whose masks at one sparsity they look at."""
    used = CONFIG.readings.used.values()
    pairs = dict.fromkeys((r.rku, other) for r in used for other in (r.agf, r.taylor, r.wanda))
    return list(pairs), list(dict.fromkeys(method for r in used for method in (r.rku, r.wanda)))


def readings_files():
    pairs, methods = readings_variants()
    overlaps = [file for pair in pairs for file in overlap_files(*pair)]
    masks = [per_model(f"results/{{model}}/masks/{{calib}}/{method}/{{sparsity}}.parquet") for method in methods]
    return [*overlaps, *sum(masks, []), *per_model("results/{model}/calibration/{calib}/statistics.parquet")]


def readings_settings():
    readings, trap = CONFIG.readings, CONFIG.trap or Trap()
    rows = {}
    for name, reading in readings.used.items():
        # The gradient that the reading's RKU is made of; a score without one is held against the experiment's.
        objective = CONFIG.objective(reading.rku) or trap.objective
        rows[name] = {**reading.model_dump(), "objective": objective}
    own = {key: getattr(EXPERIMENT, key) for key in ("models", "sparsity", "confidence")}
    return settings(readings, exclude=["rows"], **own, calib=CALIB, rows=rows, high=trap.high, low=trap.low)


def table5_settings(wildcards):
    own = {"models": EXPERIMENT.models, "calib": CALIB, "sparsity": EXPERIMENT.sparsity}
    return settings(None, **own, methods=["dense", *EXPERIMENT.methods], excerpt=CONFIG.cases.excerpt)


# Figures (rules/figures.smk)


def per_model(path):
    return [path.format(model=model, calib=CALIB, sparsity=EXPERIMENT.sparsity) for model in EXPERIMENT.models]


def recovery_logs():
    """Training logs of every recovery that a table shows."""
    found = []
    for table in TABLES.values():
        for tuning in {column.partition("@")[2] for column in table.tasks} - {""}:
            for model, variant in product(table.models, table_variants(table)):
                found.append(f"results/{model}/recovered/{variant}/{tuning}/training_log.csv")
    return sorted(set(found))


def figure_tables():
    """Figure -> table name -> files (scripts/pruning/report/figures/)."""
    analysis, found = "results/{model}/analysis", {}
    if CONFIG.spectrum:
        spectrum = f"{analysis}/spectrum/{{calib}}/{{sparsity}}"
        found["fig1"] = {"spectrum": per_model(f"{spectrum}.csv"), "summary": per_model(f"{spectrum}.summary.csv")}
    if CONFIG.trap:
        trap = f"{analysis}/trap/{{calib}}/{{sparsity}}"
        files = {"neurons": "neurons.parquet", "regions": "regions.csv", "classes": "classes.csv"}
        found["fig2"] = {name: per_model(f"{trap}.{file}") for name, file in files.items()}
    if CONFIG.overlap:
        pairs = [per_model(f"{analysis}/overlap/{{calib}}/{a}/{b}.csv") for a, b in CONFIG.overlap.pairs]
        found["fig3"] = {"overlap": sum(pairs, []), "published": ["resources/paper/table4.csv"]}
    if CONFIG.collapse:
        found["collapse"] = {"accuracy": ["results/accuracy.csv"], "collapse": ["results/collapse.csv"]}
    found["widths"] = {"widths": ["results/widths.csv"]}
    if CONFIG.latency and CONFIG.collapse:
        found["latency"] = {"latency": ["results/latency.csv"], "accuracy": ["results/accuracy.csv"]}
    if logs := recovery_logs():
        found["recovery"] = {"log": logs}
    return found


FIGURES = figure_tables()


def figure_files(wildcards):
    return [file for files in FIGURES[wildcards.figure].values() for file in files]


def figure_options(wildcards):
    return [f"--table={name}={file}" for name, files in FIGURES[wildcards.figure].items() for file in files]


def figure_settings(wildcards):
    collapse = {"titles": {CONFIG.collapse.task: CONFIG.tasks[CONFIG.collapse.task].title}} if CONFIG.collapse else {}
    own = {
        "fig2": {"layer": None, "sparsity": EXPERIMENT.sparsity},
        "fig3": {"pair": CONFIG.overlap.pairs[0]} if CONFIG.overlap else {},
        "widths": {"sparsity": EXPERIMENT.sparsity / 100},
        "collapse": collapse,
        "latency": collapse,
    }
    names = {"models": EXPERIMENT.models, "methods": EXPERIMENT.methods}
    return settings(None, **names, **own.get(wildcards.figure, {}))


# Everything (rules/paper.smk)


def paper_tables():
    """Names of all tables; each has a CSV, a Markdown, a LaTeX and an HTML form."""
    sections = {"table4": CONFIG.overlap, "table5": CONFIG.cases, "ablation": CONFIG.ablation}
    sections |= {"collapse": CONFIG.collapse, "latency": CONFIG.latency, "readings": CONFIG.readings}
    return sorted([*TABLES, *(name for name, section in sections.items() if section)])


if workflow.is_main_process:
    LIVE = locks.clear_stale(Path(".snakemake"))
    checked(preflight.check, CONFIG)


onstart:
    # Snakemake starts as many local jobs as there are cores; memory and GPUs must suffice as well. Known only now:
    # whether jobs run here at all, and that this is no dry-run.
    if workflow.local_exec:
        visible = devices.visible()
        checked(preflight.check_machine, CONFIG, visible)
        if not workflow.deployment_settings.deployment_method:  # jobs see the packages that are seen here
            checked(preflight.check_packages, CONFIG)
        for name, limit in (("mem_mb", memory.physical() // 10**6), ("gpu", len(visible))):
            if name not in workflow.global_resources:
                workflow.register_resource(name, limit)
        # Submissions to a queue are limited to 100 a second; jobs here by the cores. The limiter sets a timer at every
        # job's end that sets another a second later (Snakemake 9.27): after 200 jobs they took 44% of a core.
        workflow.scheduler.job_rate_limiter = None
