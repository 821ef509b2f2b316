"""Every table and figure: from which files and settings it is made, and what it says. One entry each.

Rules list an entry's files as their input and hand them on with the settings; the report and README show its caption.
`tables/{maker}.py` and `figures/{maker}.py` make it. To add one: a file there, and an entry here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from pruning.config.analyses import Trap
from pruning.config.experiment import Table
from pruning.config.models import Model
from pruning.config.schema import Config
from pruning.core import names
from pruning.core.names import DENSE, Column, Variant
from pruning.methods import allocation, latency_table, requirements

Inputs = Mapping[str, list[str]]


@dataclass(frozen=True)
class Entry:
    maker: str
    caption: str
    """For someone who has not read the code."""
    files: Inputs
    """By the names that the maker knows them by."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    """Of a figure; a table's page has its own."""
    templates: Mapping[str, str] = field(default_factory=dict)
    """For files that the maker finds by what they are of, not by their order: how they are named."""

    @property
    def inputs(self) -> list[str]:
        return sorted({file for files in self.files.values() for file in files})

    @property
    def options(self) -> list[str]:
        """The files on a command line."""
        named = {**self.files, **{name: [template] for name, template in self.templates.items()}}
        return [f"--file={name}={path}" for name, paths in named.items() for path in paths]


# What is in several ---------------------------------------------------------------------------------------------------


def calib(config: Config) -> str:
    """The calibration that analyses and figures are of."""
    return config.experiment.calibrations[0]


def per_model(config: Config, template: str, **wildcards: object) -> list[str]:
    own = {"calib": calib(config), "sparsity": config.experiment.sparsity, **wildcards}
    return [template.format(model=model, **own) for model in config.experiment.models]


def grid(config: Config, sparsities: list[int]) -> list[Variant]:
    return [Variant(calib(config), method, s) for method in config.experiment.methods for s in sparsities]


def samples(config: Config, variants: list[Variant], task: str) -> list[str]:
    return [variant.samples(model, task) for model in config.experiment.models for variant in variants]


def statistical(config: Config, *keys: str) -> dict[str, Any]:
    return {key: getattr(config.experiment, key) for key in keys}


def curve_sparsities(config: Config) -> list[int]:
    """Those that figures over sparsity show."""
    return config.collapse.sparsities if config.collapse else [config.experiment.sparsity]


# Tables of results ----------------------------------------------------------------------------------------------------

CAPTIONS = {
    "table1": "Accuracy in reasoning after pruning, with intervals and paired tests against one reference method.",
    "table2": "Accuracy in what a model knows rather than derives.",
    "table3": "Accuracy after a short LoRA recovery, on the task that was tuned on and on others.",
    "table6": "Perplexity at every sparsity.",
    "table7": "Perplexity and accuracy over all tasks at three sparsities.",
    "recovery": "The same models before and after recovery: does it help, and where?",
    "ridge": "The same masks with and without refitting what is left.",
    "seeds": "The same methods calibrated on other texts: how much of a difference is chance?",
}
ASKED = ("num_fewshot", "shared_examples", "chat_template", "max_gen_toks", "first")


def pruned_variants(table: Table) -> list[Variant]:
    return [Variant(calib, *pair) for calib, pair in product(table.calibrations, table.pruned)]


def results(config: Config, name: str) -> Entry:
    table = config.table(name)
    pruned, columns = pruned_variants(table), table.columns
    shown = [
        (model, variant, column.task)
        for model, column in product(table.models, columns)
        for variant in (DENSE, *map(column.of, pruned))
    ]
    # How small a variant is, its results say; recovery does not change it.
    evaluated = [(model, columns[0].of(variant)) for model, variant in product(table.models, pruned)]
    files = {
        "samples": [variant.samples(model, task) for model, variant, task in shown],
        "results": [variant.result(model, columns[0].task) for model, variant in evaluated],
        "leakage": [config.places.leakage.format(table=name)],
    }
    if table.paper:
        files |= {"published": [names.PUBLISHED.format(table=table.paper)], "notes": [names.PAPER_NOTES]}
    calibrations = {name: {"seed": config.calibrations[name].seed} for name in table.calibrations}
    settings = {
        **table.model_dump(exclude={"costs"}),
        "name": name,
        "models": {m: {**of_model(config.models[m]), "calibrations": calibrations} for m in table.models},
        "tasks": {str(column): described(config, column) for column in columns},
        **statistical(config, "confidence", "resamples", "seed"),
    }
    if both := [
        method for method in table.methods if len(allocation.structures_of(config.method(method).allocate)) > 1
    ]:
        settings["groups"] = both
    per = {method: latency_table.per_of(config.method(method).allocate_options) for method in table.methods}
    if kept := {method: what for method, what in per.items() if what != latency_table.PARAMETERS}:
        settings["kept_to"] = kept
        settings["ranked"] = [method for method in both if not allocation.search_of(config.method(method).allocate)]
    templates = {"samples": names.SAMPLES, "results": names.RESULT}
    if table.costs:
        searched = [method for method in table.methods if allocation.search_of(config.method(method).allocate)]
        made_of = {method: requirements.passes(config.method(method)) for method in table.methods}
        settings["costs"] = {"folder": names.BENCHMARKS, "passes": made_of, "searched": searched}
        places = product(table.models, table.calibrations, searched)
        files["sensitivity"] = [names.SENSITIVITY.format(model=m, calib=c, method=method) for m, c, method in places]
        templates["sensitivity"] = names.SENSITIVITY
    caption = CAPTIONS.get(name, "A table of this experiment's configuration.")
    return Entry("results", caption, files, settings, table.title, templates)


def of_model(model: Model) -> dict[str, Any]:
    """What a table says of a model: its note, and its numbers' format where that is a short one."""
    return {"note": model.note, **({} if model.dtype == "float32" else {"dtype": model.dtype})}


def together(config: Config) -> dict[tuple[str, tuple[str, ...]], list[Variant]]:
    """(model, two tasks or more of one of `experiment.together`) -> the variants that just these are asked of."""
    asked: dict[tuple[str, str], dict[str, None]] = {}
    wanted = [file for entry in [*tables(config).values(), *figures(config).values()] for file in entry.inputs]
    if config.collapse:
        wanted += samples(config, [DENSE, *grid(config, config.collapse.sparsities)], config.collapse.task)
    for model, variant, task in filter(None, map(names.sample_of, wanted)):
        asked.setdefault((model, variant), {})[task] = None
    found: dict[tuple[str, tuple[str, ...]], list[Variant]] = {}
    for tasks in config.experiment.together:
        for (model, variant), own in asked.items():
            if len(both := tuple(task for task in tasks if task in own)) > 1:
                found.setdefault((model, both), []).append(Variant.parse(variant))
    return found


def described(config: Config, column: Column) -> dict[str, Any]:
    task = config.tasks[column.task]
    note = config.tunings[column.tuning].note if column.tuning else None
    own = {"task": column.task, "tuning": column.tuning, "note": note}
    if task.kind == "perplexity":
        return {**own, "metrics": ["perplexity"], "kind": "perplexity", "title": f"{task.title} (seqlen {task.seqlen})"}
    asked = {key: getattr(task, key) for key in ASKED}
    early = {"stop_early": task.stop_early.model_dump()} if task.stop_early else {}
    return {**own, "metrics": task.metrics, "kind": "accuracy", "title": task.title, "asked": asked, **early}


# Other tables ---------------------------------------------------------------------------------------------------------


def overlaps(config: Config, pairs: list[tuple[str, str]]) -> list[str]:
    return [file for first, second in pairs for file in per_model(config, names.OVERLAP, first=first, second=second)]


def table4(config: Config) -> Entry:
    files = {
        "overlap": overlaps(config, config.overlap.pairs),
        "published": [names.PUBLISHED.format(table="table4")],
        "notes": [names.PAPER_NOTES],
    }
    settings = {"models": config.experiment.models, "pairs": config.overlap.pairs, "layer": config.experiment.layer}
    return Entry("table4", "Overlap of masks, averaged over layers and at one layer.", files, settings)


def table5(config: Config) -> Entry:
    variants = [DENSE, *grid(config, [config.experiment.sparsity])]
    files = [names.CASES.format(model=m, variant=v) for m, v in product(config.experiment.models, variants)]
    settings = {
        "models": config.experiment.models,
        "calib": calib(config),
        "sparsity": config.experiment.sparsity,
        "methods": [str(DENSE), *config.experiment.methods],
        "excerpt": config.cases.excerpt,
    }
    caption = "What each model writes when asked the same questions."
    return Entry("table5", caption, {"cases": files}, settings, templates={"cases": names.CASES})


def ablation_grid(config: Config) -> list[str]:
    """Every combination; what cannot differ is not repeated."""
    choices, rows = config.ablation, []
    for objective, reduction, allocate in product(choices.objectives, choices.reductions, choices.allocations):
        for normalise in choices.normalisations[: 1 if allocate == "uniform" else None]:
            rows.append(f"{objective}-{reduction}-{normalise}-{allocate}")
    return rows


def ablation(config: Config) -> Entry:
    rows, task = ablation_grid(config), config.tasks[config.ablation.task]
    variants = [DENSE, *(Variant(calib(config), row, config.experiment.sparsity) for row in rows)]
    settings = {
        **statistical(config, "models", "confidence", "resamples", "seed", "sparsity"),
        "rows": rows,
        "presets": config.presets(rows),
        "calib": calib(config),
        "task": config.ablation.task,
        "metric": task.metrics[0],
        "title": task.title,
    }
    files = {"samples": samples(config, variants, config.ablation.task)}
    caption = "Every combination of RKU's choices, best first."
    return Entry("ablation", caption, files, settings, templates={"samples": names.SAMPLES})


def readings(config: Config) -> Entry:
    trap, used, rows = config.trap or Trap(), config.readings.used, {}
    for name, reading in used.items():
        # The gradient that the reading's RKU is made of; a score without one is held against the experiment's.
        rows[name] = {**reading.model_dump(), "objective": config.objective(reading.rku) or trap.objective}
    pairs = dict.fromkeys((r.rku, other) for r in used.values() for other in (r.agf, r.taylor, r.wanda))
    masks = dict.fromkeys(method for r in used.values() for method in (r.rku, r.wanda))
    templates = {"overlap": names.OVERLAP, "masks": names.MASK, "statistics": names.STATISTICS}
    files = {
        "overlap": overlaps(config, list(pairs)),
        "masks": [file for method in masks for file in per_model(config, names.MASK, method=method)],
        "statistics": per_model(config, names.STATISTICS),
        **{name: [names.PUBLISHED.format(table=name)] for name in ("table1", "table4", "table6", "table7")},
    }
    settings = {
        **config.readings.model_dump(exclude={"rows"}),
        **statistical(config, "models", "sparsity", "layer", "confidence"),
        "calib": calib(config),
        "rows": rows,
        "high": trap.high,
        "low": trap.low,
    }
    caption = "Ways in which the paper's methods may have been computed, judged by the paper's own numbers."
    return Entry("readings", caption, files, settings, templates=templates)


def collapse_settings(config: Config) -> dict[str, Any]:
    """Of the analysis and of its table."""
    collapse = config.collapse
    task = config.tasks[collapse.task]
    return {
        **statistical(config, "methods", "confidence", "seed", "reference"),
        "models": {model: {"calibrations": [calib(config)]} for model in config.experiment.models},
        "sparsities": collapse.sparsities,
        "task": collapse.task,
        "metric": task.metrics[0],
        "title": task.title,
        "chance": task.chance,
        "resamples": collapse.resamples,
    }


def collapse(config: Config) -> Entry:
    files = {"collapse": [config.places.collapse], "accuracy": [config.places.accuracy]}
    caption = "The sparsity at which each method's accuracy has fallen halfway to guessing."
    return Entry("collapse", caption, files, collapse_settings(config))


def tradeoff_tables(config: Config) -> list[str]:
    return [name for name in config.tradeoff.tables if config.tables[name]] if config.tradeoff else []


def tradeoff_task(config: Config) -> str:
    return config.tradeoff.task or config.table(tradeoff_tables(config)[0]).columns[0].task


def timed(config: Config) -> dict[str, list[Variant]]:
    """Model -> the variants that the tables of `tradeoff` show its task of, the dense one first."""
    found: dict[str, dict[Variant, None]] = {}
    for table in map(config.table, tradeoff_tables(config)):
        columns = [column for column in table.columns if column.task == tradeoff_task(config)]
        for model, column, pruned in product(table.models, columns, pruned_variants(table)):
            found.setdefault(model, {DENSE: None})[column.of(pruned)] = None
    return {model: list(variants) for model, variants in found.items()}


def tradeoff(config: Config) -> Entry:
    tables, task = tradeoff_tables(config), tradeoff_task(config)
    files = {
        "quality": [f"{config.places.table.format(table=table)}.csv" for table in tables],
        "speed": [config.places.speed.format(model=model) for model in timed(config)],
    }
    own = described(config, Column(task))
    settings = {key: own[key] for key in ("task", "kind", "title")} | {"metric": own["metrics"][0]}
    caption = "What a smaller model costs and gains: quality, size and speed of the very models of the tables."
    return Entry("tradeoff", caption, files, {**settings, **statistical(config, "confidence")})


def latency_shapes(config: Config) -> list[str]:
    return [*(name for name, shape in config.latency.shapes.items() if shape), *config.experiment.models]


def latency(config: Config) -> Entry:
    files = {"shapes": [names.LATENCY.format(shape=shape) for shape in latency_shapes(config)]}
    return Entry("latency", "Speed of dense and compact shapes with random weights.", files)


def costs(config: Config) -> Entry:
    joint = sorted({names.joined(tasks) for _, tasks in together(config)})
    files = {"benchmarks": [names.BENCHMARKS]}
    return Entry("costs", "Time and memory of every stage of this run.", files, {"joint": joint})


def tables(config: Config) -> dict[str, Entry]:
    """results/{name}.csv, .md, .tex -> what it is; without `costs`, which is of all of them."""
    found = {name: results(config, name) for name, table in config.tables.items() if table}
    sections = {
        "table4": (config.overlap, table4),
        "table5": (config.cases, table5),
        "ablation": (config.ablation, ablation),
        "readings": (config.readings, readings),
        "collapse": (config.collapse, collapse),
        "tradeoff": (tradeoff_tables(config), tradeoff),
        "latency": (config.latency, latency),
    }
    return found | {name: entry(config) for name, (section, entry) in sections.items() if section}


# Figures --------------------------------------------------------------------------------------------------------------


FIGURE_TITLES = {
    "fig1": "Figure 1: the directions that kept neurons span",
    "fig2": "Figure 2: the magnitude trap",
    "fig3": "Figure 3: agreement of masks",
    "collapse": "Accuracy over sparsity",
    "widths": "What each layer keeps",
    "tradeoff": "Quality against size and speed",
    "latency": "Accuracy against time, and the bound by arithmetic",
    "recovery": "Loss during recovery",
}


def fig1(config: Config) -> Entry:
    files = {
        "spectrum": per_model(config, f"{names.SPECTRUM}.csv"),
        "summary": per_model(config, f"{names.SPECTRUM}.summary.csv"),
    }
    return Entry(
        "fig1",
        "Singular values of what the kept neurons of one layer do on calibration text. A curve that stays high is a "
        "kept set that spans many directions. All methods are compared at equal width; the dense model's curve at that "
        "width is the mean over random sets of neurons, so a method below it keeps neurons that repeat one another.",
        files,
    )


def fig2(config: Config) -> Entry:
    files = {"neurons": "neurons.parquet", "regions": "regions.csv", "classes": "classes.csv"}
    return Entry(
        "fig2",
        "The claim of a magnitude trap, tested. Left: activation against kinetic gradient of each neuron; trap "
        "neurons are active without gradient, spike neurons the reverse, by the quantiles that the axes mark. "
        "Middle: the share of either kind that each method keeps, beside the share it keeps of all neurons. Right: "
        "on which tokens each measure's total is made.",
        {name: per_model(config, f"{names.TRAP}.{file}") for name, file in files.items()},
        {"layer": None, "sparsity": config.experiment.sparsity / 100},
    )


def fig3(config: Config) -> Entry:
    files = {"overlap": overlaps(config, config.overlap.pairs), "published": [names.PUBLISHED.format(table="table4")]}
    return Entry(
        "fig3",
        "How much two methods agree on the neurons to keep, by sparsity, beside what two random masks of the same "
        "widths would share; and where in the network they differ.",
        files,
        {"pair": config.overlap.pairs[0]},
    )


def collapse_figure(config: Config) -> Entry:
    return Entry(
        "collapse",
        "Accuracy after pruning, by sparsity, with intervals. The collapse point is the sparsity at which the accuracy "
        "has fallen halfway from the dense model's to guessing; an arrow: not within the sparsities measured.",
        {"accuracy": [config.places.accuracy], "collapse": [config.places.collapse]},
        {
            "titles": {config.collapse.task: config.tasks[config.collapse.task].title},
            **({"background": config.collapse.background} if config.collapse.background else {}),
        },
    )


def widths_figure(config: Config) -> Entry:
    return Entry(
        "widths",
        "The share of its neurons that each layer keeps. Uniform methods keep the same everywhere; global ones starve "
        "the layers in which they find little.",
        {"widths": [config.places.widths]},
        {"sparsity": config.experiment.sparsity / 100},
    )


def tradeoff_figure(config: Config) -> Entry:
    own = tradeoff(config).settings
    return Entry(
        "tradeoff",
        f"Quality ({own['title']}) against size and measured speed of the same models. The line joins those that no "
        "other beats: whatever is better than one of them is clearly larger or slower.",
        {"tradeoff": [f"{config.places.table.format(table='tradeoff')}.csv"]},
        {"title": own["title"], "kind": own["kind"], "models": list(timed(config))},
    )


def latency_figure(config: Config) -> Entry:
    return Entry(
        "latency",
        "What the smaller model gains: accuracy against prefill time, and measured speed-ups against the bound by "
        "arithmetic.",
        {"latency": [f"{config.places.table.format(table='latency')}.csv"], "accuracy": [config.places.accuracy]},
        {"titles": {config.collapse.task: config.tasks[config.collapse.task].title}},
    )


def recovery_figure(config: Config) -> Entry:
    return Entry(
        "recovery",
        "Loss during LoRA recovery on the tuning text. A low loss is no accuracy: Table 3 has that.",
        {"log": recovery_logs(config)},
    )


def recovery_logs(config: Config) -> list[str]:
    """Training logs of every recovery that a table shows."""
    found = set()
    for table in (config.table(name) for name, table in config.tables.items() if table):
        columns = [column for column in table.columns if column.tuning]
        for model, column, variant in product(table.models, columns, pruned_variants(table)):
            found.add(f"{column.of(variant).adapter(model)}/training_log.csv")
    return sorted(found)


def figures(config: Config) -> dict[str, Entry]:
    """results/figures/{name}.svg, .png -> what it is."""
    shared = {"models": config.experiment.models, "methods": config.experiment.methods}
    wanted = {
        "fig1": (config.spectrum, fig1),
        "fig2": (config.trap, fig2),
        "fig3": (config.overlap, fig3),
        "collapse": (config.collapse, collapse_figure),
        "widths": (True, widths_figure),
        "tradeoff": (tradeoff_tables(config), tradeoff_figure),
        "latency": (config.latency and config.collapse, latency_figure),
        "recovery": (recovery_logs(config), recovery_figure),
    }

    def entries() -> Iterator[tuple[str, Entry]]:
        for name, (section, make) in wanted.items():
            if section:
                entry = make(config)
                settings = {**shared, **entry.settings}
                yield name, Entry(entry.maker, entry.caption, entry.files, settings, FIGURE_TITLES.get(name, name))

    return dict(entries())


# The first page -------------------------------------------------------------------------------------------------------

HEADLINES = ("tradeoff", "collapse")
"""Figures that an experiment opens on; the first that there is."""


def first_page(config: Config) -> dict[str, Any]:
    """What the first page shows, in its order: its headline's table and figure first."""
    shown = {**tables(config), "costs": costs(config)}
    drawn = figures(config)
    order = sorted(drawn, key=lambda name: HEADLINES.index(name) if name in HEADLINES else len(HEADLINES))
    return {
        "title": f"{config.experiment.name or ', '.join(config.experiment.models)}: what pruning leaves",
        "tables": [{"name": name, "maker": entry.maker, "caption": entry.caption} for name, entry in shown.items()],
        "figures": [{"name": name, "title": drawn[name].title, "caption": drawn[name].caption} for name in order],
        "titles": {name: task.title for name, task in config.tasks.items()},
        **statistical(config, "confidence"),
    }
