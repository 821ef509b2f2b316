"""A configuration of the workflow, its run, a page to decide by, and the model to take."""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from pruning.command import config_file, configuration, decision, defaults, own_data
from pruning.command.configuration import Known, Request
from pruning.config.schema import Config
from pruning.core import artifacts, devices, memory, names, workflow
from pruning.core.errors import InputError
from pruning.core.plugins.snakemake_logger_plugin_pruning import Bar
from pruning.data import datasets

if TYPE_CHECKING:
    from pruning.analysis.plan import Stage

CONFIG, LOG, PAGE, EVENTS = "prune.yaml", "prune.log", "decision.md", ".prune-events.jsonl"
START = ".prune-start.yaml"
"""The configuration of what comes before the one that is shown: fetching, and looking for sparsities."""
TEST = "own-data/test.jsonl"
ASSUMED = 30
"""Per cent: of a sparsity that is still to be found, in an estimate."""
FIGURE = "results/figures/tradeoff.png"
TABLES = ("results/table1.csv", "results/tradeoff.csv")


class Result(NamedTuple):
    """What came out of a run: decision.rows, the model to take, its folder, and a page of Markdown to decide by."""

    models: pd.DataFrame
    choice: decision.Choice
    folder: Path
    page: str
    files: list[Path]
    """GGUF files of that model."""


class Ready(NamedTuple):
    """A request once its model is fetched and its data are read."""

    alias: str
    folder: Path
    """The model's."""
    known: Known
    methods: list[str]
    notes: list[str]
    vocabulary: int
    mine: tuple[dict[str, Any], Config] | None
    """The configuration, where the user has edited it."""


def ready(request: Request) -> Ready:
    """Fetch the model, write the data, and choose the methods.

    Raises InputError for what cannot be done, with the words of a job that failed."""
    from pruning.models import gguf, loading  # torch is slow

    for kind in request.gguf:
        gguf.check(kind, "--gguf: ")
    out, (alias, source) = request.out, configuration.model_source(request.model)
    records, gpus = datasets.read_jsonl(request.data), min(1, len(devices.visible()))
    mine = config_file.edited(out / CONFIG)
    if mine:
        print(f"{out / CONFIG} was edited and is used as it is; remove it to have it written anew.", flush=True)
        if alias not in mine[1].models:
            raise InputError(f"{out / CONFIG}: models: does not name {alias}, the model of the command line")
    base = Path(names.BASE.format(model=alias))
    folder = out / base.parent
    parameters = configuration.parameters_of(source, folder)
    first = configuration.fetching(configuration.model_section(alias, source, parameters, gpus, request.cores))
    put(out / START, configuration.text(first, "prune, before it has seen the model"))
    run(request, f"fetching {request.model}", str(base), config=CONFIG if mine else START)

    manifest, shape = (json.loads((folder / name).read_text()) for name in (base.name, "config.json"))
    section = configuration.model_section(alias, source, manifest["parameters"], gpus, request.cores)
    stock = loading.stock_config(folder).get_text_config()
    known = Known(section, stock.max_position_embeddings, *read_data(request, records, folder))
    methods, notes = methods_for(request, known, folder, shape, max(manifest["widths"]))
    if request.gguf:
        defaults.check_gguf(mine[1].table("table1").methods if mine else methods, folder)
    return Ready(alias, folder, known, methods, notes, stock.vocab_size, mine)


def expected(request: Request, about: Ready) -> "list[Stage]":
    """Return what is left to do, stage by stage; none where all is there. The model to take is not known yet: any
    stands for it, and so does ASSUMED for the sparsities that a budget will find.

    Raises InputError for what Snakemake refuses."""
    from pruning.analysis import plan, work  # torch is slow

    budgets, sparsities = budget_paths(about) if request.budget else {}, request.sparsities
    if budgets:
        sparsities = {method: found_before(request.out / path) for method, path in budgets.items()}
    content = configuration.build(request, about.known, about.methods, sparsities)
    if not about.mine:
        put(request.out / START, configuration.text(content, "prune, before it runs"))
    [section] = about.known.model.values()
    at = {method: [sparsities[method]] if budgets else sparsities for method in about.methods}
    taken = stand_in(about, request.out, at)
    targets = [*budgets.values(), *TABLES, FIGURE, *exports(request, about.alias, taken)]
    with (request.out / LOG).open("a+") as log, contextlib.chdir(request.out):
        options = ["--snakefile", str(names.HOME / "Snakefile"), "--configfile", CONFIG if about.mine else START]
        try:
            jobs = plan.planned([*options, "--", *targets], log)
        except InputError as error:
            raise InputError(f"planning: {error} (all of it: {request.out / LOG})") from None
        if not jobs:
            return []
        config = about.mine[1] if about.mine else config_file.whole(content)
        card = work.measured("cuda" if section["gpus"] else "cpu", section["dtype"])
        return plan.stages(work.Run(config, card), jobs)


def prune(request: Request, line: str, agree: Callable[[list["Stage"]], None] = lambda stages: None) -> Result:
    """Do what was asked for, in `request.out`, where a run that stopped goes on, and write the page to decide by.

    line: the command, which the configuration names. agree: is told what the run takes, before it starts, and may end
    it by an exception. Raises InputError for what cannot be done, with the words of a job that failed."""
    about, out = ready(request), request.out
    alias, methods, mine = about.alias, about.methods, about.mine
    agree(expected(request, about))
    budgets, sparsities = {}, request.sparsities
    if request.budget:
        if not mine:
            put(out / START, configuration.text(configuration.build(request, about.known, methods, []), line))
        budgets = within_budget(request, about)
        sparsities = {method: found["sparsity"] for method, found in budgets.items()}
    wanted = configuration.build(request, about.known, methods, sparsities)
    if mine:
        for difference in config_file.differences(mine[0], wanted):
            print(f"{out / CONFIG}: {difference}", flush=True)
    else:
        if said := config_file.replaced(out / CONFIG, wanted, line):
            print(said, flush=True)
        put(out / CONFIG, config_file.signed(configuration.text(wanted, line)))
    run(request, "pruning and measuring", *TABLES, FIGURE)

    models = decision.rows(*(artifacts.read_csv(out / table) for table in TABLES))
    choice = decision.choose(models, request.tolerance, equal_cost=bool(budgets))
    target, *files = exports(request, alias, choice.variant)
    run(request, "writing the model to take", target, *files)
    reference = mine[1].table("table1").reference if mine else methods[0]
    told = {"vocabulary": about.vocabulary, "budgets": budgets, "notes": about.notes}
    page = decision.page(models, choice, request.tolerance, reference, str(out / target), **told)
    put(out / PAGE, page)
    return Result(models, choice, out / target, page, [out / file for file in files])


def found_before(path: Path) -> int:
    """Return the sparsity that an earlier run found for a budget, or else one that it may be."""
    return artifacts.read_json(path, "budget")["sparsity"] if path.is_file() else ASSUMED


def stand_in(about: Ready, out: Path, at: Mapping[str, Sequence[int]]) -> names.Variant:
    """Return the model that an earlier run like this exported, or else one that may be. at: sparsities by method."""
    exported = out / Path(names.EXPORT.format(model=about.alias, variant="x")).parents[1]
    for folder in sorted(exported.glob("own/**/model")):
        made = names.Variant.parse(folder.parent.relative_to(exported).as_posix())
        if made.sparsity in at.get(made.method, ()):
            return made
    return names.Variant("own", about.methods[0], at[about.methods[0]][0])


def exports(request: Request, alias: str, variant: names.Variant) -> list[str]:
    """Return the folder of a model to take, and its GGUF files."""
    files = [f"{names.GGUF.format(model=alias, variant=variant, type=kind)}.gguf" for kind in request.gguf]
    return [names.EXPORT.format(model=alias, variant=variant), *files]


def read_data(request: Request, records: list[dict[str, Any]], folder: Path) -> list[int]:
    """Write the user's records as training and test data; return the tokens of either. folder: the model's."""
    from pruning.models import tokenizers

    tokenizer = tokenizers.load(folder)
    parts = own_data.split(own_data.texts(records, tokenizer, request.data))
    for name, part in zip(("train", "test"), parts, strict=True):
        lines = (json.dumps(pair, ensure_ascii=False) + "\n" for pair in part)
        put(request.out / "own-data" / f"{name}.jsonl", "".join(lines))
    return [sum(len(tokenizer(p["prompt"] + p["completion"])["input_ids"]) for p in part) for part in parts]


def methods_for(
    request: Request, known: Known, folder: Path, shape: dict[str, Any], width: int
) -> tuple[list[str], list[str]]:
    """The methods to compare, and what is printed of them. shape: the model's config.json; width: its widest layer's.

    Where one refits, the model's `memory_gb` is raised to what that takes. Raises InputError as defaults.chosen."""
    [section], cut = known.model.values(), configuration.calibration(known)
    refits = defaults.refits(folder, section["dtype"], cut, known.kind == "gpu")
    disk = shutil.disk_usage(request.out).free
    disk += sum(file.stat().st_size for file in request.out.rglob("*") if file.is_file())
    lacking = refits.lacking(memory.physical() / 1e9, disk / 1e9)
    methods, notes = defaults.chosen(request.methods, shape, lacking)
    if defaults.refitted(methods):
        section["memory_gb"] = max(section["memory_gb"], math.ceil(refits.memory))
        print(f"Refits take up to {refits.memory:.1f} GB of memory and {refits.disk:.1f} GB of disk meanwhile.")
    notes += defaults.remarks(methods, shape, width, cut, min(request.sparsities, default=0))
    for note in notes:
        print(f"Note: {note}", flush=True)
    return methods, notes


def budget_paths(about: Ready) -> dict[str, str]:
    """Method -> what scripts/budget.py finds for it: the least sparsity that meets the budget, and what it costs."""
    place = {"model": about.alias, "calib": "own", "budget": configuration.BUDGET}
    return {method: names.BUDGET.format(method=method, **place) for method in about.methods}


def within_budget(request: Request, about: Ready) -> dict[str, dict[str, Any]]:
    """Look for the sparsities that meet the budget; by method."""
    paths = budget_paths(about)
    run(request, "looking for the sparsities", *paths.values(), config=CONFIG if about.mine else START)
    return {method: artifacts.read_json(request.out / path, "budget") for method, path in paths.items()}


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
    arguments += ["--configfile", str(out / config), "--", *targets]
    with (out / LOG).open("a+") as log, (out / EVENTS).open("a") as kept, Bar(what) as bar:
        try:
            for event in workflow.events(arguments, log):
                kept.write(json.dumps(event) + "\n")
                kept.flush()
                bar.show(event)
        except InputError as error:
            raise InputError(f"{what}: {error} (all of it: {out / LOG})") from None
