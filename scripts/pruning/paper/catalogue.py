"""Tables and figures of the paper's analyses, beside those of report/catalogue.py, whose words these are in."""

from itertools import product
from typing import Any

from pruning.config.analyses import Trap
from pruning.config.schema import Config
from pruning.core import names
from pruning.core.names import DENSE, Variant
from pruning.report.catalogue import calib, grid, made_in, per_model, samples, statistical
from pruning.report.files import Entry


def overlaps(config: Config, pairs: list[tuple[str, str]]) -> list[str]:
    return [file for first, second in pairs for file in per_model(config, names.OVERLAP, first=first, second=second)]


def collapse_settings(config: Config) -> dict[str, Any]:
    """Of the analysis and of its table."""
    task = config.tasks[config.collapse.task]
    shared = statistical(config, "models", "methods", "confidence", "seed", "reference") | {"calib": calib(config)}
    own = config.collapse.model_dump(include={"sparsities", "task", "resamples"})
    return {**shared, **own, "metric": task.metrics[0], "title": task.title, "chance": task.chance}


def ablation_grid(config: Config) -> list[str]:
    """Every combination; what cannot differ is not repeated."""
    choices, rows = config.ablation, []
    for objective, reduction, allocate in product(choices.objectives, choices.reductions, choices.allocations):
        for normalise in choices.normalisations[: 1 if allocate == "uniform" else None]:
            rows.append(f"{objective}-{reduction}-{normalise}-{allocate}")
    return rows


def tables(config: Config) -> dict[str, Entry]:
    """results/{name}.csv, .md, .tex -> what it is."""
    found: dict[str, Entry] = {}
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
        own = {"methods": [str(DENSE), *config.experiment.methods], "excerpt": config.cases.excerpt}
        found["table5"] = Entry(
            "What each model writes when asked the same questions.",
            {"cases": [names.CASES.format(model=model, variant=variant) for model, variant in shown]},
            {**statistical(config, "models", "sparsity"), "calib": calib(config), **own},
            templates={"cases": names.CASES},
        )
    if config.ablation:
        rows, task = ablation_grid(config), config.tasks[config.ablation.task]
        variants = [DENSE, *(Variant(calib(config), row, config.experiment.sparsity) for row in rows)]
        own = {"task": config.ablation.task, "metric": task.metrics[0], "title": task.title}
        own |= {"rows": rows, "presets": config.presets(rows), "calib": calib(config)}
        found["ablation"] = Entry(
            "Every combination of RKU's choices, best first.",
            {"samples": samples(config, variants, config.ablation.task)},
            statistical(config, "models", "confidence", "sparsity") | own,
            templates={"samples": names.SAMPLES},
        )
    if config.readings:
        trap, used = config.trap or Trap(), config.readings.used
        own = {"calib": calib(config), "sparsities": config.readings.sparsities, "high": trap.high, "low": trap.low}
        pairs = dict.fromkeys((r.rku, other) for r in used.values() for other in (r.agf, r.taylor, r.wanda))
        masks = dict.fromkeys(method for r in used.values() for method in (r.rku, r.wanda))
        # The gradient that an interpretation's RKU is made of; a score without one is held against the experiment's.
        of = {name: config.method(each.rku).objective or trap.objective for name, each in used.items()}
        rows = {name: {**each.model_dump(), "objective": of[name]} for name, each in used.items()}
        found["readings"] = Entry(
            "Ways in which the paper's methods may have been computed, judged by the paper's own numbers.",
            {
                "overlap": overlaps(config, list(pairs)),
                "masks": [file for method in masks for file in per_model(config, names.MASK, method=method)],
                "statistics": per_model(config, names.STATISTICS),
                **{f"table{n}": files for n, files in published.items()},
            },
            {**statistical(config, "models", "sparsity", "layer", "confidence"), **own, "rows": rows},
            templates={"overlap": names.OVERLAP, "masks": names.MASK, "statistics": names.STATISTICS},
        )
    if config.collapse:
        found["collapse"] = Entry(
            "The sparsity at which each method's accuracy has fallen halfway to guessing.",
            {"collapse": [config.places.collapse], "accuracy": [config.places.accuracy]},
            collapse_settings(config),
        )
    return made_in("paper/tables", found)


def figures(config: Config) -> dict[str, Entry]:
    """results/figures/{name}.svg, .png -> what it is."""
    found: dict[str, Entry] = {}
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
            {"overlap": overlaps(config, config.overlap.pairs), "published": [names.PUBLISHED.format(table="table4")]},
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
    return made_in("paper/figures", found, **statistical(config, "models", "methods"))
