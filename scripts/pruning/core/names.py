"""Names: where every result lies, and how variants and columns are written.

Rules list these paths, and stages get theirs from the rules. `sparsity` in a path is in whole per cent, in a file a
fraction: `share` and `percent` convert. Logs and benchmarks mirror the results they are of.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[3]
"""Where the workflow lies; results are below the folder that it runs in."""


def own(path: str) -> str:
    """A file of the workflow itself, as seen from the folder that it runs in."""
    return os.path.relpath(HOME / path)


def share(percent: Any) -> Any:
    """A sparsity, or a column of them, as the fraction that files hold."""
    return percent / 100


def percent(share: Any) -> Any:
    """A fraction, or a column of them, in per cent."""
    return round(100 * share, 6)


DATA = "results/data/{dataset}/{split}.parquet"
ANSWERS = "results/{model}/answers/{task}.parquet"
ANSWERS_OF_PRUNED = "results/{model}/answers/{calib}/{method}/{sparsity}/{task}.parquet"
BASE = "results/{model}/base/manifest.json"

CALIBRATION = "results/{model}/calibration/{calib}"
STATISTICS = f"{CALIBRATION}/statistics.parquet"
LAYERS = f"{CALIBRATION}/layers.parquet"
TOKEN_CLASSES = f"{CALIBRATION}/token_classes.parquet"
ACTIVATIONS = f"{CALIBRATION}/activations.parquet"
SHARD = f"{CALIBRATION}/shards/{{shard}}-of-{{shards}}"

SCORES = "results/{model}/scores/{calib}/{method}.parquet"
SENSITIVITY = "results/{model}/sensitivity/{calib}/{method}.parquet"
LATENCY_TABLE = "results/{model}/latency_table.parquet"
BUDGET = "results/{model}/budget/{calib}/{method}/{budget}.json"
MASK = "results/{model}/masks/{calib}/{method}/{sparsity}.parquet"
COMPACT = "results/{model}/compact/{calib}/{method}/{sparsity}"
REFIT = "results/{model}/refit/{calib}/{method}/{sparsity}"
RECOVERED = "results/{model}/recovered/{calib}/{method}/{sparsity}/{tuning}"
ADAPTER = ("adapter_model.safetensors", "adapter_config.json")

EXPORT = "results/{model}/export/{variant}/model"
GGUF = "results/{model}/export/{variant}/gguf/{type}"
QUANTISED = "results/{model}/quantised/{variant}/{type}"
FILE_SPEED = "results/{model}/speed/{other}/{variant}/{type}.csv"
UNQUANTISED = "f16"  # type of the GGUF file in which a variant that is not quantised is weighed and timed

HIDDEN_STATES = "results/{model}/hidden_states/{task}"
EVALUATION = "results/{model}/eval/{variant}/{task}"
RESULT = f"{EVALUATION}.json"
SAMPLES = f"{EVALUATION}.samples.parquet"

ANALYSIS = "results/{model}/analysis"
OVERLAP = f"{ANALYSIS}/overlap/{{calib}}/{{first}}/{{second}}.csv"
SPECTRUM = f"{ANALYSIS}/spectrum/{{calib}}/{{sparsity}}"
TRAP = f"{ANALYSIS}/trap/{{calib}}/{{sparsity}}"
CASES = f"{ANALYSIS}/cases/{{variant}}.json"

LATENCY = "results/latency/{shape}.csv"
REASONER = "results/reasoner"
MIXTURE = "results/mixture"
EMBEDDED = "resources/tiny-reasoner"
PUBLISHED = own("resources/paper/{table}.csv")
PAPER_NOTES = own("resources/paper/notes.yaml")
BENCHMARKS = "results/benchmarks"
EXPERIMENTS = "results/experiments.html"

MATRICES = ("second_moments", "output_gradients")


def of_kind(kind: str) -> str:
    """Return where artefacts of a kind lie: if it is none of the above, what is measured of some structure
    (layer_files.kind_of), a table or a directory of matrices."""
    measured = f"{CALIBRATION}/{kind}" + ("" if kind.endswith(MATRICES) else ".parquet")
    return globals().get(kind.upper(), measured)


class Places:
    """Where lies what is of an experiment and not of a model alone: below results/, or, if it has a name, in a folder
    of that name there."""

    def __init__(self, name: str | None = None):
        self.folder = f"results/{name}" if name else "results"
        self.index = f"{self.folder}/index.html"
        self.table = f"{self.folder}/{{table}}"  # without the ending, as `figure`
        self.figure = f"{self.folder}/figures/{{figure}}"
        self.page = f"{self.folder}/pages/{{table}}.html"
        self.leakage = f"{self.folder}/leakage/{{table}}.csv"
        self.speed = f"{self.folder}/analysis/speed/{{model}}.csv"
        self.widths = f"{self.folder}/analysis/widths.csv"
        self.accuracy = f"{self.folder}/analysis/accuracy.csv"
        self.collapse = f"{self.folder}/analysis/collapse.csv"


def log_of(result: str) -> str:
    """Of the job that makes a result."""
    return f"results/logs/{_stem(result)}.log"


def benchmark_of(result: str) -> str:
    """Time and memory of the job that makes a result."""
    return f"{BENCHMARKS}/{_stem(result)}.tsv"


def joined(tasks: Iterable[str]) -> str:
    """Of a job that asks several tasks, in place of one task's in a path: the same for the same tasks in any config."""
    whole = "+".join(sorted(tasks))  # no task has a plus in its name
    return whole if len(whole) <= 100 else f"{whole[:80]}+{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


@cache
def pattern_of(template: str) -> re.Pattern[str]:
    """A regular expression of a template's paths: of its names `variant` alone may hold slashes."""
    pattern = re.escape(template)
    for name in dict.fromkeys(re.findall(r"\{(\w+)\}", template)):
        field, value = re.escape(f"{{{name}}}"), ".+" if name == "variant" else "[^/]+"
        pattern = pattern.replace(field, f"(?P<{name}>{value})", 1).replace(field, f"(?P={name})")
    return re.compile(pattern)


def sample_of(path: str) -> tuple[str, str, str] | None:
    """Model, variant and task of samples; None for other files."""
    found = pattern_of(SAMPLES).fullmatch(path)
    return found.groups() if found else None


def _stem(result: str) -> str:
    folder, _, name = result.removeprefix("results/").rpartition("/")
    stem = name.partition(".")[0]
    return f"{folder}/{stem}" if folder else stem


@dataclass(frozen=True)
class Variant:
    """A model that is evaluated, written `dense`, `{calib}/{method}/{sparsity}`, or that and `/{tuning}`; and any of
    these with `.{type}`, as its GGUF file of that type computes (no name has a dot)."""

    calib: str | None = None
    method: str = "dense"
    sparsity: int = 0
    tuning: str | None = None
    type: str | None = None

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Raises ValueError for what is none."""
        text, _, kind = text.partition(".")
        if text == "dense":
            return cls(type=kind or None)
        calib, method, sparsity, *tuning = text.split("/")
        return replace(cls(calib, method, int(sparsity), *tuning), type=kind or None)

    def __str__(self) -> str:
        parts = [self.calib, self.method, str(self.sparsity), self.tuning] if self.calib else [self.method]
        return "/".join(part for part in parts if part) + (f".{self.type}" if self.type else "")

    @property
    def unquantised(self) -> Variant:
        """The model that it is a quantisation of; itself where it is none."""
        return replace(self, type=None)

    def gguf(self, model: str) -> str:
        """Its GGUF file, without the ending."""
        return self._file(QUANTISED, model=model)

    def file_speed(self, model: str, other: str) -> str:
        """How fast that file of a model, `other`, is beside the dense `model`'s."""
        return self._file(FILE_SPEED, model=model, other=other)

    def _file(self, template: str, **names: str) -> str:
        return template.format(variant=self.unquantised, type=self.type or UNQUANTISED, **names)

    def fill(self, template: str, model: str) -> str:
        """A path of what it is made from, or of what is made of it."""
        return template.format(model=model, **vars(self))

    def manifest(self, model: str) -> str:
        """What says which weights it has, before they are quantised."""
        return BASE.format(model=model) if not self.calib else self.fill(f"{COMPACT}/manifest.json", model)

    def weights(self, model: str) -> str:
        """Its Hugging Face model directory, without the adapter of a recovery."""
        return BASE.format(model=model).rpartition("/")[0] if not self.calib else self.fill(f"{COMPACT}/model", model)

    def adapter(self, model: str) -> str | None:
        """The directory of its LoRA adapter, where it is a recovered one."""
        return self.fill(RECOVERED, model) if self.tuning else None

    def adapter_files(self, model: str) -> list[str]:
        """What a job reads of that directory: the adapter and the record that it is held against."""
        folder = self.adapter(model)
        return [f"{folder}/{name}" for name in (*ADAPTER, "recovery.json")] if folder else []

    def samples(self, model: str, task: str) -> str:
        """Its outcomes on a task."""
        return SAMPLES.format(model=model, variant=self, task=task)

    def result(self, model: str, task: str) -> str:
        """Its whole result on a task."""
        return RESULT.format(model=model, variant=self, task=task)


DENSE = Variant()


@dataclass(frozen=True)
class Column:
    """A column of a table, written `{task}`, or `{task}@{tuning}`: the task after a LoRA recovery."""

    task: str
    tuning: str | None = None

    @classmethod
    def parse(cls, text: str) -> Column:
        task, _, tuning = text.partition("@")
        return cls(task, tuning or None)

    def __str__(self) -> str:
        return f"{self.task}@{self.tuning}" if self.tuning else self.task

    def of(self, pruned: Variant) -> Variant:
        """The variant whose outcomes on the task this column shows."""
        return replace(pruned, tuning=self.tuning)
