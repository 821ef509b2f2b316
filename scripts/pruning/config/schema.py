"""The configuration: what can be set, what it means, and how what is left out is filled in.

Each section has a file of its own in this folder; references.py checks what one says of another. `config/schema.json`
is written from here (`make config`). `config/config.yaml` is the default: other YAMLs hold only what differs and are
stacked on top with `--configfile`. Unknown keys are errors.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal

from pruning.config import analyses, references
from pruning.config.base import Alias, Positive, Strict
from pruning.config.budgets import Budget, LatencyTable
from pruning.config.calibration import Calibration, Tuning
from pruning.config.datasets import Dataset, HubFiles, LocalFiles
from pruning.config.experiment import Experiment, Table
from pruning.config.methods import CHOICES, GRID, PREFIXES, Method
from pruning.config.models import Model
from pruning.config.reasoner import Reasoner
from pruning.config.tasks import Task
from pruning.core import names


class Storage(Strict):
    """Which results are kept."""

    compact: Literal["keep", "temp", "memory"] = "keep"
    """`temp` deletes a compact model after its last evaluation. `memory` writes none to evaluate it: the dense one is
    loaded and cut. Compact models are then made for recovery, for ridge, `pad` and `vocabulary`, and where one asks for
    them."""
    gguf: Literal["keep", "temp"] = "temp"
    """`temp` deletes the GGUF files of tables with `quantised` or `siblings` after their last use."""
    second_moments: Literal["keep", "temp"] = "temp"
    """`temp` deletes the second moments after the last ridge compensation (2.9 GB per layer of Qwen2.5-7B)."""


class Config(Strict):
    data_folder: str | None = None
    """Folder of local copies of datasets; without it they come from the hub."""
    models: dict[Alias, Model]
    """Dense models, and compact models to prune further."""
    datasets: dict[Alias, Dataset]
    """Datasets for calibration, training and evaluation."""
    calibrations: dict[Alias, Calibration]
    """Calibration data, and what is measured on it."""
    methods: dict[Alias, Method]
    """Pruning methods: a score for each neuron, an allocation over the layers, a compensation for what is removed."""
    tasks: dict[Alias, Task]
    """What models are evaluated on: tasks of lm-evaluation-harness, and texts whose perplexity is measured."""
    tunings: dict[Alias, Tuning] = {}
    """Recoveries of compact models."""
    budgets: dict[Alias, Budget] = {}
    """What a model may cost: results/{model}/budget/{calib}/{method}/{budget}.json says at which sparsity it does."""
    latency_table: LatencyTable = LatencyTable()
    """For methods with `allocate_options: {per: prefill}`, or `decode` or `flops`: how that is measured, in
    results/{model}/latency_table.parquet."""
    experiment: Experiment
    tables: dict[Alias, Table | None]
    """Tables of the experiment, as results/{table}.csv, .md and .tex; null leaves one out. The sections from
    `overlap` to `latency` can be null as well."""
    overlap: analyses.Overlap | None = None
    readings: analyses.Interpretations | None = None
    spectrum: analyses.Spectrum | None = None
    trap: analyses.Trap | None = None
    cases: analyses.Cases | None = None
    collapse: analyses.Collapse | None = None
    ablation: analyses.Ablation | None = None
    tradeoff: analyses.Tradeoff | None = None
    latency: analyses.Latency | None = None
    llama_cpp: analyses.LlamaCpp = analyses.LlamaCpp()
    storage: Storage = Storage()
    ask_above: Positive | None = None
    """A run of more jobs than this starts only with `--config confirm=true`; see `make estimate`. Null: any does."""
    confirm: bool = False
    """Allow more than `ask_above` jobs."""
    custom_rules: list[str] = []
    """Your own .smk files, included last: they see CONFIG, names and everything else that rules/common.smk offers."""
    reasoner: Reasoner | None = None

    def check(self) -> None:
        references.check(self)

    @property
    def places(self) -> names.Places:
        return names.Places(self.experiment.name)

    def folder(self, model: str) -> Path:
        """Where a dense model lies, or will lie."""
        source = self.models[model].source
        return Path(source.path) if source.kind == "local" else Path(names.BASE.format(model=model)).parent

    def definition(self, task: str) -> Path:
        """The YAML of one of lm-eval's tasks."""
        file = f"config/tasks/{self.tasks[task].definition or task}.yaml"
        return Path(file if Path(file).is_file() else names.own(file))

    def table(self, name: str) -> Table:
        """A table with what it leaves to the experiment filled in."""
        table, keys = self.tables[name], ("models", "calibrations", "methods", "reference")
        return table.model_copy(
            update={key: getattr(self.experiment, key) for key in keys if getattr(table, key) is None}
        )

    @property
    def tables_used(self) -> dict[str, Table]:
        """All tables but those that are null, filled in."""
        return {name: self.table(name) for name, table in self.tables.items() if table}

    @property
    def models_used(self) -> list[str]:
        """Models of the experiment and of the tables, and those that they are made of."""
        tables = self.tables_used.values()
        used = [*self.experiment.models, *(model for table in tables for model in [*table.models, *table.siblings])]
        return list(dict.fromkeys([*used, *(name for model in used for name in self.lineage(model))]))

    def lineage(self, model: str) -> list[str]:
        """The model and what it was pruned from, iteration by iteration; the last one is whole. Raises ValueError for
        one that is made of itself."""
        found = [model]
        while (source := self.models[found[-1]].source).kind == "pruned":
            found.append(source.model)
            if source.model in found[:-1]:
                raise ValueError(f"models.{model}.source.model: {' is made of '.join(found)}: name another one")
        return found

    @property
    def method_names(self) -> list[str]:
        """Every name that `method` resolves."""
        presets = [*self.methods, *GRID]
        return [f"{prefix}{name}" for prefix in ("", *(f"{own}_" for own in PREFIXES)) for name in presets]

    @property
    def method_pattern(self) -> str:
        """A regular expression of the same names: thousands of alternatives one by one took most of planning's time."""
        presets = "|".join(sorted(map(re.escape, self.methods), key=len, reverse=True))
        combined = "-".join(f"(?:{'|'.join(map(re.escape, names))})" for names in CHOICES)
        return f"(?:(?:{'|'.join(PREFIXES)})_)?(?:{combined}|{presets})"

    def files(self, dataset: str) -> HubFiles | LocalFiles:
        """The source that a published dataset is taken from."""
        own = self.datasets[dataset]
        return own.local if own.local and (self.data_folder or not own.hub) else own.hub

    def splits(self, dataset: str) -> dict[str, Any]:
        return (own if (own := self.datasets[dataset]).kind == "generated" else self.files(dataset)).splits

    def local_path(self, dataset: str, split: str) -> Path | None:
        """The JSON Lines file of a split, where the dataset is read from disk."""
        if self.datasets[dataset].kind == "generated" or not isinstance(files := self.files(dataset), LocalFiles):
            return None
        return Path(self.data_folder or ".") / files.place(split)[0]

    def presets(self, names: list[str]) -> dict[str, str]:
        """The preset that a recombination is the same as, where there is one (normalisation cannot matter under
        uniform allocation)."""

        def choices_of(method: Method) -> str:
            same = {"normalise": "none"} if method.allocate == "uniform" else {}
            return json.dumps({**method.model_dump(), **same}, sort_keys=True)

        declared = {choices_of(method): name for name, method in reversed(self.methods.items())}
        found = {name: declared.get(choices_of(self.method(name))) for name in names}
        return {name: preset for name, preset in found.items() if preset}

    def cut_as(self, name: str) -> str:
        """The method whose scores, masks and refits are this one's: two that differ in `vocabulary` and `export` alone,
        which come last, differ in their compact models alone."""

        def cut(method: Method) -> Method:
            return method.model_copy(update={"vocabulary": None, "export": "exact"})

        given = self.method(name)
        same = [other for other, own in self.methods.items() if cut(own) == cut(given) != given]
        whole = [other for other in same if self.methods[other] == cut(given)]
        return [*whole, *same, name][0]

    def method(self, name: str) -> Method:
        """A preset, or a recombination by name.

        `shuffle_<m>`: <m> with its scores shuffled within each layer (seed 0). `ridge_<m>`, `sequential_<m>`,
        `corrective_<m>`, `attention_<m>`, `block_<m>`: <m> with another compensation (PREFIXES).
        `{objective}-{reduction}-{normalise}-{allocate}`: a utility score (scores/utility.py), such as
        `energy-share-none-uniform`, which is RKU."""
        if name in self.methods:
            return self.methods[name]
        if name in GRID:
            objective, reduction, normalise, allocate = name.split("-")
            options = {"objective": objective, "reduction": reduction}
            return Method(score="utility", options=options, normalise=normalise, allocate=allocate)
        prefix, rest = name.split("_", 1)
        return self.method(rest).prefixed(prefix)
