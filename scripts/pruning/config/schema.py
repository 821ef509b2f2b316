"""The configuration: what can be set, what it means, and the embedded default.

`config/config.yaml` and `config/schema.json` are written from here (`make config`). Other YAMLs hold only what
differs and are stacked on top with `--configfile`. Unknown keys are errors.
"""

import json
import re
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from pruning.calibration.objectives import OBJECTIVES
from pruning.core.errors import InputError
from pruning.core.limits import LEAST_WINDOWS, least_resamples
from pruning.methods.scores.utility import REDUCTIONS
from pruning.models import sources

LIBRARY = Path(__file__).parents[1]
Alias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
Percent = Annotated[int, Field(gt=0, lt=100)]
Revision = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}|main)$")]
Positive = Annotated[int, Field(gt=0)]
NORMALISATIONS = ("none", "layer_sum", "layer_mean", "layer_l2", "zscore")
# Results that are not `tables`, though they lie beside them.
OTHER_RESULTS = (
    *("table4", "table5", "ablation", "collapse", "accuracy", "widths", "latency", "readings", "costs", "leakage"),
)


def choices(folder: str) -> list[str]:
    """The plug-ins of a library folder: one file each."""
    return sorted(path.stem for path in (LIBRARY / folder).glob("*.py") if path.stem != "__init__")


# Names of the recombinations of a utility score; the ablation is made of them.
GRID = {"-".join(parts) for parts in product(OBJECTIVES, REDUCTIONS, NORMALISATIONS, choices("methods/allocation"))}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class LocalSource(Strict):
    kind: Literal["local"]
    path: str
    """Hugging Face model directory with safetensors."""


class HubSource(Strict):
    kind: Literal["hub"]
    repo: str
    revision: Revision
    """Commit of the repository (40 hex digits); `main` is accepted but does not reproduce."""


class GgufSource(Strict):
    kind: Literal["gguf"]
    path: str
    """GGUF file, which is dequantised; inside `package` where one is given."""
    package: str | None = None
    """Installed Python package that ships the file."""
    version: str | None = None
    """Version that `package` must have; any where null."""
    parts: Positive | None = None
    """The file comes in so many parts, which are joined in order: `{part}` in `path` or `package` is 1, 2, …
    (`{part:02}` is 01, 02, …)."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Checksum of the whole file; not checked where null."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the dequantised weights are stored in."""

    @model_validator(mode="after")
    def _templates(self) -> "GgufSource":
        if self.version and not self.package:
            raise ValueError("`version` is the version of `package`: give one, or leave `version` out")
        names = [name for text in (self.path, self.package or "") for name in fields_of(text)] if self.parts else []
        if self.parts and set(names) != {"part"}:
            raise ValueError("`parts` needs {part} in `path` or `package`, and no other name in braces")
        sources.locations(self.model_dump())  # raises ValueError where the format after a colon is broken
        return self


class Model(Strict):
    source: Annotated[LocalSource | HubSource | GgufSource, Field(discriminator="kind")]
    """Where the dense model comes from."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Weights and activations at calibration and evaluation."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs a calibration or evaluation job takes; 0 runs on the CPU."""
    threads: Positive = 1
    """CPU threads of such a job (fewer where --cores is less); another number rounds differently."""
    memory_gb: Positive = 2
    """Memory a calibration or evaluation job takes (CPU side); local runs start no more jobs than fit."""
    note: str | None = None
    """What a reader of the tables must know about this model."""


class GeneratedDataset(Strict):
    kind: Literal["generated"]
    content: Literal["word_problems", "arithmetic"] = "word_problems"
    """Worked word problems, or single steps of arithmetic after three worked ones."""
    templates: list[int] = []
    """gsm_symbolic template numbers of reasoning-gym."""
    difficulty: Annotated[float, Field(gt=0)] = 1.0
    """Above 1 the templates draw from wider ranges of numbers."""
    with_options: bool = False
    """Add five worked answers to choose from, `solutions`, and the right one's number, `gold`."""
    seed: int = 0
    splits: dict[Alias, Positive]
    """Split (train, validation, test) and how many problems; splits never share a number tuple."""
    fields: list[str]
    """Columns of the parquet."""
    prompt: str = "{question}"
    """Calibration text before the answer; fields in braces."""
    completion: str = ""
    """Calibration text of the answer."""


class LocalFiles(Strict):
    path: str
    """JSON Lines file below `data_folder`; `{split}` stands for the source's name of the split."""
    splits: dict[Alias, str]
    """Split and the name it has in the source."""
    adapter: str | None = None
    """File of scripts/pruning/data/adapters that turns the source's records into `fields`."""


class HubFiles(Strict):
    repo: str
    name: str | None = None
    """The dataset's configuration on the hub."""
    data_files: dict[str, str] | None = None
    """Split on the hub and the file to read it from, where the whole repository would be too much to download."""
    revision: Revision
    splits: dict[Alias, str]
    """Split and its expression on the hub (slices such as `validation[:1000]` work)."""
    adapter: str | None = None


class PublishedDataset(Strict):
    kind: Literal["published"]
    fields: list[str]
    """Columns of the parquet, those of the hub's copy of the dataset, which lm-eval's tasks read."""
    prompt: str = "{text}"
    """Calibration text before the answer; fields in braces."""
    completion: str = ""
    """Calibration text of the answer."""
    hub: HubFiles | None = None
    """Where it is fetched from, unless `data_folder` is set and `local` given."""
    local: LocalFiles | None = None
    """Where it is read from when `data_folder` is set, or when there is no `hub`."""

    @model_validator(mode="after")
    def _somewhere(self) -> "PublishedDataset":
        if not self.hub and not self.local:
            raise ValueError("needs `hub` or `local`")
        return self


class Calibration(Strict):
    dataset: Alias
    split: Alias = "train"
    samples: Positive = 256
    """Token sequences."""
    sequence_length: Annotated[int, Field(ge=2)] = 256
    """Tokens a sequence; longer documents are cut."""
    packing: Literal["concat", "document"] = "document"
    """`concat`: documents joined and cut into full sequences; `document`: one sequence each."""
    seed: int = 0
    """Order of the documents and choice of the sampled tokens."""
    objectives: list[Literal[tuple(OBJECTIVES)]] = ["energy", "ce"]
    """Whose gradients are measured, a backward pass each: energy, energy_post, energy_last, energy_rest, ce."""
    token_mask: Literal["all", "answer"] = "all"
    """Tokens the objectives average over."""
    micro_batch: Positive = 8
    """Sequences a forward pass; part of the result's identity, unlike memory."""
    shards: Positive = 1
    """Separate jobs, one GPU each; merging is exact."""
    gradient_checkpointing: bool = False
    """Less memory, about one more forward pass an objective."""
    sampled_tokens: Positive = 2048
    """Tokens whose activations are kept for the spectrum."""
    analysed_layer: int | None = None
    """Layer whose activations are kept; by default the last but one (26 of 28 on Qwen2.5-7B)."""


class Method(Strict):
    score: str
    """File of scripts/pruning/methods/scores."""
    options: dict[str, Any] = {}
    """Keyword arguments of the score."""
    normalise: Literal["none", "layer_sum", "layer_mean", "layer_l2", "zscore"] = "none"
    """Within a layer, before layers compete."""
    allocate: str = "uniform"
    """File of scripts/pruning/methods/allocation: neurons each layer keeps."""
    allocate_options: dict[str, Any] = {}
    """Keyword arguments of the allocation."""
    compensate: str = "none"
    """`none` or a file of scripts/pruning/methods/compensation."""
    min_keep: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Least fraction of a layer that stays, at least one neuron."""
    round_to: Positive = 1
    """Widths are multiples of this (128 suits GPUs)."""
    export: Literal["exact", "pad"] = "exact"
    """`pad` zero-pads to the widest layer, so that stock tools load non-uniform widths."""
    shuffle: int | None = None
    """Seed to shuffle scores within each layer: the same widths, other neurons."""

    @model_validator(mode="after")
    def _known(self) -> "Method":
        for key, folder, extra in (
            ("score", "methods/scores", []),
            ("allocate", "methods/allocation", []),
            ("compensate", "methods/compensation", ["none"]),
        ):
            known = choices(folder) + extra
            if getattr(self, key) not in known:
                raise ValueError(f"unknown {key} {getattr(self, key)!r}; known: {', '.join(known)}")
        return self


class LmEvalTask(Strict):
    kind: Literal["lm_eval"]
    title: str
    """Name in the tables."""
    metrics: list[str]
    """lm-eval's names, with the filter where there is one: `acc`, `exact_match,strict-match`."""
    definition: Alias | None = None
    """File of config/tasks; null: the one named as the task."""
    limit: Positive | None = None
    """At most this many items, from `first` on."""
    first: Annotated[int, Field(ge=0)] = 0
    """Number of the first item that is asked."""
    chance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Accuracy of guessing, as a fraction: what a collapsed model is left with."""
    batch_size: Positive = 32
    """Halved when memory runs out."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Worked examples before the question; null: as many as the task says."""
    shared_examples: bool = False
    """The same examples, the first of their split, before every question, so that they are computed once; else lm-eval
    draws some for each."""
    chat_template: bool = False
    """Ask in the tokenizer's chat format."""
    max_gen_toks: Positive | None = None
    """Most tokens of a generated answer; null: as many as the task says."""


class PerplexityTask(Strict):
    kind: Literal["perplexity"]
    title: str
    dataset: Alias
    split: Alias = "test"
    text: str = "{text}"
    """Text of a record; fields in braces."""
    joiner: str = "\n\n"
    """Between records."""
    seqlen: Annotated[int, Field(ge=2)] = 2048
    """Window; perplexities of different windows do not compare."""
    tokens: Positive | None = None
    """At most this many tokens, from the first on: 40 windows or more, for the tests to tell something."""
    batch_size: Positive = 4


class Tuning(Strict):
    """LoRA recovery. The paper names only the 150 steps: everything else here is our choice."""

    dataset: Alias
    split: Alias = "train"
    steps: Positive = 150
    """Optimiser steps (the paper's 150)."""
    rank: Positive = 8
    """LoRA rank; ours."""
    alpha: Positive = 16
    """LoRA scaling; ours."""
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    """Linear modules that get adapters; ours."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """AdamW, constant; ours."""
    batch_size: Positive = 16
    """Documents a step; ours."""
    sequence_length: Annotated[int, Field(ge=2)] = 512
    """Tokens a document; longer ones are cut; ours."""
    seed: int = 0
    """Initial adapters and order of the documents."""
    checkpoint_every: Positive = 25
    """Steps after which a killed training can go on."""
    note: str | None = None
    """What a reader of the tables must know about this recovery."""


class Experiment(Strict):
    """What the tables and figures compare, unless one says otherwise."""

    models: list[Alias]
    calibrations: list[Alias]
    """Tables have a block for each; analyses and figures take the first."""
    methods: list[Alias]
    """Presets, or `shuffle_<m>`, `ridge_<m>`, or `{objective}-{reduction}-{normalise}-{allocate}` (docs/methods.md)."""
    reference: Alias = "wanda"
    """Method that the others are compared with."""
    sparsity: Percent = 40
    """Of the analyses at one sparsity (Figures 1 and 2, Table 5, the ablation)."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    resamples: Positive = 10_000
    """Bootstrap resamples."""
    seed: int = 0


class Table(Strict):
    title: str
    tasks: list[str]
    """Columns: a task, or `task@tuning`, the task after a LoRA recovery."""
    sparsities: list[Percent]
    """Per cent of FFN neurons removed."""
    models: list[Alias] | None = None
    """Here and below: the experiment's, where null."""
    calibrations: list[Alias] | None = None
    methods: list[Alias] | None = None
    reference: Alias | None = None
    """A method; or `untuned`, the same model before recovery; or `uncompensated`, <m> for `ridge_<m>`."""
    layout: Literal["wide", "long"] = "wide"
    """`wide`: a column group a sparsity; `long`: a row a sparsity."""
    paper: Literal["table1", "table2", "table3", "table6", "table7"] | None = None
    """Table of the paper whose numbers stand beside the measured ones."""


class Overlap(Strict):
    """Table 4 and Figure 3."""

    pairs: list[tuple[Alias, Alias]]
    """Methods whose masks are compared; the heat map shows the first."""
    sparsities: list[Percent] = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    layer: int | None = None
    """Layer with a row of its own; by default the last but one (26 of 28)."""


class Reading(Strict):
    """How the paper's methods may have been computed: one consistent choice for each."""

    title: str
    """In words, for the table."""
    rku: Alias
    """Methods: presets, or `{objective}-{reduction}-{normalise}-{allocate}`."""
    agf: Alias
    taylor: Alias
    wanda: Alias = "wanda"


class Readings(Strict):
    """Which way of computing RKU, AGF and Taylor-FO fits the paper's own numbers."""

    rows: dict[Alias, Reading | None]
    """Null leaves one out."""
    sparsities: list[Percent] = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    """Among those of `overlap`, whose comparisons of masks are read."""
    layer: int | None = None
    """Layer that stands for the paper's layer 26 of 28; by default the last but one."""

    @property
    def used(self) -> dict[str, Reading]:
        return {name: reading for name, reading in self.rows.items() if reading}


class Spectrum(Strict):
    """Figure 1."""

    draws: Positive = 20
    """Random sets of neurons that the dense model's spectrum at equal width is averaged over."""


class Trap(Strict):
    """Figure 2: which neurons count as trapped (active, no gradient) and as spikes (gradient, not active)."""

    high: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Quantile of a layer above which a neuron's activation or gradient is high."""
    low: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Quantile below which it is low."""
    objective: Literal[tuple(OBJECTIVES)] = "energy"
    """Whose gradient is the kinetic one."""

    @model_validator(mode="after")
    def _apart(self) -> "Trap":
        if self.low >= self.high:
            raise ValueError(f"trap.low: {self.low} is not below trap.high, {self.high}")
        return self


class Cases(Strict):
    """Table 5."""

    dataset: Alias
    split: Alias = "test"
    items: list[int]
    """Row numbers of the split, from 0."""
    target: str
    """Text that holds the right answer; fields in braces."""
    answer_pattern: str
    """Regular expression whose first group is an answer."""
    until: list[str] = []
    """The answer is looked for before the first of these; the text goes on."""
    tokens: Positive = 300
    excerpt: Positive = 600
    """Characters that the table shows."""


class Collapse(Strict):
    """Accuracy against sparsity, with the sparsity at which it has fallen halfway to chance."""

    task: Alias
    sparsities: list[Percent] = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    resamples: Positive = 2000
    """Bootstrap resamples over items of the fitted collapse points, and of their differences from the reference's."""


class Ablation(Strict):
    """RKU's choices, one by one: every combination at the experiment's sparsity."""

    task: Alias
    objectives: list[Literal[tuple(OBJECTIVES)]] = ["energy", "energy_post", "ce"]
    reductions: list[str] = ["net_abs", "abs", "share", "sq", "grad_sq"]
    normalisations: list[str] = ["none", "layer_sum"]
    """With uniform allocation no normalisation changes a mask: it is left out there."""
    allocations: list[str] = ["uniform", "global"]


class Latency(Strict):
    """Speed of dense and compact shapes with random weights."""

    shapes: dict[Alias, dict[str, Any] | None] = {}
    """Name -> a whole transformers config (with `model_type`), null for none; the experiment's models need none."""
    sparsities: list[Percent] = [30, 50]
    """Uniform widths that are measured for each shape."""
    methods: list[Alias] = []
    """Methods whose widths are measured for the experiment's models, at `sparsities`."""
    prompt_tokens: Positive = 2048
    """Prefill (the paper's 2048)."""
    decode_tokens: Positive = 32
    rounds: Positive = 15
    """Every round measures every shape once, in changing order."""
    warmup: Positive = 2
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    gpus: Annotated[int, Field(ge=0)] = 0
    memory_gb: Positive = 4


class Reasoner(Strict):
    """Recipe of the embedded model; training it is a target of its own and no part of the table."""

    seed: int
    templates: list[int]
    held_out_templates: list[int]
    drills: Annotated[float, Field(ge=0, le=1)]
    """Share of the documents that are bare arithmetic."""
    option_share: Annotated[float, Field(ge=0, le=1)]
    """Share of the problems that come with five options."""
    vocabulary: Positive
    shape: dict[str, int]
    context: Positive
    rows: Positive
    length: Positive
    steps: Positive
    learning_rate: float
    weight_decay: float
    test_size: Positive


class Storage(Strict):
    compact: Literal["keep", "temp"] = "keep"
    """`temp` deletes a compact model after its last evaluation."""
    second_moments: Literal["keep", "temp"] = "temp"
    """`temp` deletes the second moments after the last ridge compensation (1.4 GB a layer on a 7B)."""


Dataset = Annotated[GeneratedDataset | PublishedDataset, Field(discriminator="kind")]
Task = Annotated[LmEvalTask | PerplexityTask, Field(discriminator="kind")]


class Config(Strict):
    data_folder: str | None = None
    """Folder of local copies of datasets; without it they come from the hub."""
    models: dict[Alias, Model]
    datasets: dict[Alias, Dataset]
    calibrations: dict[Alias, Calibration]
    methods: dict[Alias, Method]
    tasks: dict[Alias, Task]
    tunings: dict[Alias, Tuning] = {}
    experiment: Experiment
    tables: dict[Alias, Table | None]
    """results/{table}.csv, .md and .tex; null leaves one out. Here and below."""
    overlap: Overlap | None = None
    readings: Readings | None = None
    spectrum: Spectrum | None = None
    trap: Trap | None = None
    cases: Cases | None = None
    collapse: Collapse | None = None
    ablation: Ablation | None = None
    latency: Latency | None = None
    storage: Storage = Storage()
    reasoner: Reasoner | None = None

    @model_validator(mode="after")
    def _references(self) -> "Config":
        """Every alias that is used is declared."""
        if "dense" in self.methods:
            raise ValueError("methods: the name 'dense' is taken by the unpruned model")
        e = self.experiment
        known("experiment.methods", e.methods, self.method_names)
        known("experiment.models", e.models, self.models)
        known("experiment.calibrations", e.calibrations, self.calibrations)
        known("experiment.reference", [e.reference], e.methods)
        self._check_objectives("experiment.methods", e.calibrations, e.methods)
        for name in self.tables:
            if name in OTHER_RESULTS:
                raise ValueError(f"tables.{name}: this name is taken by another result; choose another")
            if self.tables[name]:
                self._table_references(name)
        if self.overlap:
            known("overlap.pairs", (paired := [m for pair in self.overlap.pairs for m in pair]), self.method_names)
            self._check_objectives("overlap.pairs", e.calibrations[:1], paired)
        if self.readings:
            self._check_readings()
        if self.collapse:
            known("collapse.task", [self.collapse.task], self.tasks)
            comparisons = len(set(e.methods)) - 1
            if self.collapse.resamples < (least := least_resamples(e.confidence, comparisons)):
                raise ValueError(
                    f"collapse.resamples: {self.collapse.resamples} are too few for any of {comparisons} comparisons "
                    f"to be significant after Holm's adjustment; set {least} or more"
                )
        if self.ablation:
            known("ablation.task", [self.ablation.task], self.tasks)
            known("ablation.reductions", self.ablation.reductions, REDUCTIONS)
            known("ablation.normalisations", self.ablation.normalisations, NORMALISATIONS)
            known("ablation.allocations", self.ablation.allocations, choices("methods/allocation"))
            grid = [f"{objective}-abs-none-uniform" for objective in self.ablation.objectives]
            self._check_objectives("ablation.objectives", e.calibrations[:1], grid)
        if self.trap:
            self._check_objectives("trap.objective", e.calibrations[:1], [f"{self.trap.objective}-abs-none-uniform"])
        if self.latency:
            known("latency.methods", self.latency.methods, self.method_names)
            self._check_objectives("latency.methods", e.calibrations[:1], self.latency.methods)
        for name, calibration in self.calibrations.items():
            dataset = self.datasets.get(calibration.dataset)
            self._text(f"calibrations.{name}", calibration, [dataset.prompt, dataset.completion] if dataset else [])
        for name, tuning in self.tunings.items():
            dataset = self.datasets.get(tuning.dataset)
            self._text(f"tunings.{name}", tuning, [dataset.prompt, dataset.completion] if dataset else [])
        for name, task in self.tasks.items():
            if task.kind == "perplexity":
                self._text(f"tasks.{name}", task, [task.text])
                if task.tokens and task.tokens // task.seqlen < LEAST_WINDOWS:
                    raise ValueError(
                        f"tasks.{name}.tokens: {task.tokens} are {task.tokens // task.seqlen} windows of seqlen "
                        f"{task.seqlen}, too few to compare perplexities; set {LEAST_WINDOWS * task.seqlen} or more "
                        f"({LEAST_WINDOWS} windows), null for all of the text, or a lower seqlen"
                    )
        if self.cases:
            self._text("cases", self.cases, [self.datasets[self.cases.dataset].prompt, self.cases.target])
        for name, dataset in self.datasets.items():
            if dataset.kind == "published" and (adapter := self.files(name).adapter):
                known(f"datasets.{name}.adapter", [adapter], choices("data/adapters"))
        return self

    def _check_readings(self) -> None:
        if not self.overlap:
            raise ValueError("readings: reads what the section `overlap` compares, which is null; set both or neither")
        if not self.readings.used:
            raise ValueError("readings.rows: all are null; keep one, or set `readings` to null")
        for sparsity in self.readings.sparsities:
            if sparsity not in self.overlap.sparsities:
                listed = ", ".join(map(str, self.overlap.sparsities))
                raise ValueError(f"readings.sparsities: {sparsity} is not among overlap.sparsities ({listed})")
        for name, reading in self.readings.used.items():
            place = f"readings.rows.{name}"
            for role in ("rku", "agf", "taylor", "wanda"):
                known(f"{place}.{role}", [getattr(reading, role)], self.method_names)
                self._check_objectives(f"{place}.{role}", self.experiment.calibrations[:1], [getattr(reading, role)])

    def _text(self, place: str, user: Any, templates: list[str]) -> None:
        known(f"{place}.dataset", [user.dataset], self.datasets)
        known(f"{place}.split", [user.split], self.splits(user.dataset))
        for template in templates:
            fields = self.datasets[user.dataset].fields
            known(f"{place}: the text {template!r} needs a field", fields_of(template), fields)

    def _check_objectives(self, place: str, calibrations: list[str], methods: list[str]) -> None:
        """Every gradient that a method asks for is measured by the calibrations that it is used with."""
        for calib, name in product(calibrations, methods):
            objective = self.objective(name)
            if objective and objective not in self.calibrations[calib].objectives:
                raise ValueError(
                    f"{place}: {name} needs the gradient of {objective!r}: add it to calibrations.{calib}.objectives"
                )

    def objective(self, name: str) -> str | None:
        """Whose gradient a method is made of; None for one without."""
        method = self.method(name)
        return method.options.get("objective", "energy") if method.score == "utility" else None

    def _table_references(self, name: str) -> None:
        place, table = f"tables.{name}", self.table(name)
        known(f"{place}.models", table.models, self.models)
        known(f"{place}.calibrations", table.calibrations, self.calibrations)
        known(f"{place}.methods", table.methods, self.method_names)
        self._check_objectives(f"{place}.methods", table.calibrations, table.methods)
        known(f"{place}.reference", [table.reference], [*table.methods, "untuned", "uncompensated"])
        for column in table.tasks:
            task, _, tuning = column.partition("@")
            known(f"{place}.tasks", [task], self.tasks)
            known(f"{place}.tasks: the recovery of {column!r}", [tuning] if tuning else [], self.tunings)

    def definition(self, task: str) -> Path:
        """The YAML of one of lm-eval's tasks."""
        return Path("config/tasks") / f"{self.tasks[task].definition or task}.yaml"

    def table(self, name: str) -> Table:
        """A table with what it leaves to the experiment filled in."""
        table, own = self.tables[name], {}
        for key in ("models", "calibrations", "methods", "reference"):
            if getattr(table, key) is None:
                own[key] = getattr(self.experiment, key)
        return table.model_copy(update=own)

    @property
    def models_used(self) -> list[str]:
        """Models of the experiment and of the tables."""
        tables = [self.table(name) for name, table in self.tables.items() if table]
        return list(dict.fromkeys([*self.experiment.models, *(model for table in tables for model in table.models)]))

    @property
    def method_names(self) -> list[str]:
        """Every name that `method` resolves."""
        presets = [*self.methods, *GRID]
        return [f"{prefix}{name}" for prefix in ("", "shuffle_", "ridge_") for name in presets]

    def files(self, dataset: str) -> HubFiles | LocalFiles:
        """The source that a published dataset is taken from."""
        d = self.datasets[dataset]
        return d.local if d.local and (self.data_folder or not d.hub) else d.hub

    def splits(self, dataset: str) -> dict[str, Any]:
        d = self.datasets[dataset]
        return d.splits if d.kind == "generated" else self.files(dataset).splits

    def local_path(self, dataset: str, split: str) -> Path | None:
        """The JSON Lines file of a split, where the dataset is read from disk."""
        if self.datasets[dataset].kind == "generated" or not isinstance(files := self.files(dataset), LocalFiles):
            return None
        return Path(self.data_folder or ".") / files.path.replace("{split}", files.splits[split])

    def presets(self, names: list[str]) -> dict[str, str]:
        """The preset that a recombination is the same as, where there is one (normalisation cannot matter under
        uniform allocation)."""

        def choices_of(method: Method) -> dict[str, Any]:
            same = {"normalise": "none"} if method.allocate == "uniform" else {}
            return {**method.model_dump(), **same}

        declared = {name: choices_of(method) for name, method in self.methods.items()}
        found = {
            name: next((p for p, m in declared.items() if m == choices_of(self.method(name))), "") for name in names
        }
        return {name: preset for name, preset in found.items() if preset}

    def method(self, name: str) -> Method:
        """A preset, or a recombination by name.

        `shuffle_<m>`: <m> with its scores shuffled within each layer (seed 0). `ridge_<m>`: <m> with `compensate:
        ridge`. `{objective}-{reduction}-{normalise}-{allocate}`: a utility score (scores/utility.py), such as
        `energy-share-none-uniform`, which is RKU."""
        if name in self.methods:
            return self.methods[name]
        if name in GRID:
            objective, reduction, normalise, allocate = name.split("-")
            options = {"objective": objective, "reduction": reduction}
            return Method(score="utility", options=options, normalise=normalise, allocate=allocate)
        prefix, rest = name.split("_", 1)
        return self.method(rest).model_copy(update={"shuffle": 0} if prefix == "shuffle" else {"compensate": "ridge"})


def fields_of(template: str) -> list[str]:
    """Names in braces of a text template."""
    return [name for _, name, _, _ in Formatter().parse(template) if name]


def known(key: str, names: list[str], declared: Any) -> None:
    """Raises ValueError for a name that is not declared, with the nearest ones where there are too many to list."""
    for name in names:
        if name not in declared:
            many = len(declared) > 30
            listed = get_close_matches(name, list(declared), cutoff=0.5) if many else sorted(declared)
            raise ValueError(
                f"{key}: unknown name {name!r}; {'nearest' if many else 'declared'}: {', '.join(listed) or 'none'}"
            )


def validate(raw: dict[str, Any]) -> Config:
    """The configuration as stacked by Snakemake. Raises InputError with one line a mistake, naming the key."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = []
        for mistake in error.errors():
            key = ".".join(str(part) for part in mistake["loc"] if part not in {"lm_eval", "gguf", "function-after"})
            given = mistake["input"]
            shown = "" if isinstance(given, (dict, list)) else f" (given: {given!r})"
            message = re.sub(r"^Value error, ", "", mistake["msg"])
            if "[a-z0-9_-]+" in message:
                message = "names may hold only a-z, 0-9, _ and -"
            if mistake["type"] == "extra_forbidden":
                message, shown = "unknown key", ""
            lines.append(f"config: {key + ': ' if key else ''}{message}{shown}")
        raise InputError("\n".join(dict.fromkeys(lines))) from None


def schema() -> str:
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def commented_yaml(config: Config) -> str:
    """The configuration as YAML. The first section of each kind shows every key with its description as a comment;
    the ones after it show only what was set."""
    return "\n".join(_yaml_lines(config, explained=set(), indent="")) + "\n"


def _yaml_lines(section: Strict, explained: set[type], indent: str) -> list[str]:
    kind, lines = type(section), []
    first = kind not in explained
    explained.add(kind)
    for name, info in kind.model_fields.items():
        value = getattr(section, name)
        if not first and name not in section.model_fields_set:
            continue
        if first and info.description:
            lines.append(f"{indent}# {' '.join(info.description.split())}")
        if isinstance(value, Strict):
            lines += [f"{indent}{name}:", *_yaml_lines(value, explained, indent + "  ")]
        elif isinstance(value, dict) and any(isinstance(v, Strict) for v in value.values()):
            lines.append(f"{indent}{name}:")
            for key, entry in value.items():
                lines += [f"{indent}  {key}:", *_yaml_lines(entry, explained, indent + "    ")]
        else:
            lines.append(f"{indent}{name}: {_yaml_value(value)}")
        if not indent:
            lines.append("")
    return lines


def _yaml_value(value: Any) -> str:
    if isinstance(value, str):  # JSON's quotes are YAML's, and keep line breaks visible
        return value if re.fullmatch(r"[A-Za-z][\w/.-]*", value) else json.dumps(value, ensure_ascii=False)
    flow = yaml.safe_dump(value, width=10_000, allow_unicode=True, default_flow_style=True, sort_keys=False)
    return flow.removesuffix("...\n").strip()
