"""What a user asks `prune` for: its options, and which of them contradict each other."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pruning.command import efforts, own_data
from pruning.config.budgets import UNITS, amount
from pruning.config.methods import tokens as vocabulary_size
from pruning.core.errors import InputError, within
from pruning.core.names import UNQUANTISED
from pruning.models import gguf
from pruning.models.gguf import BLOCK

RECOVERIES = {"distill": "distillation", "lora": "cross_entropy"}  # --recover -> a tuning's objective
WHOLE = "all"  # tokens of the vocabulary
IN_ONE, IN_ROUNDS = "obs", "rounds"
"""The score that prunes at once, and the one that prunes in rounds by the same measure."""

MODEL = "folder, .gguf file, package:file.gguf, or org/name of the hub"
DATA = "JSON Lines: messages, prompt/completion, question/answer, or text; none: a --task's training data"
SPARSITY = "per cent of FFN neurons (of a mixture: experts) to remove, with commas; 20,30 unless there is a budget "
SPARSITY += "(with --vocabulary 0,20,30)"
COST = "in place of a sparsity, the most a model may cost: parameters=1.2B, bytes=900MB, prefill_ms=120, decode_ms=9, "
COST += "or a share of the dense model's: parameters=70%"
EFFORT = "; ".join(f"{name}: {efforts.read(name).summary}" for name in efforts.EFFORTS)
METHODS = "methods to compare, in place of the effort's recipe, with commas; "
METHODS += "tested against the dense model and the first"
OUT = "folder of the run and its result; a run that stopped continues there"
TOKENS = "most calibration tokens, in place of the effort's; gradients are of no more than half of the effort's own"
RECOVER = "also fine-tune each pruned model with LoRA: distill (to predict as the dense model) or lora (on the data)"
ROUNDS = "prune in this many iterations, each measured and reconstructed on the model of the one before"
VOCABULARY = "also prune the vocabulary to this many tokens, or to a share of them (30%), those of the data first; "
VOCABULARY += "perplexity is then in bits per byte, and --sparsity may be 0; with --budget several sizes, with commas, "
VOCABULARY += "of which the best is taken: 30%,60%,all"
ANSWER = "also judge answers that the models generate: by their last number, as text, or by a pattern's first group; "
ANSWER += "number, where all reference answers end in one"
QUESTIONS = "most test questions that models answer; on a CPU 50 unless given (100 with thorough, none with quick, 20 "
QUESTIONS += "of a model that is rarely right)"
TASK = "also evaluate this task of lm-eval, as gsm8k; repeat"
GGUF = f"also make a GGUF file of the model to take, of this type; repeat for several: {', '.join(BLOCK)}"
TOLERANCE = "most per cent that perplexity may rise; 10 unless given, 2 where it is that of right answers"
AGAINST = "also compare, at equal bytes, with the dense model in this GGUF type (as q8_0, q4_k_m, q3_k_m), "
AGAINST += "or with this smaller model, given as MODEL is; repeat"


def option(kind: Any, words: str, *names: str, **more: Any) -> Any:
    """The type of an option of the command line. words: its help."""
    return Annotated[kind, typer.Option(*names, help=words, **more)]


def share(percent: str | float) -> float:
    """A share, of per cent as they are typed; the default, which typer hands on as well, is one already."""
    return float(percent) / 100 if isinstance(percent, str) else percent


def kinds(given: Sequence[str]) -> list[str]:
    """GGUF types as BLOCK has them, and what is none as it is, each once."""
    return list(dict.fromkeys(each.lower() if each.lower() in BLOCK else each for each in given))


@dataclass(frozen=True)
class Request:
    """The options of `prune MODEL` and `prune plan MODEL`, and of api.prune."""

    model: Annotated[str, typer.Argument(help=MODEL, metavar="MODEL")]
    data: option(Path | None, DATA, exists=True, dir_okay=False, metavar="PATH") = None
    sparsity: option(str | None, SPARSITY, metavar="PERCENT") = None
    budget: option(list[str], COST, metavar="KIND=AMOUNT") = ()
    effort: option(str, EFFORT, metavar="NAME") = "standard"
    methods: option(Sequence[str] | None, METHODS, parser=lambda text: text.split(","), metavar="NAMES") = None
    out: option(Path, OUT, metavar="PATH") = Path("pruned")
    recover: option(Literal[*RECOVERIES] | None, RECOVER) = None
    steps: option(int | None, "training steps of --recover; 150 unless given", min=1, metavar="N") = None
    rounds: option(int | None, ROUNDS, min=2, metavar="N") = None
    vocabulary: option(str | None, VOCABULARY, metavar="SIZES") = None
    tokens: option(int | None, TOKENS, min=1, metavar="N") = None
    answer: option(str | None, ANSWER, metavar="number|exact|regex:PATTERN") = None
    questions: option(int | None, QUESTIONS, min=1, metavar="N") = None
    tasks: option(list[str], TASK, "--task", metavar="NAME[:METRIC]") = ()
    tolerance: option(float | None, TOLERANCE, parser=share, metavar="PERCENT") = None
    gguf: option(list[str], GGUF, metavar="TYPE", callback=kinds) = ()
    against: option(list[str], AGAINST, metavar="TYPE|MODEL", callback=kinds) = ()
    cores: option(int, "CPU cores", min=1, metavar="N", show_default="all of this machine") = os.cpu_count() or 1
    yes: option(bool, "do not ask before a run of more than an hour", "--yes") = False

    @property
    def sparsities(self) -> list[int]:
        """Per cent of FFN neurons to remove; none with a budget. Raises InputError as `numbers` and `budget_of`."""
        least = int(self.vocabulary is None)
        return [] if budget_of(self.budget) else numbers(self.sparsity or ("20,30" if least else "0,20,30"), least)

    @property
    def vocabularies(self) -> list[int | str | None]:
        """Sizes of the vocabulary, as `vocabulary` of a method has them. Raises ValueError for what is none."""
        sizes = (self.vocabulary or WHOLE).split(",")
        return [None if size == WHOLE else vocabulary_size(size) for size in sizes]

    @property
    def types(self) -> list[str]:
        """GGUF types that all models are compared in."""
        return [each for each in self.against if each in BLOCK]

    @property
    def smaller(self) -> list[str]:
        """Models that pruned ones are compared with."""
        return [each for each in self.against if each not in BLOCK]

    @property
    def files(self) -> list[str]:
        """GGUF types of all files that are made of a model."""
        return [*self.gguf, *self.types, *([UNQUANTISED] if self.smaller else [])]


def of_python(model: Any, data: Any, sparsity: Any, out: Any, rest: Mapping[str, Any]) -> Request:
    """The request that api.prune's arguments are. Raises InputError for what no request has."""
    for name, own in {"model": model, "data": data}.items():
        if not isinstance(own, str | Path | None):
            raise InputError(
                f"{name}: a {type(own).__name__}: `prune` reads files: give the path of one you saved it in"
            )
    if data is None and not rest.get("tasks"):
        raise InputError("prune: data: missing: give a file of JSON Lines, or tasks=['gsm8k']")
    given = {"model": str(model), "data": data and Path(data), "out": Path(out), **rest}
    for name in {"budget", "methods", "tasks", "gguf", "against"} & {*rest}:  # of which the command takes several
        listed = [rest[name]] if isinstance(rest[name], str | Path) else list(rest[name] or ())
        listed = [*map(str, listed)]
        given[name] = kinds(listed) if name in ("gguf", "against") else listed
    if rest.get("vocabulary") is not None:
        given["vocabulary"] = str(rest["vocabulary"])
    if sparsity is not None:
        shares = [sparsity] if isinstance(sparsity, Real) else [*sparsity]
        percents = [round(100 * float(each), 4) if isinstance(each, Real) else -1 for each in shares]
        if not percents or any(percent % 1 or not 0 <= percent < 100 for percent in percents):
            raise InputError(f"sparsity: {sparsity}: give shares between 0 and 1 in whole per cents, as 0.3")
        given["sparsity"] = ",".join(str(int(percent)) for percent in percents)
    return Request(**given)


def with_effort(request: Request) -> Request:
    """Return the request with its effort's recovery, which --recover and --methods stand in for."""
    effort = efforts.read(request.effort)
    if request.methods or request.recover or not effort.recover:
        return request
    return replace(request, recover=effort.recover)


def check(request: Request) -> None:
    """Raises InputError for what no run could do, whatever model and data are."""
    if request.data and not request.data.is_file():
        raise InputError(f"--data {request.data}: no such file")
    if not request.sparsities and request.sparsity:
        said = f"--budget and --sparsity {request.sparsity}"
        raise InputError(f"{said}: the budget says how much is pruned; give one of them")
    if request.vocabulary is not None:
        with within(f"--vocabulary {request.vocabulary}: ", kind=ValueError):
            several = len(sizes := request.vocabularies) > 1
            if sizes == [None] or len({*sizes}) < len(sizes):
                raise ValueError("give one size or different ones, of which one may be all")
            if several and not request.budget:
                raise ValueError("several sizes are compared at equal cost: give --budget as well")
    if request.recover not in (None, *RECOVERIES):
        raise InputError(f"--recover {request.recover}: give one of {', '.join(RECOVERIES)}")
    if request.steps and not with_effort(request).recover:
        raise InputError(f"--steps {request.steps}: only for --recover distill or --recover lora: give one of them")
    if request.rounds and (request.methods or efforts.read(request.effort).method.score != IN_ONE):
        others = [name for name in efforts.EFFORTS if efforts.read(name).method.score == IN_ONE]
        raise InputError(f"--rounds {request.rounds}: only for --effort {' and '.join(others)}, without --methods")
    share_given = 0 if request.tolerance is None else request.tolerance
    if not isinstance(share_given, int | float) or not 0 <= share_given < 1:
        raise InputError(f"--tolerance {share_given}: give 0 to less than 100 per cent, in Python a share, as 0.1")
    for name, least in {"cores": 1, "steps": 1, "rounds": 2, "questions": 1, "tokens": 1}.items():
        if (given := getattr(request, name)) is not None and (not isinstance(given, int) or given < least):
            raise InputError(f"--{name} {given}: give a whole number, {least} or more")
    if request.answer:
        own_data.judge(request.answer)
    for name, types in {"--gguf": request.gguf, "--against": request.types}.items():
        for kind in types:
            gguf.check(kind, f"{name}: ")


def budget_of(given: Sequence[str]) -> dict[str, str]:
    """KIND=AMOUNT of the command line; empty without one. Raises InputError for what is none, and for several."""
    if not given:
        return {}
    if len(given) > 1 or given[0].count("=") > 1:
        raise InputError(f"--budget {' '.join(given)}: one budget at a time")
    kind, _, text = given[0].partition("=")
    with within(f"--budget {given[0]}: ", kind=ValueError):
        if kind not in UNITS:
            raise ValueError(f"no budget {kind!r}; give one of {', '.join(f'{kind}=…' for kind in UNITS)}")
        amount(kind, text)
    return {kind: text}


def numbers(text: str, least: int = 1) -> list[int]:
    """Raises InputError for what is not `least` to 99, with commas."""
    found = re.fullmatch(r"\s*\d{1,2}(\s*,\s*\d{1,2})*\s*", text)
    values = sorted({int(part) for part in text.split(",")}) if found else []
    if not values or values[0] < least:
        raise InputError(f"--sparsity {text}: whole per cent from {least} to 99, with commas: 20,30")
    return values
