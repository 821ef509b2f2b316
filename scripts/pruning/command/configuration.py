"""From what a user asks for to a configuration of the workflow, in a commented file to edit and run again."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pruning.command import efforts, own_data
from pruning.command.lm_eval_tasks import Asked
from pruning.command.request import RECOVERIES, Request, budget_of
from pruning.config.default import DEFAULT
from pruning.config.methods import Method
from pruning.config.models import GgufSource
from pruning.core import devices, memory
from pruning.core.errors import InputError
from pruning.core.limits import LEAST_WINDOWS
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
VALIDATION = "own_validation"  # the task that choices are made by
SAID = "own_right_answers"  # the text that models are calibrated on and chosen by, of the test questions
ASKED_OF = 4  # training questions for each validation question
ASKED_BEFORE = {part: own_data.ASKING[part] for part in ("train", "validation")}  # tasks of the dense model alone
FEW = 20  # test questions, on a CPU, of a model that is so rarely right that answers tell no models apart
BATCH = {"cpu": 100, "gpu": 128}  # questions at once
OFF = {"tables": dict.fromkeys(DEFAULT.tables)}
OFF |= dict.fromkeys(("tradeoff", "overlap", "readings", "spectrum", "trap", "cases", "collapse", "ablation"))
OFF |= dict.fromkeys(("latency", "reasoner"))
"""The default's tables and analyses, switched off."""


class Own(NamedTuple):
    """The dense model's own right answers, on which pruned models are calibrated where there are enough."""

    asked: int  # training questions; of the validation questions a quarter
    tokens: Mapping[str, int] | None = None
    """Of right answers and their questions, by part; empty: too few to calibrate on; None: not known yet."""
    rare: bool = False  # so few answers are right that they tell no models apart


@dataclass(frozen=True)
class Known:
    """What is known once the model is fetched and the data are read."""

    model: dict[str, Any]  # the configuration's section `models`, of this one
    context: int  # tokens that the model reads at once
    train: int  # tokens of the user's training data
    validation: int  # of the validation data
    test: int  # and of the test data
    answers: own_data.Answers | None = None  # the questions whose answers are judged
    tasks: Sequence[Asked] = ()  # of lm-eval's
    own: Own | None = None  # None: models are not calibrated on own answers
    end: str = ""  # what stands between texts of own answers
    trained: Sequence[str] | None = None  # of a mixture of experts, what recovery trains

    @property
    def calibrates_on_answers(self) -> bool:
        """Whether models are calibrated on own answers, as far as is known."""
        return self.own is not None and self.own.tokens != {}

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
    """bfloat16 on a GPU, on a CPU that multiplies it fast for 50 million parameters, and for a billion where it can at
    all; memory for the weights twice and the libraries."""
    size, can = parameters or 0, "bfloat16" not in devices.slow_dtypes()
    on_the_cpu = can and size > (5 * 10**7 if devices.multiplies_bfloat16() else 10**9)
    dtype = "bfloat16" if gpus or on_the_cpu else "float32"
    memory_gb = max(2, round(2 * memory.gigabytes(parameters or 0, dtype) + 2))
    return {alias: {"source": source, "dtype": dtype, "gpus": gpus, "threads": threads, "memory_gb": memory_gb}}


def build(
    request: Request,
    known: Known,
    methods: Mapping[str, Method | None],
    sparsities: Sequence[int] | Mapping[str, int],
) -> dict[str, Any]:
    """Return the configuration: what is pruned, measured and compared.

    methods: by name, None where the default configuration has it, or nobody. sparsities: of all methods, or method ->
    its own, which a budget chose; none as long as that is still to be found, and then no tables. Raises InputError
    where the data are too few to tell anything."""
    tasks, speed = measured(request, known), {"prompt_tokens": min(512, known.context // 2)}
    speed["decode_tokens"] = min(32, known.context // 2)
    objectives = dict.fromkeys(method.objective for method in efforts.definitions(methods).values() if method.objective)
    text = calibration(known, efforts.read(request.effort).tokens[known.kind], objectives)
    if request.rounds:
        text["rounds"] = steps(max(request.sparsities, default=MOST), request.rounds)
    shown = [name for name in tasks if name not in {VALIDATION, *ASKED_BEFORE.values()}]
    own_at = isinstance(sparsities, Mapping)
    table, choosing = (
        {"title": title, "tasks": columns, "paper": None, "reference": "dense", "quantised": list(request.against)}
        | ({"sparsities": None, "at": dict(sparsities)} if own_at else {"sparsities": list(sparsities)})
        for title, columns in (("Your model, pruned", shown), ("What the choice is made by", [VALIDATION]))
    )
    own = {
        **{"models": known.model, "datasets": datasets(known), "calibrations": {"own": text}, "tasks": tasks},
        "experiment": {"models": list(known.model), "calibrations": ["own"], "methods": list(methods)},
        "tables": {**OFF["tables"], **({"table1": table, "validation": choosing} if sparsities else {})},
        "tradeoff": {"tables": ["table1"], **speed, "decode_tokens": min(8, known.context // 2), "rounds": 5},
    }
    own["experiment"]["reference"] = next(iter(methods))
    if own_methods := {name: method.model_dump() for name, method in methods.items() if method}:
        own["methods"] = own_methods
    if request.budget:
        own["budgets"] = {BUDGET: {**budget_of(request.budget), **speed}}
    together = [name for name in tasks if name in {*shown, VALIDATION}]
    if known.calibrates_on_answers:  # which some texts are made of: these come after
        texts = [name for name in (SAID, "own", VALIDATION) if name in tasks]
        others = [name for name in together if name not in {*texts, own_data.ANSWERS}]
        own["experiment"]["together"] = list(filter(None, [texts, others]))
    else:
        own["experiment"]["together"] = [together]
    if request.recover:
        for each in (table, choosing):
            each["tasks"] = [*each["tasks"], *(f"{name}@own" for name in each["tasks"])]
        tuning = {"dataset": "own", "objective": RECOVERIES[request.recover], "steps": request.steps or STEPS}
        own["tunings"] = {"own": {**tuning, "batch_size": 4, "learning_rate": 2e-4}}
        own["tunings"]["own"]["sequence_length"] = text["sequence_length"]
        if known.trained:
            own["tunings"]["own"]["targets"] = list(known.trained)
        if known.calibrates_on_answers and request.recover == "distill":
            own["tunings"]["own"]["answers"] = own_data.ASKING["train"]
    return own | {key: value for key, value in OFF.items() if key not in own}


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


def measured(request: Request, known: Known) -> dict[str, Any]:
    """Return the tasks: texts, questions, lm-eval's, and those that the dense model answers first.

    Raises InputError where the data are too few to tell anything."""
    if known.context < SEQLENS[-1]:
        said = f"its context of {known.context} tokens is shorter than {SEQLENS[-1]}, the least to test on"
        raise InputError(f"MODEL: {said}")
    most = {"validation": VALIDATED[known.kind], "test": efforts.read(request.effort).tested[known.kind]}
    tested = {part: min(getattr(known, part), limit) for part, limit in most.items()}
    fewest = min(tested, key=tested.get)
    if (there := tested[fewest]) < LEAST_TOKENS:
        raise InputError(
            f"--data: {there} tokens are left to {own_data.PARTS[fewest]} on, {LEAST_TOKENS} are needed: "
            + (f"give at least {LEAST_TOKENS / there:.1f} times as many records" if there else "give more records")
        )
    compared, in_bytes = {"divergence": not request.vocabulary}, request.vocabulary is not None
    own, validation = perplexities(tested, known.context, in_bytes)
    found = {"own": own | {"title": "your test data"}, VALIDATION: validation | {"title": "your validation data"}}
    if known.calibrates_on_answers:  # models are then chosen by such text as they are calibrated on
        there = known.own.tokens or vars(known)
        said = perplexities({part: min(there[part], limit) for part, limit in most.items()}, known.context, in_bytes)
        asked = {part: {"answers": own_data.ASKING[part], "joiner": known.end} for part in most}
        titles = {part: {"title": f"its right answers to your {part} questions"} for part in most}
        found = {SAID: said[0] | compared | asked["test"] | titles["test"], "own": found["own"]}
        found[VALIDATION] = said[1] | asked["validation"] | titles["validation"]
    else:
        found["own"] |= compared
    if known.answers:
        judged = {"kind": "lm_eval", "title": "your questions", "metrics": [own_data.METRIC]}
        judged |= {"batch_size": BATCH[known.kind], "limit": questions(request, known)}
        found[own_data.ANSWERS] = judged | {"max_gen_toks": known.answers.tokens}  # for estimates
    for asked in known.tasks:
        found[asked.name] = {"batch_size": BATCH[known.kind], **asked.task, "limit": ITEMS[known.kind]}
    if known.calibrates_on_answers:
        for part, limit in (("train", known.own.asked), ("validation", known.own.asked // ASKED_OF)):
            limit = max(1, min(limit, len(known.answers.records[part])))
            asking = {**found[own_data.ANSWERS], "title": f"your {part} questions", "limit": limit}
            found[ASKED_BEFORE[part]] = asking
    return found


def questions(request: Request, known: Known) -> int:
    """Return how many test questions are asked: fewer where right answers are so rare that they tell no models apart,
    unless the user says how many."""
    there = len(known.answers.records["test"])
    rare = known.own is not None and known.own.rare and not request.questions
    return min(there, FEW * ANSWERED[known.kind]) if rare else there


def perplexities(tokens: Mapping[str, int], context: int, in_bytes: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tasks of the test text and of the validation text, in windows of one length.

    tokens: of each, LEAST_TOKENS or more. in_bytes: texts are counted in bytes, as models have other tokens."""
    seqlen = next(n for n in SEQLENS if n <= context and min(tokens.values()) // n >= LEAST_WINDOWS)
    task = {"kind": "perplexity", "dataset": "own", "text": "{prompt}{completion}", "seqlen": seqlen, "batch_size": 4}
    task |= {"per": "byte"} if in_bytes else {}
    of = {part: {"tokens": (BYTES if in_bytes else 1) * tokens[part]} for part in ("test", "validation")}
    return task | of["test"], task | {"split": "validation"} | of["validation"]


def steps(sparsity: int, rounds: int) -> list[int]:
    """Return the per cent that are gone after each of so many equal rounds but the last, which ends at `sparsity`."""
    return sorted({max(1, round(sparsity * number / rounds)) for number in range(1, rounds)})


def calibration(known: Known, tokens: int, objectives: Sequence[str]) -> dict[str, Any]:
    """Return the calibration's section: at most so many tokens of training data, or of own answers, in sequences enough
    for weight reconstruction to hold some out. objectives: whose gradients the methods read."""
    from pruning.calibration.second_moments import HELD_OUT_EVERY  # torch is slow

    there = known.own.tokens["train"] if known.own and known.own.tokens else known.train
    length = max(1, min(SEQUENCE, known.context, there // HELD_OUT_EVERY))
    samples = max(1, min(tokens, there) // length)
    own = {"dataset": "own", **({"answers": own_data.ASKING["train"]} if known.calibrates_on_answers else {})}
    own |= {"samples": samples, "sequence_length": length, "packing": "concat", "micro_batch": MICRO_BATCH}
    return own | {"objectives": list(objectives), "gradient_samples": math.ceil(samples / 2)}


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


class Plain(yaml.SafeDumper):
    """Writes equal values out, each time."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def text(content: dict[str, Any], command: str) -> str:
    """Return a configuration as YAML. command: what wrote it."""
    parts = [f"# Written by: {command}\n# Every key is explained in config/config.yaml of the workflow.\n"]
    for key, value in content.items():
        comment = f"# {COMMENTS[key]}\n" if key in COMMENTS else ""
        parts.append(comment + yaml.dump({key: value}, Dumper=Plain, sort_keys=False, allow_unicode=True))
    return "\n".join(parts)
