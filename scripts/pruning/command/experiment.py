"""The configuration that `prune` writes: commented, for the same workflow. Change it, and run snakemake yourself."""

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
SEQUENCE = 512  # tokens at most
SEQUENCES = {"cpu": 32, "gpu": 128}  # of calibration, at most
TESTED = {"cpu": 40 * 1024, "gpu": 128 * 2048}  # tokens, at most
BUDGET = "asked"
OFF = ("table2", "table3", "table6", "table7", "recovery", "ridge", "seeds")
SECTIONS_OFF = ("overlap", "readings", "spectrum", "trap", "cases", "collapse", "ablation", "latency", "reasoner")


@dataclass(frozen=True)
class Machine:
    gpus: int
    threads: int


@dataclass(frozen=True)
class Size:
    """Of the user's data, in this model's tokens."""

    train: int
    test: int


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
    """As many as the model has, as far as that is known. base: where it lies once it is fetched.

    Raises InputError as sources.gguf_files does."""
    if found := memory.parameters(Path(source["path"]) if source["kind"] == "local" else base):
        return found
    if source["kind"] != "gguf":
        return None
    return memory.gguf_parameters(sources.gguf_files(GgufSource(**source).model_dump())[0])


def model_section(alias: str, source: dict[str, Any], parameters: int | None, machine: Machine) -> dict[str, Any]:
    """bfloat16 on a GPU, or for a billion where the CPU can; memory for the weights twice and the libraries."""
    large = (parameters or 0) > 10**9 and "bfloat16" not in devices.slow_dtypes()
    dtype = "bfloat16" if machine.gpus or large else "float32"
    size = (parameters or 0) * (2 if dtype == "bfloat16" else 4) / 1e9
    own = {"source": source, "dtype": dtype, "gpus": machine.gpus, "threads": machine.threads}
    return {alias: {**own, "memory_gb": max(2, round(2 * size + 2))}}


def nothing_else() -> dict[str, Any]:
    """The default's other tables and analyses, switched off."""
    return {"tables": dict.fromkeys(("table1", *OFF)), "tradeoff": None, **dict.fromkeys(SECTIONS_OFF)}


def config(
    model: dict[str, Any],
    size: Size,
    context: int,
    *,
    methods: Sequence[str],
    sparsities: Sequence[int] | Mapping[str, int],
    recover: bool,
    budget: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What is pruned, measured and compared. sparsities: of all methods, or method -> its own, which a budget chose;
    none as long as that is still to be found: no tables. Raises InputError where the data are too few to tell anything.
    """
    [alias] = model
    kind = "gpu" if model[alias]["gpus"] else "cpu"
    tested = min(size.test, TESTED[kind])
    if context < SEQLENS[-1]:
        raise InputError(f"MODEL: its context of {context} tokens is shorter than {SEQLENS[-1]}, the least to test on")
    fitting = [n for n in SEQLENS if n <= context and tested // n >= LEAST_WINDOWS]
    if not fitting:
        least = LEAST_WINDOWS * SEQLENS[-1]
        raise InputError(f"--data: {size.test} tokens are left to test on, {least} are needed: give more records")
    text = calibration(size, context, Machine(model[alias]["gpus"], model[alias]["threads"]))
    speed = {"prompt_tokens": min(512, context // 2), "decode_tokens": min(32, context // 2)}
    data = {"fields": ["prompt", "completion"], "prompt": "{prompt}", "completion": "{completion}"}
    files = {"path": "own-data/{split}.jsonl", "splits": {"train": "train", "test": "test"}}
    asked = {"kind": "perplexity", "title": "your data, perplexity", "dataset": "own", "text": "{prompt}{completion}"}
    own = {
        "models": model,
        "datasets": {"own": {"kind": "published", **data, "local": files}},
        "calibrations": {"own": text},
        "tasks": {"own": {**asked, "seqlen": fitting[0], "tokens": tested, "batch_size": 1}},
        "experiment": {"models": [alias], "calibrations": ["own"], "methods": list(methods), "reference": methods[0]},
        "tables": {"table1": {"title": "Your model, pruned", "tasks": ["own"], **levels(sparsities), "paper": None}},
        "tradeoff": {"tables": ["table1"], **speed, "rounds": 5},
    }
    if budget:
        own["budgets"] = {BUDGET: {**budget, **speed}}
    if recover:
        own["tunings"] = {"own": {"dataset": "own", "batch_size": 4, "learning_rate": 2e-4}}
        own["tunings"]["own"]["sequence_length"] = text["sequence_length"]
        own["tables"]["table1"]["tasks"].append("own@own")
    off = nothing_else()
    own["tables"] = {**off["tables"], **(own["tables"] if sparsities else {})}
    return own | {key: value for key, value in off.items() if key not in own}


def calibration(size: Size, context: int, machine: Machine) -> dict[str, Any]:
    """The calibration's section: so much training data, in sequences enough for refits to hold some out."""
    from pruning.calibration.second_moments import HELD_OUT_EVERY  # torch is slow

    length = max(1, min(SEQUENCE, context, size.train // HELD_OUT_EVERY))
    samples = min(SEQUENCES["gpu" if machine.gpus else "cpu"], size.train // length)
    return {
        "dataset": "own",
        "samples": samples,
        "sequence_length": length,
        "packing": "concat",
        "micro_batch": 1,
    }


def levels(sparsities: Sequence[int] | Mapping[str, int]) -> dict[str, Any]:
    """Of a table."""
    if isinstance(sparsities, Mapping):
        return {"sparsities": None, "at": dict(sparsities)}
    return {"sparsities": list(sparsities)}


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
    """The YAML file."""
    parts = [f"# Written by: {command}\n# Every key is explained in config/config.yaml of the workflow.\n"]
    for key, value in content.items():
        comment = f"# {COMMENTS[key]}\n" if key in COMMENTS else ""
        parts.append(
            comment + yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, default_flow_style=False)
        )
    return "\n".join(parts)
