"""From what a user asks for to a configuration of the workflow, in a commented file to edit and run again."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pruning.config.budgets import UNITS, amount
from pruning.config.models import GgufSource
from pruning.core import devices, memory
from pruning.core.errors import InputError
from pruning.core.limits import LEAST_WINDOWS
from pruning.models import sources

SEQLENS = (2048, 1024, 512, 256, 128, 64, 32)
SEQUENCE = 512  # tokens of a calibration sequence, at most
SEQUENCES = {"cpu": 32, "gpu": 128}  # of calibration, at most
TESTED = {"cpu": 40 * 1024, "gpu": 128 * 2048}  # tokens, at most
BUDGET = "asked"
OFF = {
    "tables": dict.fromkeys(("table1", "table2", "table3", "table6", "table7", "recovery", "ridge", "seeds")),
    **dict.fromkeys(("tradeoff", "overlap", "readings", "spectrum", "trap", "cases", "collapse", "ablation")),
    **dict.fromkeys(("latency", "reasoner")),
}
"""The default's tables and analyses, switched off."""


@dataclass(frozen=True)
class Request:
    """What a user asks for."""

    model: str  # as model_source reads it
    data: Path  # JSON Lines, as own_data.py reads them
    out: Path
    sparsities: Sequence[int] = (20, 30)  # per cent of FFN neurons to remove, where there is no budget
    budget: Mapping[str, str] | None = None  # kind and amount of what a model may cost
    methods: Sequence[str] | None = None  # None: those that defaults.py chooses
    recover: bool = False
    tolerance: float = 0.1  # share of perplexity that may be lost
    cores: int = 1
    gguf: Sequence[str] = ()  # types of GGUF file to take away, besides the folder


@dataclass(frozen=True)
class Known:
    """What is known once the model is fetched and the data are read."""

    model: dict[str, Any]  # the configuration's section `models`, of this one
    context: int  # tokens that the model reads at once
    train: int  # tokens of the user's training data
    test: int  # and of the test data

    @property
    def kind(self) -> str:
        """What computes: gpu or cpu."""
        [section] = self.model.values()
        return "gpu" if section["gpus"] else "cpu"


def model_source(text: str) -> tuple[str, dict[str, Any]]:
    """Alias and source of what the user calls the model: a folder, a GGUF file, `package:file.gguf`, or a repository of
    the hub (`org/name` or `org/name@commit`). Raises InputError for anything else."""
    path = Path(text)
    if path.is_dir():
        source, name = {"kind": "local", "path": str(path.absolute())}, path.name
    elif text.endswith(".gguf"):
        package, _, file = text.rpartition(":")
        place = {"package": package, "path": file} if package else {"path": str(path.absolute())}
        source, name = {"kind": "gguf", **place}, Path(file).stem
        if not package and not path.is_file():
            raise InputError(f"{text}: no such file")
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(@[0-9a-f]{40})?", text):
        repo, _, revision = text.partition("@")
        source, name = {"kind": "hub", "repo": repo, "revision": revision or "main"}, repo.rpartition("/")[2]
    else:
        raise InputError(f"{text}: neither a folder nor a .gguf file nor a repository (org/name) of the hub")
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_-") or "model", source


def parameters_of(source: Mapping[str, Any], base: Path) -> int | None:
    """Return how many parameters the model has, as far as that is known. base: where it lies once it is fetched.

    Raises InputError as sources.gguf_files does."""
    if found := memory.parameters(Path(source["path"]) if source["kind"] == "local" else base):
        return found
    if source["kind"] != "gguf":
        return None
    return memory.gguf_parameters(sources.gguf_files(GgufSource(**source).model_dump())[0])


def model_section(
    alias: str, source: dict[str, Any], parameters: int | None, gpus: int, threads: int
) -> dict[str, Any]:
    """bfloat16 on a GPU, or for a billion where the CPU can; memory for the weights twice and the libraries."""
    large = (parameters or 0) > 10**9 and "bfloat16" not in devices.slow_dtypes()
    dtype = "bfloat16" if gpus or large else "float32"
    memory_gb = max(2, round(2 * memory.gigabytes(parameters or 0, dtype) + 2))
    return {alias: {"source": source, "dtype": dtype, "gpus": gpus, "threads": threads, "memory_gb": memory_gb}}


def fetching(model: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration that fetches a model, and nothing else."""
    return {"models": model, **OFF, "experiment": {"models": list(model), "methods": ["wanda"]}}


def build(
    request: Request, known: Known, methods: Sequence[str], sparsities: Sequence[int] | Mapping[str, int]
) -> dict[str, Any]:
    """Return the configuration: what is pruned, measured and compared.

    sparsities: of all methods, or method -> its own, which a budget chose; none as long as that is still to be found,
    and then no tables. Raises InputError where the data are too few to tell anything."""
    [alias], tested = known.model, min(known.test, TESTED[known.kind])
    if known.context < SEQLENS[-1]:
        raise InputError(
            f"MODEL: its context of {known.context} tokens is shorter than {SEQLENS[-1]}, the least to test on"
        )
    fitting = [n for n in SEQLENS if n <= known.context and tested // n >= LEAST_WINDOWS]
    if not fitting:
        least = LEAST_WINDOWS * SEQLENS[-1]
        raise InputError(f"--data: {known.test} tokens are left to test on, {least} are needed: give more records")
    text = calibration(known)
    speed = {"prompt_tokens": min(512, known.context // 2), "decode_tokens": min(32, known.context // 2)}
    data = {"fields": ["prompt", "completion"], "prompt": "{prompt}", "completion": "{completion}"}
    files = {"path": "own-data/{split}.jsonl", "splits": {"train": "train", "test": "test"}}
    task = {"kind": "perplexity", "title": "your data, perplexity", "dataset": "own", "text": "{prompt}{completion}"}
    at = {"sparsities": None, "at": dict(sparsities)} if isinstance(sparsities, Mapping) else {}
    table = {"title": "Your model, pruned", "tasks": ["own"], **(at or {"sparsities": list(sparsities)}), "paper": None}
    own = {
        "models": known.model,
        "datasets": {"own": {"kind": "published", **data, "local": files}},
        "calibrations": {"own": text},
        "tasks": {"own": {**task, "seqlen": fitting[0], "tokens": tested, "batch_size": 1}},
        "experiment": {"models": [alias], "calibrations": ["own"], "methods": list(methods), "reference": methods[0]},
        "tables": {**OFF["tables"], **({"table1": table} if sparsities else {})},
        "tradeoff": {"tables": ["table1"], **speed, "rounds": 5},
    }
    if request.budget:
        own["budgets"] = {BUDGET: {**request.budget, **speed}}
    if request.recover:
        table["tasks"].append("own@own")
        own["tunings"] = {"own": {"dataset": "own", "batch_size": 4, "learning_rate": 2e-4}}
        own["tunings"]["own"]["sequence_length"] = text["sequence_length"]
    return own | {key: value for key, value in OFF.items() if key not in own}


def calibration(known: Known) -> dict[str, Any]:
    """The calibration's section: so much training data, in sequences enough for refits to hold some out."""
    from pruning.calibration.second_moments import HELD_OUT_EVERY  # torch is slow

    length = max(1, min(SEQUENCE, known.context, known.train // HELD_OUT_EVERY))
    samples = min(SEQUENCES[known.kind], known.train // length)
    return {"dataset": "own", "samples": samples, "sequence_length": length, "packing": "concat", "micro_batch": 1}


def budget_of(given: Sequence[str]) -> dict[str, str] | None:
    """KIND=AMOUNT of the command line. Raises InputError for what is none, and for several."""
    if not given:
        return None
    if len(given) > 1 or given[0].count("=") > 1:
        raise InputError(f"--budget {' '.join(given)}: one budget at a time")
    kind, _, text = given[0].partition("=")
    try:
        if kind not in UNITS:
            raise ValueError(f"no budget {kind!r}; give one of {', '.join(f'{kind}=…' for kind in UNITS)}")
        amount(kind, text)
    except ValueError as error:
        raise InputError(f"--budget {given[0]}: {error}") from None
    return {kind: text}


def numbers(text: str) -> list[int]:
    """Raises InputError for what is not 1 to 99, with commas."""
    found = re.fullmatch(r"\s*\d{1,2}(\s*,\s*\d{1,2})*\s*", text)
    values = sorted({int(part) for part in text.split(",")}) if found else []
    if not values or values[0] == 0:
        raise InputError(f"--sparsity {text}: whole per cent from 1 to 99, with commas: 20,30")
    return values


COMMENTS = {
    "models": "Where it comes from, and what its jobs take.",
    "datasets": "Your data: own-data/train.jsonl and test.jsonl, a fifth of it.",
    "calibrations": "What every neuron is measured on.",
    "tasks": "What is measured of each model: how surprised it is by your test data.",
    "experiment": "What is compared; the first method is what the others are compared with.",
    "tables": "results/table1.csv, .md, .tex; the others are switched off.",
    "tradeoff": "Size and speed of the pruned models.",
    "budgets": "What a pruned model may cost; the table's sparsities (`at`) follow from it.",
    "tunings": "LoRA recovery on your training data.",
}


def text(content: dict[str, Any], command: str) -> str:
    """Return a configuration as YAML. command: what wrote it."""
    parts = [f"# Written by: {command}\n# Every key is explained in config/config.yaml of the workflow.\n"]
    for key, value in content.items():
        comment = f"# {COMMENTS[key]}\n" if key in COMMENTS else ""
        parts.append(comment + yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True))
    return "\n".join(parts)
