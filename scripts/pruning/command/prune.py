"""A configuration of the workflow, its run, a page to decide by, and the model to take."""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from pruning.command import (
    config_file,
    configuration,
    decision,
    efforts,
    lm_eval_tasks,
    own_data,
    page,
    record,
    take,
    words,
)
from pruning.command.configuration import Known, Request
from pruning.config.methods import Method
from pruning.config.schema import Config
from pruning.core import artifacts, devices, memory, names, workflow
from pruning.core.errors import InputError
from pruning.core.names import DENSE
from pruning.core.plugins.snakemake_logger_plugin_pruning import Bar
from pruning.data import datasets, text
from pruning.models import gguf

if TYPE_CHECKING:
    from pruning.analysis.plan import Stage

CONFIG, LOG, EVENTS = "prune.yaml", "prune.log", ".prune-events.jsonl"
PAGE, TEXT_PAGE = "decision.html", "decision.md"
START = ".prune-start.yaml"
"""The configuration of what comes before the one that is shown: fetching, and looking for sparsities."""
LEAST_ANSWERS = 40
"""Right answers of the dense model's own, with which a recovery on these is worth it."""
TEST = "own-data/test.jsonl"
ASSUMED = 30
"""Per cent: of a sparsity that is still to be found, in an estimate."""
TABLES = ("results/table1.csv", "results/validation.csv", "results/tradeoff.csv")


class Result(NamedTuple):
    """What came out of a run: decision.rows, the model to take, its folder, and the page to decide by as Markdown."""

    models: pd.DataFrame
    measures: list[decision.Measure]
    choice: decision.Choice
    folder: Path
    page: str
    files: list[Path]
    """GGUF files of that model."""


class Ready(NamedTuple):
    """A request once its model is fetched and its data are read."""

    request: Request
    """With what its effort adds."""
    alias: str
    known: Known
    methods: dict[str, Method | None]
    notes: list[str]
    vocabulary: int
    mine: tuple[dict[str, Any], Config] | None
    """The configuration, where the user has edited it."""
    config: str
    """The configuration's name, of what runs before it is written."""


def ready(request: Request) -> Ready:
    """Fetch the model, write the data, and choose the methods.

    Raises InputError for what cannot be done, with the words of a job that failed."""
    from pruning.models import loading  # torch is slow

    configuration.check(request)
    request = configuration.with_recovery(request)
    tasks = lm_eval_tasks.asked(request.tasks)
    out, (alias, source) = request.out, configuration.model_source(request.model)
    records, gpus = datasets.read_jsonl(request.data), min(1, len(devices.visible()))
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
    first = configuration.fetching(configuration.model_section(alias, source, parameters, gpus, threads))
    put(out / START, configuration.text(first, "prune, before it has seen the model"))
    run(request, f"fetching {request.model}", str(base), config=start)

    manifest, shape = (json.loads((folder / name).read_text()) for name in (base.name, "config.json"))
    section = configuration.model_section(alias, source, manifest["parameters"], gpus, threads)
    stock = loading.stock_config(folder).get_text_config()
    known = Known(section, stock.max_position_embeddings, 0, 0, 0, tasks=tasks)
    known = read_data(request, records, folder, known)
    methods, notes = methods_for(request, known, folder, shape, max(manifest["widths"]))
    if request.gguf:
        of_mine = {name: mine[1].method(name) for name in mine[1].table("table1").methods} if mine else {}
        take.check(of_mine or efforts.definitions(methods), folder)
    return Ready(request, alias, known, methods, notes, stock.vocab_size, mine, start)


def expected(about: Ready) -> list["Stage"]:
    """Return what is left to do, stage by stage; none where all is there. The model to take is not known yet: any
    stands for it, and so does ASSUMED for the sparsities that a budget will find.

    Raises InputError for what Snakemake refuses."""
    from pruning.analysis import plan, work  # torch is slow

    request, out = about.request, about.request.out
    budgets, sparsities = budget_paths(about), request.sparsities
    if budgets:
        sparsities = {method: found_before(out / path) for method, path in budgets.items()}
    content = configuration.build(request, about.known, about.methods, sparsities)
    put(out / START, configuration.text(content, "prune, before it runs"))
    [section] = about.known.model.values()
    at = {method: [sparsities[method]] if budgets else sparsities for method in about.methods}
    targets = [*budgets.values(), *TABLES, *exports(request, about.alias, stand_in(about.alias, out, at))]
    with (out / LOG).open("a+") as log, contextlib.chdir(out):
        options = ["--snakefile", str(names.HOME / "Snakefile"), "--configfile", about.config]
        try:
            jobs = plan.planned([*options, "--", *targets], log)
        except InputError as error:
            raise InputError(f"planning: {error} (all of it: {out / LOG})") from None
        if not jobs:
            return []
        config = about.mine[1] if about.mine else config_file.whole(content)
        card = work.measured("cuda" if section["gpus"] else "cpu", section["dtype"])
        return plan.stages(work.Run(config, card), jobs)


def prune(request: Request, line: str, agree: Callable[[list["Stage"]], None] = lambda stages: None) -> Result:
    """Do what was asked for, in `request.out`, where a run that stopped goes on, and write the page to decide by.

    line: the command, which the configuration names. agree: is told what the run takes, before it starts, and may end
    it by an exception. Raises InputError for what cannot be done, with the words of a job that failed."""
    about = ready(request)
    request, alias, known, methods, notes, vocabulary, mine, start = about
    out = request.out
    agree(expected(about))
    if request.recover and request.own_answers and known.answers:
        put(out / START, configuration.text(configuration.build(request, known, methods, []), line))
        request, said = with_own_answers(request, alias, start)
        notes += said
    budgets, sparsities = {}, request.sparsities
    if request.budget:
        put(out / START, configuration.text(configuration.build(request, known, methods, []), line))
        budgets = within_budget(about)
        sparsities = {method: found["sparsity"] for method, found in budgets.items()}
    wanted = configuration.build(request, known, methods, sparsities)
    if mine:
        for difference in config_file.differences(mine[0], wanted):
            print(f"{out / CONFIG}: {difference}", flush=True)
    else:
        if said := config_file.replaced(out / CONFIG, wanted, line):
            print(said, flush=True)
        put(out / CONFIG, config_file.signed(configuration.text(wanted, line)))
    run(request, "pruning and measuring", *TABLES)

    table, validation, tradeoff = (artifacts.read_csv(out / each) for each in TABLES)
    measures = decision.measures(table)
    models = decision.rows(table, validation, tradeoff, measures)
    choice = decision.choose(models, request.tolerance, equal_cost=bool(budgets))
    target, *files = exports(request, alias, choice.variant)
    run(request, "writing the model to take", target, *files)
    if known.answers and (answered := out / names.DENSE.samples(alias, own_data.ANSWERS)).is_file():
        notes += known.answers.notes
        notes += decision.without_answer(artifacts.read_parquet(answered, "samples"), known.answers.judge.name)
    kept = record.widths(out, alias, models["variant"])
    columns = mine[1].table("table1").tasks if mine else wanted["tables"]["table1"]["tasks"]
    answers = record.answers(out, alias, choice.variant, columns)
    questions = {each["prompt"]: each["question"] for each in known.answers.records["test"]} if known.answers else {}
    content = words.Content(
        request.model,
        models,
        measures,
        choice,
        request.tolerance,
        str(out / target),
        vocabulary,
        budgets=budgets,
        notes=notes,
        full=kept.pop(DENSE),
        widths=kept,
        examples=record.examples(answers, questions),
        outcomes=record.outcomes(answers),
        stages=record.stages(out),
        recipes={} if mine or request.methods else {request.effort: efforts.read(request.effort).summary},
        command=line,
        versions=record.versions(out / TABLES[0]),
        parts=record.parts(out),
    )
    said = page.markdown(content)
    put(out / TEXT_PAGE, said)
    put(out / PAGE, page.html(content))
    return Result(models, measures, choice, out / target, said, [out / file for file in files])


def found_before(path: Path) -> int:
    """Return the sparsity that an earlier run found for a budget, or else one that it may be."""
    return artifacts.read_json(path, "budget")["sparsity"] if path.is_file() else ASSUMED


def stand_in(alias: str, out: Path, at: Mapping[str, Sequence[int]]) -> names.Variant:
    """Return the model that an earlier run like this exported, or else one that may be. at: sparsities by method."""
    exported = out / Path(names.EXPORT.format(model=alias, variant="x")).parents[1]
    for folder in sorted(exported.glob("own/**/model")):
        made = names.Variant.parse(folder.parent.relative_to(exported).as_posix())
        if made.sparsity in at.get(made.method, ()):
            return made
    return names.Variant("own", *next((method, sparsities[0]) for method, sparsities in at.items()))


def exports(request: Request, alias: str, variant: names.Variant) -> list[str]:
    """Return the folder of a model to take, and its GGUF files."""
    files = [f"{names.GGUF.format(model=alias, variant=variant, type=kind)}.gguf" for kind in request.gguf]
    return [names.EXPORT.format(model=alias, variant=variant), *files]


def read_data(request: Request, records: list[dict[str, Any]], folder: Path, about: Known) -> Known:
    """Write the user's records in three parts, their questions, and the tasks of these and of lm-eval; return what is
    known then. folder: the model's."""
    from pruning.models import tokenizers

    tokenizer = tokenizers.load(folder)
    parts = own_data.split(own_data.texts(records, tokenizer, request.data))
    effort, times = efforts.read(request.effort), configuration.ANSWERED[about.kind]
    asked = request.questions or times * (effort.questions or efforts.ASKED * bool(request.answer))
    most = {"test": asked, "train": times * effort.training_questions}
    chat = own_data.in_chat(records[0], tokenizer)
    answers = own_data.answers(parts, request.answer, most, tokenizer, about.context, chat) if asked else None
    if request.questions and not answers:
        raise InputError(
            f"--questions {asked}: no answers are judged, as not all reference answers end in a number: give --answer"
        )
    own = request.out / "own-data"
    definitions = {task.name: task.definition for task in about.tasks if task.definition}
    for name, part in parts.items():
        put(own / f"{name}.jsonl", _lines(part))
    if answers:
        for name, part in answers.records.items():
            put(own / own_data.ANSWERS / f"{name}.jsonl", _lines(part))
        definitions |= {own_data.ANSWERS: answers.definition("test"), own_data.ON_TRAIN: answers.definition("train")}
        for note in answers.notes:
            print(f"Note: {note}", flush=True)
    for name, definition in definitions.items():
        put(request.out / "config" / "tasks" / f"{name}.yaml", definition)
    tokens = {
        name: sum(len(tokenizer(pair["prompt"] + pair["completion"])["input_ids"]) for pair in part)
        for name, part in parts.items()
    }
    return replace(about, answers=answers, **tokens)


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
    same_widths = bool(request.gguf) and not gguf.takes(shape["model_type"], [1, 2])
    round_to = efforts.multiple(known.kind, [gguf.BLOCK[each] for each in request.gguf], width)
    made = {each: efforts.method_for(efforts.read(each), shape, round_to, same_widths) for each in efforts.EFFORTS}
    if request.methods:
        found: dict[str, Method | None] = dict.fromkeys(request.methods)
        notes = []
    else:
        own, notes = made[request.effort]
        if request.rounds:
            own = own.model_copy(update={"score": configuration.IN_ROUNDS})
        found = {request.effort: own}
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


def with_own_answers(request: Request, alias: str, config: str) -> tuple[Request, list[str]]:
    """The request, to be recovered on the dense model's own right answers where there are enough, else on the data;
    and what is to be said of that."""
    path = names.DENSE.samples(alias, own_data.ON_TRAIN)
    run(request, "answering the training questions", path, config=config)
    samples = artifacts.read_parquet(request.out / path, "samples")
    try:
        right = len(text.own_answers(samples, own_data.ON_TRAIN, own_data.METRIC))
    except InputError:
        right = 0
    if right >= LEAST_ANSWERS:
        return request, [f"Recovered on {right} right answers of the dense model's own to {len(samples)} questions."]
    said = f"The dense model answers {right} of {len(samples)} training questions right and to the end, fewer than "
    said += f"{LEAST_ANSWERS}: models are recovered on the data themselves."
    print(f"Note: {said}", flush=True)
    return replace(request, own_answers=False), [said]


def budget_paths(about: Ready) -> dict[str, str]:
    """Method -> what scripts/budget.py finds for it: the least sparsity that meets the budget, and what it costs; none
    without a budget."""
    place = {"model": about.alias, "calib": "own", "budget": configuration.BUDGET}
    methods = about.methods if about.request.budget else ()
    return {method: names.BUDGET.format(method=method, **place) for method in methods}


def within_budget(about: Ready) -> dict[str, dict[str, Any]]:
    """Look for the sparsities that meet the budget; by method."""
    out, paths = about.request.out, budget_paths(about)
    run(about.request, "looking for the sparsities", *paths.values(), config=about.config)
    return {method: artifacts.read_json(out / path, "budget") for method, path in paths.items()}


def put(path: Path, text: str) -> None:
    """Write, but leave a file that says the same alone."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def run(request: Request, what: str, *targets: str, config: str = CONFIG) -> None:
    """Run the workflow in `request.out`, by the configuration of this name, and show its progress.

    Raises InputError with the failed job's own words."""
    out = request.out
    arguments = ["--snakefile", str(names.HOME / "Snakefile"), "--directory", str(out), "--cores", str(request.cores)]
    arguments += ["--resources", f"mem_mb={int(memory.physical() / 1e6)}"]  # jobs at once fit in
    arguments += ["--configfile", str(out / config), "--", *targets]
    with (out / LOG).open("a+") as log, (out / EVENTS).open("a") as kept, Bar(what) as bar:
        try:
            for event in workflow.events(arguments, log):
                kept.write(json.dumps(event) + "\n")
                kept.flush()
                bar.show(event)
        except InputError as error:
            raise InputError(f"{what}: {error} (all of it: {out / LOG})") from None
