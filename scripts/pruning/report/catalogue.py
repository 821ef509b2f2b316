"""Every table and figure: from which files and settings it is made, and what it says. One entry each.

Rules list an entry's files as their input and hand them on with the settings; the report and README show its caption.
`tables/{maker}.py` and `figures/{maker}.py` make it. To add one: a file there, and an entry in `tables` or `figures`.
"""

from dataclasses import replace
from itertools import product
from typing import Any

from pruning.config.analyses import Trap
from pruning.config.schema import Config
from pruning.core import names
from pruning.core.names import DENSE, Column, Variant
from pruning.report.files import Entry
from pruning.report.result_tables import described, pruned_variants, results, statistical


def calib(config: Config) -> str:
    """The calibration that analyses and figures are of."""
    return config.experiment.calibrations[0]


def per_model(config: Config, template: str, **wildcards: object) -> list[str]:
    own = {"calib": calib(config), "sparsity": config.experiment.sparsity, **wildcards}
    return [template.format(model=model, **own) for model in config.experiment.models]


def overlaps(config: Config, pairs: list[tuple[str, str]]) -> list[str]:
    return [file for first, second in pairs for file in per_model(config, names.OVERLAP, first=first, second=second)]


def grid(config: Config, sparsities: list[int]) -> list[Variant]:
    return [Variant(calib(config), method, s) for method in config.experiment.methods for s in sparsities]


def samples(config: Config, variants: list[Variant], task: str) -> list[str]:
    return [variant.samples(model, task) for model in config.experiment.models for variant in variants]


def curve_sparsities(config: Config) -> list[int]:
    """Those that figures over sparsity show."""
    return config.collapse.sparsities if config.collapse else [config.experiment.sparsity]


def collapse_settings(config: Config) -> dict[str, Any]:
    """Of the analysis and of its table."""
    task = config.tasks[config.collapse.task]
    return {
        **statistical(config, "models", "methods", "confidence", "seed", "reference"),
        "calib": calib(config),
        **config.collapse.model_dump(include={"sparsities", "task", "resamples"}),
        **{"metric": task.metrics[0], "title": task.title, "chance": task.chance},
    }


def latency_shapes(config: Config) -> list[str]:
    return [*(name for name, shape in config.latency.shapes.items() if shape), *config.experiment.models]


def ablation_grid(config: Config) -> list[str]:
    """Every combination; what cannot differ is not repeated."""
    choices, rows = config.ablation, []
    for objective, reduction, allocate in product(choices.objectives, choices.reductions, choices.allocations):
        for normalise in choices.normalisations[: 1 if allocate == "uniform" else None]:
            rows.append(f"{objective}-{reduction}-{normalise}-{allocate}")
    return rows


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


def recovery_logs(config: Config) -> list[str]:
    """Training logs of every recovery that a table shows."""
    found = set()
    for table in (config.table(name) for name, table in config.tables.items() if table):
        columns = [column for column in table.columns if column.tuning]
        for model, column, variant in product(table.models, columns, pruned_variants(table)):
            found.add(f"{column.of(variant).adapter(model)}/training_log.csv")
    return sorted(found)


def together(config: Config) -> dict[tuple[str, tuple[str, ...]], list[Variant]]:
    """(model, two tasks or more of one of `experiment.together`) -> the variants that are evaluated on just these."""
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


def tables(config: Config) -> dict[str, Entry]:
    """results/{name}.csv, .md, .tex -> what it is; without `costs`, which is of all of them."""
    found = {name: results(config, name) for name, table in config.tables.items() if table}
    published = {n: [names.PUBLISHED.format(table=f"table{n}")] for n in (4, 6)}
    if config.overlap:
        found["table4"] = Entry(
            "Overlap of masks, averaged over layers and at one layer.",
            {
                "overlap": overlaps(config, config.overlap.pairs),
                "published": published[4],
                "notes": [names.PAPER_NOTES],
            },
            {**statistical(config, "models", "layer"), "pairs": config.overlap.pairs},
        )
    if config.cases:
        shown = product(config.experiment.models, [DENSE, *grid(config, [config.experiment.sparsity])])
        methods = [str(DENSE), *config.experiment.methods]
        found["table5"] = Entry(
            "What each model writes when asked the same questions.",
            {"cases": [names.CASES.format(model=model, variant=variant) for model, variant in shown]},
            {
                **statistical(config, "models", "sparsity"),
                **{"calib": calib(config), "methods": methods, "excerpt": config.cases.excerpt},
            },
            templates={"cases": names.CASES},
        )
    if config.ablation:
        rows, task = ablation_grid(config), config.tasks[config.ablation.task]
        variants = [DENSE, *(Variant(calib(config), row, config.experiment.sparsity) for row in rows)]
        found["ablation"] = Entry(
            "Every combination of RKU's choices, best first.",
            {"samples": samples(config, variants, config.ablation.task)},
            {
                **statistical(config, "models", "confidence", "sparsity"),
                **{"rows": rows, "presets": config.presets(rows), "calib": calib(config)},
                **{"task": config.ablation.task, "metric": task.metrics[0], "title": task.title},
            },
            templates={"samples": names.SAMPLES},
        )
    if config.readings:
        trap, used = config.trap or Trap(), config.readings.used
        pairs = dict.fromkeys((r.rku, other) for r in used.values() for other in (r.agf, r.taylor, r.wanda))
        masks = dict.fromkeys(method for r in used.values() for method in (r.rku, r.wanda))
        # The gradient that an interpretation's RKU is made of; a score without one is held against the experiment's.
        rows = {n: {**r.model_dump(), "objective": config.objective(r.rku) or trap.objective} for n, r in used.items()}
        found["readings"] = Entry(
            "Ways in which the paper's methods may have been computed, judged by the paper's own numbers.",
            {
                "overlap": overlaps(config, list(pairs)),
                "masks": [file for method in masks for file in per_model(config, names.MASK, method=method)],
                "statistics": per_model(config, names.STATISTICS),
                **{f"table{n}": files for n, files in published.items()},
            },
            {
                **statistical(config, "models", "sparsity", "layer", "confidence"),
                **{"calib": calib(config), "rows": rows, "sparsities": config.readings.sparsities},
                **{"high": trap.high, "low": trap.low},
            },
            templates={"overlap": names.OVERLAP, "masks": names.MASK, "statistics": names.STATISTICS},
        )
    if config.collapse:
        found["collapse"] = Entry(
            "The sparsity at which each method's accuracy has fallen halfway to guessing.",
            {"collapse": [config.places.collapse], "accuracy": [config.places.accuracy]},
            collapse_settings(config),
        )
    if of := tradeoff_tables(config):
        own = described(config, Column(tradeoff_task(config)))
        found["tradeoff"] = Entry(
            "What a smaller model costs and gains: quality, size and speed of the very models of the tables.",
            {
                "quality": [f"{config.places.table.format(table=table)}.csv" for table in of],
                "speed": [config.places.speed.format(model=model) for model in timed(config)],
            },
            {
                **{key: own[key] for key in ("task", "kind", "title")},
                **{"metric": own["metrics"][0], **statistical(config, "confidence")},
            },
        )
    if config.latency:
        files = {"shapes": [names.LATENCY.format(shape=shape) for shape in latency_shapes(config)]}
        found["latency"] = Entry("Speed of dense and compact shapes with random weights.", files)
    return {name: replace(entry, maker=entry.maker or name) for name, entry in found.items()}


def costs(config: Config) -> Entry:
    joint = sorted({names.joined(tasks) for _, tasks in together(config)})
    caption = "Time and memory of every stage of this run."
    return Entry(caption, {"benchmarks": [names.BENCHMARKS]}, {"joint": joint}, maker="costs")


def figures(config: Config) -> dict[str, Entry]:
    """results/figures/{name}.svg, .png -> what it is."""
    found, table = {}, f"{config.places.table}.csv"
    if config.spectrum:
        found["fig1"] = Entry(
            "Singular values of what the kept neurons of one layer do on calibration text. A curve that stays high "
            "is a kept set that spans many directions. All methods are compared at equal width; the dense model's "
            "curve at that width is the mean over random sets of neurons, so a method below it keeps neurons that "
            "repeat one another.",
            {
                "spectrum": per_model(config, f"{names.SPECTRUM}.csv"),
                "summary": per_model(config, f"{names.SPECTRUM}.summary.csv"),
            },
            title="Figure 1: the directions that kept neurons span",
        )
    if config.trap:
        files = {"neurons": "neurons.parquet", "regions": "regions.csv", "classes": "classes.csv"}
        found["fig2"] = Entry(
            "The claim of a magnitude trap, tested. Left: activation against kinetic gradient of each neuron; trap "
            "neurons are active without gradient, spike neurons the reverse, by the quantiles that the axes mark. "
            "Middle: the share of either kind that each method keeps, beside the share it keeps of all neurons. "
            "Right: on which tokens each measure's total is made.",
            {name: per_model(config, f"{names.TRAP}.{file}") for name, file in files.items()},
            title="Figure 2: the magnitude trap",
        )
    if config.overlap:
        found["fig3"] = Entry(
            "How much two methods agree on the neurons to keep, by sparsity, beside what two random masks of the "
            "same widths would share; and where in the network they differ.",
            {
                "overlap": overlaps(config, config.overlap.pairs),
                "published": [names.PUBLISHED.format(table="table4")],
            },
            {"pair": config.overlap.pairs[0]},
            "Figure 3: agreement of masks",
        )
    if config.collapse:
        titles = {config.collapse.task: config.tasks[config.collapse.task].title}
        background = {"background": config.collapse.background} if config.collapse.background else {}
        found["collapse"] = Entry(
            "Accuracy after pruning, by sparsity, with intervals. The collapse point is the sparsity at which the "
            "accuracy has fallen halfway from the dense model's to guessing; an arrow: not within the sparsities "
            "measured.",
            {"accuracy": [config.places.accuracy], "collapse": [config.places.collapse]},
            {"titles": titles, **background},
            "Accuracy over sparsity",
        )
    found["widths"] = Entry(
        "The share of its neurons that each layer keeps. Uniform methods keep the same everywhere; global ones "
        "starve the layers in which they find little.",
        {"widths": [config.places.widths]},
        {"sparsity": names.share(config.experiment.sparsity)},
        "What each layer keeps",
    )
    if tradeoff_tables(config):
        own = described(config, Column(tradeoff_task(config)))
        found["tradeoff"] = Entry(
            f"Quality ({own['title']}) against size and measured speed of the same models. The line joins those "
            "that no other beats: whatever is better than one of them is clearly larger or slower.",
            {"tradeoff": [table.format(table="tradeoff")]},
            {"title": own["title"], "kind": own["kind"], "models": list(timed(config))},
            "Quality against size and speed",
        )
    if config.latency and config.collapse:
        found["latency"] = Entry(
            "What the smaller model gains: accuracy against prefill time, and measured speed-ups against the bound "
            "by arithmetic.",
            {"latency": [table.format(table="latency")], "accuracy": [config.places.accuracy]},
            {"titles": titles},
            "Accuracy against time, and the bound by arithmetic",
        )
    if logs := recovery_logs(config):
        found["recovery"] = Entry(
            "Loss during LoRA recovery on the tuning text. A low loss is no accuracy: Table 3 has that.",
            {"log": logs},
            title="Loss during recovery",
        )
    shared = statistical(config, "models", "methods")
    return {name: replace(entry, settings={**shared, **entry.settings}, maker=name) for name, entry in found.items()}


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
