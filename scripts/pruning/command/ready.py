"""What precedes a run of `prune`: its model is fetched, its data are read and written, its methods are chosen."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pruning.command import config_file, configuration, efforts, lm_eval_tasks, own_data, take
from pruning.command.configuration import Known, Own
from pruning.command.request import IN_ROUNDS, Request, budget_of, check, with_effort
from pruning.command.running import CONFIG, put, run
from pruning.config.budgets import TIMED
from pruning.config.methods import Method
from pruning.config.schema import Config
from pruning.core import devices, memory, names
from pruning.core.errors import InputError
from pruning.data import datasets
from pruning.models import gguf
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import family_of, read_config
from pruning.models.gguf import architectures

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""What recovery trains of a mixture of experts, whose FFNs have no linear modules."""
OF_MIXTURES = ("taylor_fo", "frequency")
"""Methods that are compared of one, in the place of the effort's, which reconstructs weights."""
START = ".prune-start.yaml"
"""The configuration of what comes before the one that is shown: fetching, and looking for sparsities."""


class Ready(NamedTuple):
    """A request once its model is fetched and its data are read."""

    request: Request  # with what its effort adds
    alias: str
    known: Known
    methods: dict[str, Method | None]
    notes: list[str]
    vocabulary: int
    mine: tuple[dict[str, Any], Config] | None  # the configuration, where the user has edited it
    config: str  # the configuration's name, of what runs before it is written


def ready(request: Request) -> Ready:
    """Fetch the model, write the data, and choose the methods.

    Raises InputError for what cannot be done, with the words of a job that failed."""
    from pruning.models import loading  # torch is slow

    check(request)
    request = with_effort(request)
    tasks = lm_eval_tasks.asked(request.tasks)
    out, (alias, source) = request.out, configuration.model_source(request.model)
    taught = None if request.data else lm_eval_tasks.with_training_data(tasks)
    records, gpus = datasets.read_jsonl(request.data) if request.data else [], min(1, len(devices.visible()))
    threads = request.cores if gpus else max(1, request.cores // 2)  # two jobs at once take less time than in turn
    mine = config_file.edited(out / CONFIG)
    if mine:
        print(f"{out / CONFIG} was edited and is used as it is; remove it to have it written anew.", flush=True)
        if alias not in mine[1].models:
            raise InputError(f"{out / CONFIG}: models: does not name {alias}, the model of the command line")
    start = CONFIG if mine else START
    base = Path(names.BASE.format(model=alias))
    folder = out / base.parent
    parameters = configuration.parameters_of(source, folder)
    first = {"models": configuration.model_section(alias, source, parameters, gpus, threads), **configuration.OFF}
    first |= {"experiment": {"models": [alias], "methods": ["wanda"]}, "datasets": taught.dataset if taught else {}}
    put(out / START, configuration.text(first, "prune, before it has seen the model"))
    for task in tasks:
        if task.definition:
            put(out / "config" / "tasks" / f"{task.name}.yaml", task.definition)
    run(request, f"fetching {request.model}", str(base), *([taught.training] if taught else []), config=start)

    manifest, shape = (json.loads((folder / name).read_text()) for name in (base.name, "config.json"))
    section = configuration.model_section(alias, source, manifest["parameters"], gpus, threads)
    stock = loading.stock_config(folder).get_text_config()
    known = Known(section, stock.max_position_embeddings, 0, 0, 0, tasks=tasks)
    given = f"--task {taught.name}" if taught else f"--data {request.data}"
    known = read_data(request, lm_eval_tasks.records(taught, out) if taught else records, given, folder, known)
    said: list[str] = []
    if family_of(read_config(folder), folder).mixture:
        request, trained, said = for_mixture(request, folder)
        known = replace(known, trained=trained)
        for note in said:
            print(f"Note: {note}", flush=True)
    methods, notes = methods_for(request, known, folder, shape, max(manifest["widths"]))
    if request.files:
        of_mine = {name: mine[1].method(name) for name in mine[1].table("table1").methods} if mine else {}
        take.check(of_mine or efforts.definitions(methods), folder)
    return Ready(request, alias, known, methods, [*said, *notes], stock.vocab_size, mine, start)


def for_mixture(request: Request, folder: Path) -> tuple[Request, list[str], list[str]]:
    """Return the request for a mixture of experts, what recovery trains, and notes. folder: the model's.

    Raises InputError for what is for dense models alone."""
    if request.rounds:
        raise InputError(
            "--rounds: the model is a mixture of experts, whose weights are not reconstructed: leave it out"
        )
    if (kind := next(iter(budget_of(request.budget)), None)) in TIMED:
        raise InputError(f"--budget {kind}: the model is a mixture of experts: give parameters=… or bytes=…")
    tensors, notes = Checkpoint(folder).names, ["A mixture of experts: sparsity counts the experts of every layer."]
    targets = [name for name in ATTENTION if any(f".{name}.weight" in tensor for tensor in tensors)]
    if not request.methods:
        compared = f"{' and '.join(OF_MIXTURES)} are compared, as which is better differs between models"
        notes.append(f"{compared}. No weights are reconstructed. --methods names others, as reap, rku or narrow_wanda.")
    return replace(request, methods=request.methods or OF_MIXTURES), targets, notes


def read_data(request: Request, records: list[dict[str, Any]], given: str, folder: Path, about: Known) -> Known:
    """Write the user's records in three parts, their questions, and the tasks of these; return what is known then.

    given: how errors of the records begin. folder: the model's."""
    from pruning.models import tokenizers

    tokenizer = tokenizers.load(folder)
    parts = own_data.split(own_data.texts(records, tokenizer, given))
    effort, times = efforts.read(request.effort), configuration.ANSWERED[about.kind]
    asked = request.questions or times * (effort.questions or efforts.ASKED * bool(request.answer))
    training = times * effort.training_questions
    most = {"test": asked, "validation": training // configuration.ASKED_OF, "train": training}
    chat = own_data.in_chat(records[0], tokenizer)
    answers = own_data.answers(parts, request.answer, most, tokenizer, about.context, chat) if asked else None
    if request.questions and not answers:
        why = "no answers are judged, as not all reference answers end in a number"
        raise InputError(f"--questions {asked}: {why}: give --answer")
    own = request.out / "own-data"
    for name, part in parts.items():
        put(own / f"{name}.jsonl", _lines(part))
    if answers:
        for name, part in answers.records.items():
            put(own / own_data.ANSWERS / f"{name}.jsonl", _lines(part))
        for part, name in own_data.ASKING.items():
            put(request.out / "config" / "tasks" / f"{name}.yaml", answers.definition(part))
        for note in answers.notes:
            print(f"Note: {note}", flush=True)
    whole = {name: [pair["prompt"] + pair["completion"] for pair in part] for name, part in parts.items()}
    tokens = {name: sum(len(tokenizer(text)["input_ids"]) for text in texts) for name, texts in whole.items()}
    said = Own(len(answers.records["train"])) if answers and effort.own_answers else None
    return replace(about, answers=answers, own=said, end=tokenizer.eos_token or "", **tokens)


def _lines(part: list[dict[str, str]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in part)


def methods_for(
    request: Request, known: Known, folder: Path, shape: dict[str, Any], width: int
) -> tuple[dict[str, Method | None], list[str]]:
    """Return the methods to compare by name, None for those of the default configuration, and what is printed of them.

    shape: the model's config.json; width: its widest layer's. Where a method reconstructs weights, the model's
    `memory_gb` is raised to what that takes. Raises InputError where this machine lacks what the effort or a method
    takes."""
    [section] = known.model.values()
    same_widths = bool(request.files) and not architectures.takes(shape["model_type"], [1, 2])
    round_to = efforts.multiple(known.kind, [gguf.BLOCK[each] for each in request.files], width)
    made = {each: efforts.method_for(efforts.read(each), shape, round_to, same_widths) for each in efforts.EFFORTS}
    if request.methods:
        found: dict[str, Method | None] = dict.fromkeys(request.methods)
        notes = []
    else:
        own, notes = made[request.effort]
        if request.rounds:
            own = own.model_copy(update={"score": IN_ROUNDS})
        found = {request.effort: own}
    if request.vocabulary:
        found, said = efforts.with_vocabularies(found, request.vocabularies, folder)
        notes = [*notes, said]
    cut = {"micro_batch": configuration.MICRO_BATCH, "sequence_length": min(configuration.SEQUENCE, known.context)}
    disk = shutil.disk_usage(request.out).free
    disk += sum(file.stat().st_size for file in request.out.rglob("*") if file.is_file())
    there = memory.physical() / 1e9, disk / 1e9

    def needs(methods: Sequence[Method]) -> efforts.Needs:
        return efforts.needs(folder, section["dtype"], cut, known.kind == "gpu", methods)

    methods = efforts.definitions(found)
    taken = needs(list(methods.values()))
    if lacking := taken.lacking(*there):
        if not request.methods:
            efforts.affordable(request.effort, {each: needs([own]).lacking(*there) for each, (own, _) in made.items()})
        raise InputError(f"--methods {','.join(methods)}: {lacking}: use --methods {efforts.WITHOUT_RECONSTRUCTION}")
    if taken.memory:
        section["memory_gb"] = max(section["memory_gb"], math.ceil(taken.memory))
        print(f"Weight reconstruction takes up to {taken.memory:.1f} GB of memory and {taken.disk:.1f} GB of disk.")
    text = configuration.build(request, known, found, [])["calibrations"]["own"]
    notes = notes + efforts.remarks(methods, shape, width, text, min(request.sparsities, default=0))
    for note in notes:
        print(f"Note: {note}", flush=True)
    return found, notes
