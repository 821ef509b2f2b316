"""What one section of the configuration says of another: every name that is used is declared and can be used there.

Fields that hold names are marked with the section that declares them (`base.Of`); what a mark cannot say is said here.
All of it raises ValueError, which names the key. What needs files, models or the machine is in preflight.py.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import product
from string import Formatter
from typing import Any

from pydantic import BaseModel

from pruning.config import alternatives
from pruning.config.base import Of, known
from pruning.config.experiment import Table
from pruning.core.errors import within
from pruning.core.limits import LEAST_WINDOWS, least_resamples
from pruning.core.names import Column
from pruning.methods import requirements

Config = Any  # schema.Config, which calls `check`

# Folders and files directly below results/, besides the models and the tables of the config.
OTHER_RESULTS = {
    *("data", "figures", "pages", "logs", "benchmarks", "cache", "analysis", "reasoner", "mixture"),
    *("table4", "table5", "ablation", "collapse", "accuracy", "widths", "latency", "readings", "costs", "leakage"),
    *("tradeoff", "index", "experiments"),
}
STAGES = ("score", "sensitivity", "mask", "compact")
NEED_WEIGHTS = ("refit", "rounds", "sensitivity", "gisp", "parameter_taylor")
"""What is measured with weights that the measurement changes, or whose gradients it takes; of a structure likewise."""


def check(config: Config) -> None:
    _results(config)
    tables = config.tables_used
    sections = {name: getattr(config, name) for name in type(config).model_fields} | {"tables": tables}
    used = list(uses(sections))
    methods = set(config.method_names)
    for key, section, names, user in used:
        known(key, names, methods if section == "methods" else getattr(config, section))
        if section == "datasets":
            known(f"{key.removesuffix('dataset')}split", [user.split], config.splits(user.dataset))
    for key, section, names, user in used:
        if section == "methods":
            for name in names:  # a prefix changes what was checked
                with within(f"{key}: {name}: ", kind=ValueError):
                    config.method(name).check()
            calib = getattr(user, "calib", None)
            _gradients(config, key, names, [calib] if calib else getattr(user, "calibrations", None))
    for name in config.models:
        config.lineage(name)
    known("experiment.reference", [config.experiment.reference], config.experiment.methods)
    together = Counter(task for tasks in config.experiment.together for task in tasks)
    if twice := sorted(task for task, count in together.items() if count > 1):
        raise ValueError(f"experiment.together: names {', '.join(twice)} twice; a task is evaluated in one job")
    for name, table in tables.items():
        _table(config, f"tables.{name}", table)
    for name, dataset in config.datasets.items():
        if dataset.kind == "generated" and dataset.content == "word_problems" and not dataset.templates:
            raise ValueError(f"datasets.{name}.templates: word problems are made of these; name one or more")
        if dataset.kind == "generated":
            known(f"datasets.{name}.splits", list(dataset.splits), ("train", "validation", "test"))
    _texts(config)
    _analyses(config)


def uses(value: Any, key: str = "") -> Iterator[tuple[str, str, list[str], Any]]:
    """(key, section that declares its names, the names, what has the key), of all marked fields in a value."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Of):
                    yield f"{key}.{name}", mark.section, list(_names(getattr(value, name))), value
        value = dict(value)
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from uses(entry, f"{key}.{name}" if key else name)


def _names(value: Any) -> Iterator[str]:
    """The names of a field: one, lists of them, or none."""
    if isinstance(value, str):
        yield value
    for entry in value if isinstance(value, list | tuple) else ():
        yield from _names(entry)


def _results(config: Config) -> None:
    """Names that the results of something else bear."""
    if "dense" in config.methods:
        raise ValueError("methods: the name 'dense' is taken by the unpruned model")
    for section in ("models", "tables"):
        for name in getattr(config, section):
            if name in OTHER_RESULTS:
                raise ValueError(f"{section}.{name}: this name is taken by another result; choose another")
    if (name := config.experiment.name) and (name in OTHER_RESULTS or name in config.models or name in config.tables):
        raise ValueError(f"experiment.name: {name!r} is taken by another result; choose another")
    for name in config.models:
        if config.tables.get(name):
            raise ValueError(f"models.{name}: this name is taken by tables.{name}; choose another for one of them")


def _table(config: Config, place: str, table: Table) -> None:
    if table.at is None and table.sparsities is None:
        raise ValueError(f"{place}.sparsities: missing; give per cents, or each method's own under `at`")
    if table.at is not None and table.sparsities is not None:
        raise ValueError(f"{place}.at: stands in the place of sparsities: set `sparsities: null`, or leave `at` out")
    if table.at is not None and (differing := sorted(set(table.at) ^ set(table.methods))):
        raise ValueError(f"{place}.at: needs a sparsity for each of the table's methods and no others: {differing}")
    for method, sparsity in table.pruned:
        if not sparsity and not config.method(method).vocabulary:
            why = "only a method with a `vocabulary` prunes there"
            raise ValueError(f"{place}: {method} at 0% is the dense model: {why}")
    text, _, method = table.reference.partition("/")
    if method:
        known(f"{place}.reference: the calibration of '{table.reference}'", [text], table.calibrations)
        known(f"{place}.reference: the method of '{table.reference}'", [method], table.methods)
    else:
        known(f"{place}.reference", [text], [*table.methods, "untuned", "uncompensated", "dense", *table.calibrations])
    _offloaded(config, place, table)
    alternatives.check(config, place, table)
    for column in table.columns:
        known(f"{place}.tasks", [column.task], config.tasks)
        known(f"{place}.tasks: the recovery of '{column}'", [column.tuning] if column.tuning else [], config.tunings)
        _vocabularies(config, f"{place}.tasks", column, table)
        if table.reference == "untuned" and column.tuning and column.task not in table.tasks:
            raise ValueError(f"{place}.tasks: '{column}' is compared with {column.task!r}: name that as well")


def _offloaded(config: Config, place: str, table: Table) -> None:
    """Methods that change weights while they measure, or take gradients of them, of models that stay on disk."""
    for model in [name for name in table.models if config.models[name].offload]:
        for name in table.methods:
            kinds = {kind for stage in STAGES for kind in requirements.kinds(config.method(name), stage)}
            if unfit := sorted(kind for kind in kinds if kind.endswith(NEED_WEIGHTS)):
                said = f"{name} of {place} needs all weights in memory ({', '.join(unfit)})"
                remedy = "leave it out of the table, or set `offload: false`"
                raise ValueError(f"models.{model}.offload: {said}: {remedy}")


def _vocabularies(config: Config, place: str, column: Column, table: Table) -> None:
    """Models of different tokenizers that are compared by the token."""
    steps = [config.models[name] for model in table.models for name in config.lineage(model)[:-1]]
    pruned = {step.source.method for step in steps}
    if not (cutting := sorted(name for name in {*table.methods, *pruned} if config.method(name).vocabulary)):
        return
    task, said = config.tasks[column.task], f"{cutting[0]} prunes the vocabulary"
    if task.kind == "perplexity" and task.per == "token" and (task.divergence or {*cutting} & {*table.methods}):
        raise ValueError(f"{place}: {column.task} counts per token, and {said}: set tasks.{column.task}.per to `byte`")


def _texts(config: Config) -> None:
    """Texts of calibrations, tunings, perplexities and cases."""
    asking = [task for task, own in config.tasks.items() if own.kind == "lm_eval"]
    for section in ("calibrations", "tunings"):
        for name, user in getattr(config, section).items():
            dataset, completion = config.datasets[user.dataset], getattr(user, "completion", None)
            if user.answers and completion is not None:
                raise ValueError(f"{section}.{name}.completion: the model's own answers stand there: leave it out")
            if user.answers:
                known(f"{section}.{name}.answers", [user.answers], asking)
            else:
                own = dataset.completion if completion is None else completion
                _fields(f"{section}.{name}", dataset.fields, dataset.prompt, own)
    for name, task in config.tasks.items():
        if task.kind == "perplexity":
            known(f"tasks.{name}.answers", [task.answers] if task.answers else [], asking)
            fields = ["prompt", "completion"] if task.answers else config.datasets[task.dataset].fields
            _fields(f"tasks.{name}", fields, task.prompt or "", task.text)
            if task.prompt is None and task.tokens and task.tokens // task.seqlen < LEAST_WINDOWS:
                raise ValueError(
                    f"tasks.{name}.tokens: {task.tokens} are {task.tokens // task.seqlen} windows of seqlen "
                    f"{task.seqlen}, too few to compare perplexities; set {LEAST_WINDOWS * task.seqlen} or more "
                    f"({LEAST_WINDOWS} windows), null for all of the text, or a lower seqlen"
                )
    if cases := config.cases:
        dataset = config.datasets[cases.dataset]
        _fields("cases", dataset.fields, dataset.prompt, cases.target)


def _analyses(config: Config) -> None:
    """Sections that compare what others make."""
    if readings := config.readings:
        if not config.overlap:
            raise ValueError("readings: reads what the section `overlap` compares, which is null; set both or neither")
        if not readings.used:
            raise ValueError("readings.rows: all are null; keep one, or set `readings` to null")
        if other := [each for each in readings.sparsities if each not in config.overlap.sparsities]:
            listed = ", ".join(map(str, config.overlap.sparsities))
            raise ValueError(f"readings.sparsities: {other[0]} is not among overlap.sparsities ({listed})")
    if collapse := config.collapse:
        _accuracy(config, "collapse.task", collapse.task)
        known("collapse.background", collapse.background, config.experiment.methods)
        comparisons = len(set(config.experiment.methods)) - 1
        if collapse.resamples < (least := least_resamples(config.experiment.confidence, comparisons)):
            raise ValueError(
                f"collapse.resamples: {collapse.resamples} are too few for any of {comparisons} comparisons "
                f"to be significant after Holm's adjustment; set {least} or more"
            )
    if ablation := config.ablation:
        _accuracy(config, "ablation.task", ablation.task)
        grid = [f"{objective}-abs-none-uniform" for objective in ablation.objectives]
        _gradients(config, "ablation.objectives", grid)
    if trap := config.trap:
        _gradients(config, "trap.objective", [f"{trap.objective}-abs-none-uniform"])
    if tradeoff := config.tradeoff:
        used = [table for name, table in config.tables_used.items() if name in tradeoff.tables]
        asked = {column.task for table in used for column in table.columns}
        task = [tradeoff.task] if tradeoff.task and used else []
        known("tradeoff.task: of the tasks of tradeoff.tables", task, asked)


def _fields(place: str, declared: Collection[str] | None, *templates: str) -> None:
    """Fields that templates name. declared: those there are, None where that is not known."""
    for template in templates:
        try:
            fields = [field for _, *field in Formatter().parse(template) if field[0] is not None]
            if any(form or how for _, form, how in fields):
                raise ValueError("fields are put in as they are, without `:` or `!`")
        except ValueError as error:
            raise ValueError(f"{place}: the text {template!r}: {error}; write a brace of the text twice") from None
        if declared:
            known(f"{place}: the text {template!r} needs a field", [name for name, *_ in fields], declared)


def _accuracy(config: Config, place: str, task: str) -> None:
    """A task whose outcomes are right or wrong, every model being asked all of it."""
    if config.tasks[task].kind != "lm_eval":
        accuracies = [name for name, other in config.tasks.items() if other.kind == "lm_eval"]
        raise ValueError(
            f"{place}: {task!r} is a perplexity, an accuracy task (kind: lm_eval) is needed; declared: "
            f"{', '.join(sorted(accuracies)) or 'none'}"
        )
    if config.tasks[task].stop_early:
        raise ValueError(
            f"{place}: evaluation in {task!r} stops early, and all items are needed here: name a task without "
            f"stop_early (one of the same `definition` shares its answers)"
        )


def _gradients(config: Config, place: str, methods: list[str], calibrations: list[str] | None = None) -> None:
    """Every gradient that a method asks for is measured by the calibrations that it is used with: by default the first
    of the experiment, which the analyses take."""
    for calib, name in product(calibrations or config.experiment.calibrations[:1], methods):
        objective = config.method(name).objective
        if objective and objective not in config.calibrations[calib].objectives:
            remedy = f"add it to calibrations.{calib}.objectives"
            raise ValueError(f"{place}: {name} needs the gradient of {objective!r}: {remedy}")
