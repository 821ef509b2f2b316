"""Tables and figures: from which files and settings each is made, and what it says. One entry each.

Rules list an entry's files as their input and hand them on with the settings; the report and README show its caption.
`tables/{maker}.py` and `figures/{maker}.py` make it. To add one: a file there, and an entry in `tables` or `figures`.
Those that only reproduce the paper are in paper/catalogue.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from pruning.config.schema import Config
from pruning.core import names
from pruning.core.names import DENSE, Column, Variant
from pruning.report.files import Entry
from pruning.report.result_tables import alternatives, described, pruned_variants, results, statistical


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


def curve_sparsities(config: Config) -> list[int]:
    """Those that figures over sparsity show, and that of the experiment."""
    return list(dict.fromkeys([*(config.collapse.sparsities if config.collapse else ()), config.experiment.sparsity]))


def latency_shapes(config: Config) -> list[str]:
    return [*(name for name, shape in config.latency.shapes.items() if shape), *config.experiment.models]


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


def recovery_logs(config: Config) -> dict[str, tuple[str, str]]:
    """Training logs of every recovery that a table shows -> their model and method."""
    found = {}
    for table in (config.table(name) for name, table in config.tables.items() if table):
        columns = [column for column in table.columns if column.tuning]
        for model, column, variant in product(table.models, columns, pruned_variants(table)):
            found[f"{column.of(variant).adapter(model)}/training_log.csv"] = model, variant.method
    return dict(sorted(found.items()))


def together(config: Config, entries: Iterable[Entry]) -> dict[tuple[str, tuple[str, ...]], list[Variant]]:
    """(model, two tasks or more of one of `experiment.together`) -> the variants that are evaluated on just these.

    entries: all tables and figures."""
    asked: dict[tuple[str, str], dict[str, None]] = {}
    wanted = [file for entry in entries for file in entry.inputs]
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
    for name in [name for name, table in config.tables.items() if table and table.types]:
        found |= {f"{name}-{of}": alternatives(config, name, of) for of in ("bytes", "speed")}
    if of := tradeoff_tables(config):
        own = described(config, Column(tradeoff_task(config)))
        found["tradeoff"] = Entry(
            "What a smaller model costs and gains: quality, size and speed of the very models of the tables.",
            {
                "quality": [f"{config.places.table.format(table=table)}.csv" for table in of],
                "speed": [config.places.speed.format(model=model) for model in timed(config)],
            },
            {key: own[key] for key in ("task", "kind", "title")}
            | {"metric": own["metrics"][0], **statistical(config, "confidence")},
        )
    if config.latency:
        files = {"shapes": [names.LATENCY.format(shape=shape) for shape in latency_shapes(config)]}
        found["latency"] = Entry("Speed of dense and compact shapes with random weights.", files)
    return made_in("report/tables", found)


def made_in(folder: str, entries: Mapping[str, Entry], **shared: Any) -> dict[str, Entry]:
    """Entries with the module that makes each, below scripts/pruning/, and the settings that all share."""
    return {
        name: replace(entry, maker=f"{folder}/{entry.maker or name}", settings={**shared, **entry.settings})
        for name, entry in entries.items()
    }


def costs(joint: Iterable[tuple[str, Sequence[str]]]) -> Entry:
    """joint: (model, tasks) that are evaluated in one job, as `together` says."""
    found = {"joint": sorted({names.joined(tasks) for _, tasks in joint})}
    caption = "Time and memory of every stage of this run."
    return Entry(caption, {"benchmarks": [names.BENCHMARKS]}, found, maker="report/tables/costs")


def _timed_and_measured(config: Config) -> bool:
    """Whether `latency` has some of the very models whose accuracies `collapse` has."""
    if not (config.latency and config.collapse):
        return False
    methods = {*config.latency.methods} & {*config.experiment.methods}
    return bool(methods and {*config.latency.sparsities} & {*config.collapse.sparsities})


def figures(config: Config) -> dict[str, Entry]:
    """results/figures/{name}.svg, .png -> what it is."""
    found, table = {}, f"{config.places.table}.csv"
    found["widths"] = Entry(
        "The share of its FFN neurons that each layer keeps; of a mixture, of its experts, or of the neurons inside "
        "them. Uniform methods keep the same everywhere; global ones starve the layers in which they find little.",
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
    for name in [name for name, table in config.tables.items() if table and table.types]:
        own = described(config, config.table(name).columns[0])
        found[f"{name}-alternatives"] = Entry(
            f"Quality ({own['title']}) against bytes, prefill and decoding time in llama.cpp: pruned models, the dense "
            "model in GGUF types and smaller models. Each line is one model in several types; bars are intervals.",
            {"rows": [table.format(table=f"{name}-speed")]},
            {key: own[key] for key in ("task", "tuning", "title", "kind")} | {"models": config.table(name).models},
            "Prune, quantise, or take the smaller model",
            maker="alternatives",
        )
    if _timed_and_measured(config):
        titles = {config.collapse.task: config.tasks[config.collapse.task].title}
        found["latency"] = Entry(
            "What the smaller model gains: accuracy against prefill time, and measured speed-ups against the bound "
            "by arithmetic.",
            {"latency": [table.format(table="latency")], "accuracy": [config.places.accuracy]},
            {"titles": titles},
            "Accuracy against time, and the bound by arithmetic",
        )
    if logs := recovery_logs(config):
        models, methods = zip(*logs.values(), strict=True)
        found["recovery"] = Entry(
            "Loss during LoRA recovery on the tuning text. A low loss is no accuracy: tables of recoveries have that.",
            {"log": list(logs)},
            {
                "models": list(dict.fromkeys([*config.experiment.models, *models])),
                "methods": list(dict.fromkeys([*config.experiment.methods, *methods])),
            },
            "Loss during recovery",
        )
    return made_in("report/figures", found, **statistical(config, "models", "methods"))


# The first page -------------------------------------------------------------------------------------------------------

HEADLINES = ("tradeoff", "collapse")  # Figures that an experiment opens on; the first that there is


def first_page(config: Config, shown: Mapping[str, Entry], drawn: Mapping[str, Entry]) -> dict[str, Any]:
    """What the first page shows of these tables and figures, in its order: its headline's table and figure first."""
    order = sorted(drawn, key=lambda name: HEADLINES.index(name) if name in HEADLINES else len(HEADLINES))
    return {
        "title": f"{config.experiment.name or ', '.join(config.experiment.models)}: what pruning leaves",
        "tables": [
            {"name": name, "maker": entry.maker.rpartition("/")[2], "caption": entry.caption}
            for name, entry in shown.items()
        ],
        "figures": [{"name": name, "title": drawn[name].title, "caption": drawn[name].caption} for name in order],
        "titles": {name: task.title for name, task in config.tasks.items()},
        **statistical(config, "confidence"),
    }
