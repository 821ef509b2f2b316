"""Tables of results, of the config's section `tables`: from which files and settings each is made."""

from dataclasses import replace
from itertools import product
from typing import Any

from pruning.config.experiment import Table
from pruning.config.schema import Config
from pruning.core import names
from pruning.core.names import DENSE, Column, Variant
from pruning.methods import allocation, latency_table, requirements
from pruning.report.files import Entry

CAPTIONS = {
    "table1": "Accuracy in reasoning after pruning, with intervals and paired tests against one reference method.",
    "table2": "Accuracy in what a model knows rather than derives.",
    "table3": "Accuracy after a short LoRA recovery, on the task that was tuned on and on others.",
    "table6": "Perplexity at every sparsity.",
    "table7": "Perplexity and accuracy over all tasks at three sparsities.",
    "recovery": "The same models before and after recovery: does it help, and where?",
    "ridge": "The same masks with and without weight reconstruction.",
    "seeds": "The same methods calibrated on other texts: how much of a difference is chance?",
}
ASKED = ("num_fewshot", "shared_examples", "chat_template", "max_gen_toks", "first")


def statistical(config: Config, *keys: str) -> dict[str, Any]:
    """Settings of the experiment."""
    return {key: getattr(config.experiment, key) for key in keys}


def pruned_variants(table: Table) -> list[Variant]:
    return [Variant(calib, *pair) for calib, pair in product(table.calibrations, table.pruned)]


def results(config: Config, name: str) -> Entry:
    table = config.table(name)
    pruned, first = pruned_variants(table), table.columns[0]
    shown = [
        (model, variant, column.task)
        for model, column in product(table.models, table.columns)
        for variant in (DENSE, *map(column.of, pruned))
    ]
    files = {
        "samples": [variant.samples(model, task) for model, variant, task in shown],
        # How small a variant is, its results say; recovery does not change it.
        "results": [first.of(variant).result(model, first.task) for model, variant in product(table.models, pruned)],
        "leakage": [config.places.leakage.format(table=name)],
    }
    if table.paper:
        files |= {"published": [names.PUBLISHED.format(table=table.paper)], "notes": [names.PAPER_NOTES]}
    calibrations = {name: {"seed": config.calibrations[name].seed} for name in table.calibrations}
    models = {name: {"note": config.models[name].note, "calibrations": calibrations} for name in table.models}
    for model, entry in models.items():  # a short format of numbers is told of
        entry |= {} if config.models[model].dtype == "float32" else {"dtype": config.models[model].dtype}
    settings = {
        **table.model_dump(exclude={"costs", "quantised", "siblings"}),
        **{"name": name, "models": models},
        "tasks": {str(column): described(config, column) for column in table.columns},
        **statistical(config, "confidence", "resamples", "seed"),
    }
    methods = {method: config.method(method) for method in table.methods}
    searched = [name for name, method in methods.items() if allocation.search_of(method.allocate)]
    if others := {name: method.others for name, method in methods.items() if method.others}:
        settings["others"] = others
    per = {name: latency_table.per_of(method.allocate_options) for name, method in methods.items()}
    if kept := {name: what for name, what in per.items() if what != latency_table.PARAMETERS}:
        settings |= {"kept_to": kept, "ranked": [name for name in others if name not in searched]}
    templates = {"samples": names.SAMPLES, "results": names.RESULT}
    if table.costs:
        made_of = {name: requirements.passes(method) for name, method in methods.items()}
        cut_as = {name: shared for name in methods if (shared := config.cut_as(name)) != name}
        settings["costs"] = {"folder": names.BENCHMARKS, "passes": made_of, "searched": searched, "cut_as": cut_as}
        measured = dict.fromkeys(cut_as.get(name, name) for name in searched)
        places = product(table.models, table.calibrations, measured)
        files["sensitivity"] = [names.SENSITIVITY.format(model=m, calib=c, method=method) for m, c, method in places]
        templates["sensitivity"] = names.SENSITIVITY
    caption = CAPTIONS.get(name, "A table of this experiment's configuration.")
    return Entry(caption, files, settings, table.title, templates, "results")


def alternatives(config: Config, name: str, of: str) -> Entry:
    """The models of a table as GGUF files, beside the alternatives that it names. of: `bytes` or `speed`."""
    table = config.table(name)
    columns = {str(column): described(config, column) for column in table.columns}
    files: dict[str, dict[str, None]] = {"samples": {}, "files": {}, "speed": {}}
    for model, column in product(table.models, table.columns):
        pruned = [column.of(variant) for variant in pruned_variants(table)]
        shown = [(model, variant) for variant in (DENSE, *pruned)] + [(other, DENSE) for other in table.siblings]
        for (other, variant), kind in product(shown, table.types):
            own = replace(variant, type=kind)
            files["samples"][own.samples(other, column.task)] = None
            files["files"][f"{own.gguf(other)}.json"] = None
            if of == "speed" and (other, own) != (model, DENSE):
                files["speed"][own.file_speed(model, other)] = None
    sources = {model: config.models[config.lineage(model)[-1]].source for model in [*table.models, *table.siblings]}
    settings = {
        **{"name": f"{name}-{of}", "title": f"{table.title}: at equal {of}", "tasks": columns},
        **{"costs": ["size"] if of == "bytes" else ["prefill", "decode"], "models": table.models},
        **{"variants": [vars(variant) for variant in pruned_variants(table)], "calibrations": table.calibrations},
        **{"types": table.types, "siblings": table.siblings, "twins": twins(config, table)},
        "quantised_before": [model for model, source in sources.items() if source.kind == "gguf"],
        **statistical(config, "confidence", "resamples", "seed"),
    }
    templates = {"samples": names.SAMPLES, "files": f"{names.QUANTISED}.json", "speed": names.FILE_SPEED}
    templates = {key: template for key, template in templates.items() if files[key]}
    what = {"bytes": "bytes on disk", "speed": "speed in llama.cpp"}[of]
    caption = f"Pruned models against the dense one in fewer bits and smaller ones, at equal {what}."
    return Entry(caption, {key: [*own] for key, own in files.items()}, settings, table.title, templates, "alternatives")


def twins(config: Config, table: Table) -> dict[str, str | None]:
    """Column that llama.cpp answers -> one of the same questions that the harness answers, if there is one."""
    asking = {column: config.tasks[column.task] for column in table.columns}
    asking = {column: task for column, task in asking.items() if task.kind == "lm_eval"}
    of = {column: (task.definition or column.task, column.tuning) for column, task in asking.items()}
    ours = {of[column]: str(column) for column, task in asking.items() if not task.backend}
    return {str(column): ours.get(of[column]) for column, task in asking.items() if task.backend}


def described(config: Config, column: Column) -> dict[str, Any]:
    """What a table says of a column."""
    task = config.tasks[column.task]
    own = {"task": column.task, "tuning": column.tuning}
    own["note"] = config.tunings[column.tuning].note if column.tuning else None
    if task.kind == "perplexity" and task.per == "byte":
        title, metrics, kind = f"{task.title} (pieces of {task.seqlen} bytes)", ["bits_per_byte"], "bits"
    elif task.kind == "perplexity":
        title, metrics, kind = f"{task.title} (seqlen {task.seqlen})", ["perplexity"], "perplexity"
        metrics += ["kl"] if task.divergence else []
    if task.kind == "perplexity":
        apart = {} if task.prompt is None else {"title": f"{task.title}, each after its prompt", "parts": "records"}
        return {**own, "metrics": metrics, "kind": kind, "title": title, **apart}
    own |= {"metrics": task.metrics, "kind": "accuracy", "title": task.title}
    own["asked"] = {key: getattr(task, key) for key in ASKED}
    return own | ({"stop_early": task.stop_early.model_dump()} if task.stop_early else {})
