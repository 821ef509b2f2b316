"""From what a user asks for to a configuration of the workflow, in a commented file to edit and run again."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pruning.command import efforts, own_data
from pruning.command.known import VALIDATION, Known
from pruning.command.request import RECOVERIES, budget_of
from pruning.config.default import DEFAULT
from pruning.config.models import GgufSource
from pruning.core import devices, memory
from pruning.core.errors import InputError
from pruning.core.limits import LEAST_WINDOWS
from pruning.methods import allocation
from pruning.models import sources

SEQLENS = (2048, 1024, 512, 256, 128, 64, 32)
LEAST_TOKENS = LEAST_WINDOWS * SEQLENS[-1]  # of a text that models are compared on
BYTES = 4  # of a token, about
SEQUENCE = 512  # tokens of a calibration sequence, at most
VALIDATED = {"cpu": 10 * 1024, "gpu": 64 * 2048}  # tokens of the validation data, at most
ANSWERED = {"cpu": 1, "gpu": 4}  # of an effort's questions
ITEMS = {"cpu": 200, "gpu": 1000}  # of a task of lm-eval's, at most
STEPS = 150
MOST = 80  # per cent, that rounds go to where the sparsity is still to be found
MICRO_BATCH = 4  # calibration sequences at once
BUDGET = "asked"
SAID = "own_right_answers"  # the text that models are calibrated on and chosen by, of the test questions
ASKED_OF = 2  # training questions for each validation question, at least
RIGHT = {"cpu": 100, "gpu": 400}
"""Right answers to validation questions that models are chosen by, about. By 31 the loss of Qwen2.5-Coder-0.5B at 40%,
2.0% of perplexity, has a standard error of 0.46 points, by 100 one of 0.26."""
NOT_SHOWN = (VALIDATION, own_data.ASKING["validation"], own_data.ASKING["train"])  # tasks without a column of table 1
FEW = 20  # test questions, on a CPU, of a model that is so rarely right that answers tell no models apart
BATCH = {"cpu": 100, "gpu": 128}  # questions at once
OFF = {"tables": dict.fromkeys(DEFAULT.tables)}
OFF |= dict.fromkeys(("tradeoff", "overlap", "readings", "spectrum", "trap", "cases", "collapse", "ablation"))
OFF |= dict.fromkeys(("latency", "reasoner"))
"""The default's tables and analyses, switched off."""


def model_source(text: str) -> tuple[str, dict[str, Any]]:
    """Alias and source of what the user calls the model: a folder, a GGUF file, `package:file.gguf`, or a repository of
    the hub (`org/name` or `org/name@commit`). Raises InputError for anything else.

    One place has one path, however it is named: what was made of it holds for runs in other folders too. A file may be
    a link, whose name tells its format."""
    path = Path(text)
    if path.is_dir():
        source, name = {"kind": "local", "path": str(path.resolve())}, path.name or path.resolve().name
    elif text.endswith(".gguf"):
        package, _, file = ("", "", text) if path.is_file() else text.rpartition(":")
        place = {"package": package, "path": file} if package else {"path": str(path.parent.resolve() / path.name)}
        source, name = {"kind": "gguf", **place}, Path(file).stem
        if not package and not path.is_file():
            raise InputError(f"{text}: no such file")
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@[0-9a-f]{40})?", text):
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
    """bfloat16 on a GPU, on a CPU that multiplies it fast for 50 million parameters, and where it is slow for models of
    which three do not fit in float32 (two jobs, and as much for what they compute); memory for the weights twice and
    the libraries."""
    sizes = {dtype: memory.gigabytes(parameters or 0, dtype) for dtype in ("float32", "bfloat16")}
    fast = devices.multiplies_bfloat16() and (parameters or 0) > 5 * 10**7
    possible, needed = devices.slow_dtypes().get("bfloat16", 1) < 100, (3 * sizes["float32"] + 2) * 10**9
    dtype = "bfloat16" if gpus or fast or (possible and needed > memory.physical()) else "float32"
    memory_gb = max(2, round(2 * sizes[dtype] + 2))
    if source["kind"] == "gguf" and dtype != "float32":
        source = source | {"dtype": dtype}  # else its weights are stored, and taken away, in twice the bytes
    return {alias: {"source": source, "dtype": dtype, "gpus": gpus, "threads": threads, "memory_gb": memory_gb}}


def build(known: Known, sparsities: Sequence[int] | Mapping[str, int]) -> dict[str, Any]:
    """Return the configuration: what is pruned, measured and compared.

    sparsities: of all methods, or method -> its own, which a budget chose; none as long as that is still to be found,
    and then no tables. Raises InputError where the data are too few to tell anything."""
    request, tasks, text = known.request, measured(known), calibration(known)
    shown = [name for name in tasks if name not in NOT_SHOWN]
    own_at = isinstance(sparsities, Mapping)
    at = {"sparsities": None, "at": dict(sparsities)} if own_at else {"sparsities": list(sparsities)}
    common = {"paper": None, "reference": "dense", "quantised": list(request.types), **at}
    made = {
        "table1": {"title": "Your model, pruned", "tasks": shown, **common},
        "validation": {"title": "What the choice is made by", "tasks": [VALIDATION], **common},
    }
    if several(known):
        own = {"title": "Your methods, against the first", "tasks": shown}
        made["methods"] = {**own, **common, "reference": None, "quantised": []}
    if known.smaller:
        judged = {"title": "Your model, pruned, or a smaller one", "tasks": [compared_by(known)]}
        made["smaller"] = {**judged, **common, "siblings": list(known.smaller)}
    texts = [name for name in (SAID, "own", VALIDATION) if name in tasks]
    others = [name for name in shown if name not in texts]
    if known.calibrates_on_answers:  # some texts are made of the answers, which come before
        others.remove(own_data.ANSWERS)
    apart = known.calibrates_on_answers and others
    compared = {"models": [known.alias], "calibrations": ["own"], "methods": list(known.methods)}
    compared |= {"reference": next(iter(known.methods))}
    compared |= {"together": [texts, others] if apart else [[*texts, *others]]}
    half = known.context // 2
    speed = {"prompt_tokens": min(512, half), "decode_tokens": min(32, half)}
    own = {
        "models": {**known.model, **known.smaller},
        "datasets": datasets(known),
        "calibrations": {"own": text},
        "tasks": tasks,
        "experiment": compared,
        "tables": {**OFF["tables"], **(made if sparsities else {})},
        "tradeoff": {"tables": ["table1"], **speed, "decode_tokens": min(8, half), "rounds": 5},
    }
    if own_methods := {name: method.model_dump() for name, method in known.methods.items() if method}:
        own["methods"] = own_methods
    if request.budget:
        own["budgets"] = {BUDGET: {**budget_of(request.budget), **speed}}
    if request.recover:
        for each in made.values():
            each["tasks"] = [*each["tasks"], *(f"{name}@own" for name in each["tasks"])]
        own["tunings"] = {"own": tuning(known, text["sequence_length"])}
    return own | {key: value for key, value in OFF.items() if key not in own}


def several(known: Known) -> bool:
    """Return whether methods are tested against the first one; a budget gives each another sparsity."""
    return len(known.methods) > 1 and not known.request.budget


def compared_by(known: Known) -> str:
    """Return the task by which pruned models are compared with other models and files: answers, where they tell models
    apart. What another model predicts of the dense one's own answers, of which texts may be made, says nothing."""
    return own_data.ANSWERS if known.answers and not known.rare else "own"


def tuning(known: Known, length: int) -> dict[str, Any]:
    """Return the recovery's section. length: tokens of a sequence."""
    request = known.request
    own = {"dataset": "own", "objective": RECOVERIES[request.recover], "steps": request.steps or STEPS}
    own |= {"batch_size": 4, "learning_rate": 2e-4, "sequence_length": length}
    own |= {"micro_batch": 1} if known.kind == "cpu" else {}  # no padding: half the memory, no more time
    own |= {"targets": list(known.trained)} if known.trained else {}
    on_answers = known.calibrates_on_answers and request.recover == "distill"
    return own | ({"answers": own_data.ASKING["train"]} if on_answers else {})


def datasets(known: Known) -> dict[str, Any]:
    """Return the user's records, their questions, and the data of lm-eval's tasks."""
    files = {part: part for part in own_data.PARTS}
    texts = {"fields": ["prompt", "completion"], "prompt": "{prompt}", "completion": "{completion}"}
    found = {"own": {"kind": "published", **texts, "local": {"path": "own-data/{split}.jsonl", "splits": files}}}
    if known.answers:
        asking = {"path": f"own-data/{own_data.ANSWERS}/{{split}}.jsonl", "splits": files}
        questions = {"fields": ["prompt", "target", "answer"], "prompt": "{prompt}", "completion": "{answer}"}
        found[own_data.ANSWERS] = {"kind": "published", **questions, "local": asking}
    return found | {name: own for asked in known.tasks for name, own in asked.dataset.items()}


def measured(known: Known) -> dict[str, Any]:
    """Return the tasks: texts, questions, lm-eval's, and those that the dense model answers first.

    Raises InputError where the data are too few to tell anything."""
    if known.context < SEQLENS[-1]:
        said = f"its context of {known.context} tokens is shorter than {SEQLENS[-1]}, the least to test on"
        raise InputError(f"MODEL: {said}")
    own = {part: text | {"title": f"your {part} data"} for part, text in texts(known).items()}
    found = {"own": own["test"], VALIDATION: own["validation"]}
    if known.calibrates_on_answers:  # models are then chosen by such text as they are calibrated on
        said = {part: right_answers(known, part, text) for part, text in own.items()}
        found = {SAID: said["test"], "own": own["test"], VALIDATION: said["validation"]}
    found[SAID if SAID in found else "own"]["divergence"] = not known.request.vocabulary
    if known.answers:
        judged = {"kind": "lm_eval", "title": "your questions", "metrics": [own_data.METRIC]}
        judged |= {"batch_size": BATCH[known.kind], "limit": questions(known)}
        found[own_data.ANSWERS] = judged | {"max_gen_toks": known.answers.tokens}  # for estimates
    for asked in known.tasks:
        found[asked.name] = {"batch_size": BATCH[known.kind], **asked.task, "limit": ITEMS[known.kind]}
    if known.calibrates_on_answers:
        for part, limit in (("train", known.own.asked), ("validation", known.own.validation)):
            limit = max(1, min(limit, len(known.answers.records[part])))
            asking = {**found[own_data.ANSWERS], "title": f"your {part} questions", "limit": limit}
            found[own_data.ASKING[part]] = asking
    return found


def right_answers(known: Known, part: str, text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task of the dense model's right answers to a part's questions, each after its question: of joined
    texts two thirds of what pruning costs would be of the questions, which no model is to write.

    text: the task of that part's data."""
    most, unit = limits(known)[part], text.get("per", "token")
    there = known.own.tokens[part] if known.own.tokens else most
    there = min(most, there) if part == "test" else there  # of the validation questions fewer are asked
    whole = known.context - (2 if unit == "byte" else 0)  # a byte is a token at most, beside the first and the end
    longest = min(known.own.longest[unit], whole)
    own = {"prompt": "{prompt}", "text": "{completion}", "answers": own_data.ASKING[part]}
    own |= {"title": f"its right answers to your {part} questions", "seqlen": longest}
    return {**text, **own, "tokens": there * (BYTES if unit == "byte" else 1)}


def limits(known: Known) -> dict[str, int]:
    """Return the most tokens of the validation text and of the test text, by part."""
    return {"validation": VALIDATED[known.kind], "test": known.effort.tested[known.kind]}


def questions(known: Known) -> int:
    """Return how many test questions are asked: fewer where right answers are so rare that they tell no models apart,
    unless the user says how many."""
    there = len(known.answers.records["test"])
    return min(there, FEW * ANSWERED[known.kind]) if known.rare else there


def texts(known: Known) -> dict[str, dict[str, Any]]:
    """Return the tasks of the validation text and of the test text, by part, in windows of one length.

    Raises InputError where they are too few to tell anything."""
    tokens, sizes = {part: min(known.tokens[part], limit) for part, limit in limits(known).items()}, SEQLENS
    fewest = min(tokens, key=tokens.get)
    if (left := tokens[fewest]) < LEAST_TOKENS:
        raise InputError(
            f"--data: {left} tokens are left to {own_data.PARTS[fewest]} on, {LEAST_TOKENS} are needed: "
            + (f"give at least {LEAST_TOKENS / left:.1f} times as many records" if left else "give more records")
        )
    task = {"kind": "perplexity", "dataset": "own", "text": "{prompt}{completion}", "batch_size": 4}
    if known.request.vocabulary is not None:  # models then have other tokens
        task["per"], sizes = "byte", [*(BYTES * n for n in SEQLENS), *SEQLENS]
        tokens = {part: min(known.bytes[part], BYTES * limit) for part, limit in limits(known).items()}
    left = min(tokens.values())
    task["seqlen"] = next(n for n in sizes if n <= known.context and left // n >= LEAST_WINDOWS)
    splits = {"validation": {"split": "validation"}, "test": {}}
    return {part: task | splits[part] | {"tokens": count} for part, count in tokens.items()}


def calibration(known: Known) -> dict[str, Any]:
    """Return the calibration's section: training data, or own answers, in sequences enough for weight reconstruction to
    hold some out; what the methods' gradients are of; and what is removed after each iteration but the last."""
    from pruning.calibration.second_moments import HELD_OUT_EVERY  # torch is slow

    request, methods = known.request, efforts.definitions(known.methods).values()
    there = known.own.tokens["train"] if known.own and known.own.tokens else known.tokens["train"]
    length = max(2, min(SEQUENCE, known.context, there // HELD_OUT_EVERY))  # a token is predicted from another
    samples = max(1, min(known.effort.tokens[known.kind], there) // length)
    own = {"dataset": "own", **({"answers": own_data.ASKING["train"]} if known.calibrates_on_answers else {})}
    own |= {"samples": samples, "sequence_length": length, "packing": "concat", "micro_batch": MICRO_BATCH}
    own |= {"objectives": list(dict.fromkeys(method.objective for method in methods if method.objective))}
    usual = efforts.read(request.effort).tokens[known.kind] // length  # gradients take longer than they gain by more
    own |= {"gradient_samples": math.ceil(min(samples, max(1, usual)) / 2)}
    if any(allocation.search_of(method.allocate) for method in methods):
        own |= {"probed": max(1, efforts.PROBED[known.kind] // length)}
    if request.rounds:
        most = max(request.sparsities, default=MOST)
        equal = (round(most * number / request.rounds) for number in range(1, request.rounds))
        own |= {"rounds": sorted({max(1, percent) for percent in equal})}
    return own


COMMENTS = {
    "models": "Where it comes from, and what its jobs take.",
    "datasets": "Your data: own-data/train.jsonl, validation.jsonl (15%) and test.jsonl (20%).",
    "calibrations": "What every neuron is measured on.",
    "tasks": "What is measured of each model. Choices are made by own_validation; the numbers shown are the others'.",
    "methods": "The recipe of the effort (config/efforts of the workflow).",
    "experiment": "What is compared. `together`: evaluated in one job.",
    "tables": "results/table1.csv (test data) and validation.csv, .md, .tex; the others are switched off.",
    "tradeoff": "Size and speed of the pruned models.",
    "budgets": "What a pruned model may cost; the table's sparsities (`at`) follow from it.",
    "tunings": "LoRA recovery on your training data: by distillation of the dense model, or on the data's own tokens.",
}


def text(content: dict[str, Any], command: str) -> str:
    """Return a configuration as YAML. command: what wrote it, for a comment of one line."""
    command = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in command)
    parts = [f"# Written by: {command}\n# Every key is explained in config/config.yaml of the workflow.\n"]
    for key, value in content.items():
        comment = f"# {COMMENTS[key]}\n" if key in COMMENTS else ""
        copied = json.loads(json.dumps({key: value}))  # of what is there twice YAML would write an alias
        parts.append(comment + yaml.safe_dump(copied, sort_keys=False, allow_unicode=True))
    return "\n".join(parts)
