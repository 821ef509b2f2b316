"""What precedes a run of `prune`: its model is fetched, its data are read and written, its methods are chosen."""

import json
import math
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pruning.command import config_file, configuration, efforts, lm_eval_tasks, own_data, take
from pruning.command.known import Known, Own
from pruning.command.request import IN_ROUNDS, Request, budget_of, with_effort
from pruning.command.running import CONFIG, PAGE, START, put, run
from pruning.config import base
from pruning.config.alternatives import check_file, vocabulary
from pruning.config.budgets import TIMED
from pruning.config.default import DEFAULT
from pruning.config.methods import Method
from pruning.core import devices, memory, names
from pruning.core.errors import InputError, within
from pruning.data import datasets
from pruning.methods import scores
from pruning.methods.compensation import TOKENS_A_COLUMN
from pruning.models import gguf
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import family_of, read_config
from pruning.models.gguf import architectures

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
"""What recovery trains of a mixture of experts, whose FFNs have no linear modules."""
OF_MIXTURES = ("taylor_fo", "frequency")
"""Methods that are compared of one, in the place of the effort's, which reconstructs weights."""


def ready(request: Request) -> Known:
    """Fetch the model, write the data, and choose the methods.

    Raises InputError for what cannot be done, with the words of a job that failed."""
    from pruning.models import loading  # torch is slow

    request, out = with_effort(request), request.out
    tasks = lm_eval_tasks.asked(request.tasks)
    alias, source = configuration.model_source(request.model)
    with within("--against: no GGUF type: "):
        sources = [configuration.model_source(each) for each in request.smaller]
    if twice := [name for name, _ in sources if [alias, *(own for own, _ in sources)].count(name) > 1]:
        raise InputError(f"--against: two models are called {twice[0]}: rename a folder or file")
    taught = None if request.data else lm_eval_tasks.with_training_data(tasks)
    records, gpus = datasets.read_jsonl(request.data) if request.data else [], min(1, len(devices.visible()))
    if request.data:
        read = own_data.fields(records[0], f"--data {request.data}")
        read += ("input",) if read == own_data.WITH_INPUT else ()
        if unread := [name for name in records[0] if name not in read]:
            print(f"Note: of the data {' and '.join(read)} are read, and not {', '.join(unread)}.", flush=True)
    threads = request.cores if gpus else max(1, request.cores // 2)  # two jobs at once take less time than in turn
    mine = config_file.edited(out / CONFIG)
    if mine:
        print(f"{out / CONFIG} was edited and is used as it is; remove it to have it written anew.", flush=True)
        if alias not in mine.config.models:
            raise InputError(f"{out / CONFIG}: models: does not name {alias}, the model of the command line")
        for name in {*dict(sources)} - {*mine.config.models}:
            print(f"{out / CONFIG}: models: does not name {name} of --against, which is left out", flush=True)
        sources = [(name, each) for name, each in sources if name in mine.config.models]
    with within("", kind=ValueError):
        there = {*DEFAULT.method_names, *scores.installed(), *(mine.config.methods if mine else ())}
        base.known("--methods", list(request.methods or ()), there)
    known = Known(request, {alias: {}}, dict(sources), tasks, mine)
    first = {"models": {}, **configuration.OFF}
    for name, each in ((alias, source), *sources):
        parameters = configuration.parameters_of(each, known.place(name))
        first["models"] |= configuration.model_section(name, each, parameters, gpus, threads)
    sections = {name: section for task in tasks for name, section in task.dataset.items()}
    known = replace(known, smaller={name: first["models"][name]["source"] for name in known.smaller})
    first |= {"experiment": {"models": [alias], "methods": ["wanda"]}, "datasets": sections}
    put(out / START, configuration.text(first, "prune, before it has seen the model"))
    for task in tasks:
        if task.definition:
            put(out / "config" / "tasks" / f"{task.name}.yaml", task.definition)
    fetched = [names.BASE.format(model=name) for name in (alias, *known.smaller)]
    fetched += [taught.training] if taught else []
    fetched += [] if mine else [file for task in tasks for file in task.files]  # which an edited one may not ask
    written = all((out / "config" / "tasks" / f"{name}.yaml").is_file() for name in own_data.ASKING.values())
    run(request, f"fetching {request.model}", *fetched, config=known.config if written else START)

    manifest, shape = (json.loads((known.folder / name).read_text()) for name in ("manifest.json", "config.json"))
    section = configuration.model_section(alias, source, manifest["parameters"], gpus, threads)
    stock = loading.stock_config(known.folder).get_text_config()
    known = replace(
        known,
        model=section,
        smaller=with_smaller(known, section[alias]),
        context=stock.max_position_embeddings,
        vocabulary=stock.vocab_size,
    )
    given = f"--task {taught.name}" if taught else f"--data {request.data}"
    known = with_data(known, lm_eval_tasks.records(taught, out) if taught else records, given)
    if family_of(read_config(known.folder), known.folder).mixture:
        known = for_mixture(known)
    known = with_methods(known, shape, max(manifest["widths"]))
    if not any(method.vocabulary for method in known.compared.values()):
        known = known.noted(efforts.large_vocabulary(stock, manifest["parameters"], known.folder))
    if known.trained is not None:
        known = known.noted([f"A mixture of experts: sparsity counts the {known.units} of every layer."])
    if request.files:
        take.check(known.compared, known.folder)
    return known


def with_smaller(known: Known, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration's section of the models that this one is compared with, once all are fetched: computed
    alike. section: of this model.

    Raises InputError for one whose tokenizer or chat format is another: texts and questions are made in this one's."""
    from pruning.models import tokenizers

    found = {}
    for text in known.request.smaller:
        alias, _ = configuration.model_source(text)
        if alias not in known.smaller:  # an edited configuration does not name it
            continue
        folders = known.folder, known.place(alias)
        ours, theirs = ((vocabulary(each), tokenizers.load(each).chat_template) for each in folders)
        if ours != theirs:
            said = f"its tokenizer or chat format is not that of {known.request.model}"
            raise InputError(f"--against {text}: {said}, in which texts and questions are written: leave it out")
        check_file(f"--against {text}: ", folders[1])
        found[alias] = {**section, "source": known.smaller[alias]}
    return found


def for_mixture(known: Known) -> Known:
    """Return the request as a mixture of experts has it, and what recovery trains.

    Raises InputError for what is for dense models alone."""
    request = known.request
    if request.rounds:
        raise InputError(
            "--rounds: the model is a mixture of experts, whose weights are not reconstructed: leave it out"
        )
    if (kind := next(iter(budget_of(request.budget)), None)) in TIMED:
        raise InputError(f"--budget {kind}: the model is a mixture of experts: give parameters=… or bytes=…")
    notes, tensors = [], Checkpoint(known.folder).names
    targets = [name for name in ATTENTION if any(f".{name}.weight" in tensor for tensor in tensors)]
    if not request.methods:
        compared = f"{' and '.join(OF_MIXTURES)} are compared, as which is better differs between models"
        notes.append(f"{compared}. No weights are reconstructed. --methods names others, as reap, rku or narrow_wanda.")
    return known.noted(notes, request=replace(request, methods=request.methods or OF_MIXTURES), trained=targets)


def with_data(known: Known, records: list[dict[str, Any]], given: str) -> Known:
    """Write the user's records in three parts, their questions, and the tasks of these.

    given: how errors of the records begin."""
    from pruning.models import tokenizers

    request, effort, times = known.request, known.effort, configuration.ANSWERED[known.kind]
    tokenizer = tokenizers.load(known.folder)
    parts = own_data.split(own_data.texts(records, tokenizer, given))
    asked = request.questions or times * (effort.questions or efforts.ASKED * bool(request.answer))
    # As many for every effort: another one in the same folder keeps what the dense model has answered.
    offered = times * max(efforts.read(each, request.tokens).training_questions for each in efforts.EFFORTS)
    most = {"test": asked, "validation": offered // configuration.ASKED_OF, "train": offered}
    chat = own_data.in_chat(records[0], tokenizer)
    answers = own_data.answers(parts, request.answer, most, tokenizer, known.context, chat) if asked else None
    if request.questions and not answers:
        why = "not all reference answers end in a number, or no question fits the context: give --answer"
        if "answer" not in parts["train"][0]:
            why = "the records hold `text`, no questions with answers"
        raise InputError(f"--questions {asked}: no answers are judged: {why}")
    written, others = {"own-data": parts, f"own-data/{own_data.ANSWERS}": answers.records if answers else {}}, False
    for folder, each in written.items():
        for name, part in each.items():
            lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in part)
            others |= put(request.out / folder / f"{name}.jsonl", lines) and each is parts
    if others and (request.out / PAGE).is_file():
        print(f"{request.out} holds a run on other data: a run replaces its page and its tables. {config_file.KEEP}")
    if answers:
        for part, name in own_data.ASKING.items():
            put(request.out / "config" / "tasks" / f"{name}.yaml", answers.definition(part))
        for note in answers.notes:
            print(f"Note: {note}", flush=True)
    whole = {name: [pair["prompt"] + pair["completion"] for pair in part] for name, part in parts.items()}
    tokens = {name: sum(len(tokenizer(text)["input_ids"]) for text in texts) for name, texts in whole.items()}
    size = {name: sum(len(text.encode()) for text in texts) for name, texts in whole.items()}
    most = min(times * effort.training_questions, len(answers.records["train"])) if answers else 0
    own = Own(most, validation=most // configuration.ASKED_OF) if answers and effort.own_answers else None
    return replace(known, answers=answers, own=own, tokens=tokens, bytes=size)


def with_methods(known: Known, shape: Mapping[str, Any], width: int) -> Known:
    """Return the methods to compare, and notes of them.

    shape: the model's config.json; width: its widest layer's. Where a method reconstructs weights, the model's
    `memory_gb` is raised to what that takes, and where no two jobs fit the memory each has all cores. Raises InputError
    where this machine lacks what the effort or a method takes."""
    request, [section] = known.request, known.model.values()
    round_to = efforts.multiple(known.kind, [gguf.BLOCK[each] for each in request.files], width)
    equal = bool(request.files) and shape["model_type"] not in architectures.AS_DECI
    made = {each: efforts.method_for(efforts.read(each), shape, round_to, equal) for each in efforts.EFFORTS}
    named, notes = request.methods or (), []
    own = known.mine.config.methods if known.mine else {}
    found = {name: None if name in DEFAULT.method_names else own.get(name) or Method(score=name) for name in named}
    if not found:
        own, notes = made[request.effort]
        found = {request.effort: own.model_copy(update={"score": IN_ROUNDS} if request.rounds else {})}
    elif known.trained is None and (request.types or width >= efforts.LEAST_BLOCKS * round_to):
        found = {  # as fast as the efforts' are, and rows of a quantised file are whole blocks
            each: own.model_copy(
                update={"round_to": round_to} | ({"export": "pad"} if equal and own.allocate == "uniform" else {})
            )
            for each, own in efforts.definitions(found).items()
        }
    if request.vocabulary:
        found, said = efforts.with_vocabularies(found, request.vocabularies, known.folder)
        notes = [*notes, said]
    known, methods = replace(known, methods=found), efforts.definitions(found)
    cut = {"micro_batch": configuration.MICRO_BATCH, "sequence_length": min(configuration.SEQUENCE, known.context)}
    disk = shutil.disk_usage(request.out).free
    disk += sum(file.stat().st_size for file in request.out.rglob("*") if file.is_file())
    there = efforts.Needs(memory.physical() / 1e9, disk / 1e9)

    def needs(
        methods: Collection[Method], effort: str = request.effort, width: int = 0, asked: int | None = request.tokens
    ) -> efforts.Needs:
        tokens = efforts.read(effort, asked, width).tokens[known.kind]
        tokens = min(tokens, known.tokens["train"]) if known.own is None else tokens
        own = {**cut, "samples": tokens // cut["sequence_length"]}
        return efforts.needs(known.folder, section["dtype"], own, known.kind == "gpu", methods=methods)

    taken = needs(methods.values(), width=width)
    if taken.memory and not taken.lacking(there):
        known = replace(known, width=width)
    else:  # fewer tokens
        taken = needs(methods.values())
    if lacking := taken.lacking(there):
        if request.tokens and not needs(methods.values(), asked=None).lacking(there):
            raise InputError(f"--tokens {request.tokens}: {lacking}: lower it, or leave it out")
        asked, smaller = f"--methods {','.join(methods)}", []
        if not request.methods:
            asked, smaller = f"--effort {request.effort}", efforts.EFFORTS[: efforts.EFFORTS.index(request.effort)]
        fitting = [f"--effort {each}" for each in smaller if not needs([made[each][0]], each).lacking(there)]
        instead = fitting[-1] if fitting else f"--methods {efforts.WITHOUT_RECONSTRUCTION}"
        raise InputError(f"{asked}: {lacking}: use {instead}")
    if taken.memory:
        section["memory_gb"] = max(section["memory_gb"], math.ceil(taken.memory))
        print(f"Weight reconstruction takes up to {taken.memory:.1f} GB of memory and {taken.disk:.1f} GB of disk.")
    at_once = min(len(methods) * (len(request.sparsities) or 1), int(there.memory // section["memory_gb"]))
    if known.kind == "cpu" and at_once < 2:  # one model alone, and its jobs wait for one another
        section["threads"] = request.cores
    fewer = too_few_tokens(known, width) if known.own is None else []  # or else it is not known yet
    return known.noted([*notes, *efforts.unread(methods, shape), *fewer])


def too_few_tokens(known: Known, width: int) -> list[str]:
    """Return a note where there are too few calibration tokens for what the methods fit, at the least sparsity, or
    where that is not known yet at none. width: neurons of the widest layer."""
    from pruning.calibration.second_moments import HELD_OUT_EVERY  # torch is slow

    calibration, least = configuration.calibration(known), min(known.request.sparsities, default=0)
    samples, columns = calibration["samples"], round(width * (1 - least / 100))
    tokens = (samples - samples // HELD_OUT_EVERY) * calibration["sequence_length"]
    methods = efforts.definitions(known.methods)
    refitted = [name for name, method in methods.items() if method.compensate.startswith("ridge")]
    if not refitted or tokens >= TOKENS_A_COLUMN * columns:
        return []
    return [
        f"{', '.join(refitted)}: {tokens:,} calibration tokens fit {columns:,} columns per layer, fewer than "
        f"{TOKENS_A_COLUMN} per column: what is reconstructed may do worse on other text. Give more records, or "
        "more of their tokens with --tokens."
    ]
