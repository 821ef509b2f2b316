"""A configuration of the workflow, its run, a page to decide by, and the model to take."""

import contextlib
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from pruning.analysis import costs
from pruning.command import (
    against,
    config_file,
    configuration,
    decision,
    efforts,
    own_data,
    page,
    record,
    right_answers,
    words,
)
from pruning.command.ready import START, Ready, ready
from pruning.command.request import Request
from pruning.command.running import CONFIG, LOG, put, run
from pruning.core import artifacts, names
from pruning.core.errors import within
from pruning.core.names import DENSE

if TYPE_CHECKING:
    from pruning.command.plan import Stage

PAGE, TEXT_PAGE = "decision.html", "decision.md"
TEST = "own-data/test.jsonl"
ASSUMED = 30  # per cent: of a sparsity that is still to be found, in an estimate
TABLES = ("results/table1.csv", "results/validation.csv", "results/tradeoff.csv")
AGAINST = ("results/validation-bytes.csv", "results/table1-bytes.csv")  # of `--against`


class Result(NamedTuple):
    """What came out of a run: decision.rows, the model to take, its folder, and the page to decide by as Markdown."""

    models: pd.DataFrame
    folder: Path
    page: str
    files: list[Path]  # GGUF files of that model


def expected(about: Ready) -> list["Stage"]:
    """Return what is left to do, stage by stage; none where all is there. The model to take is not known yet: any
    stands for it, and so does ASSUMED for the sparsities that a budget will find.

    Raises InputError for what Snakemake refuses."""
    from pruning.command import cards, plan, work  # torch is slow

    request, out = about.request, about.request.out
    known, _ = right_answers.collect(about, ask=False)
    budgets, sparsities = budget_paths(about), request.sparsities
    if budgets:  # what an earlier run found
        earlier = {method: out / path for method, path in budgets.items() if (out / path).is_file()}
        earlier = {method: artifacts.read_json(path, "budget")["sparsity"] for method, path in earlier.items()}
        sparsities = dict.fromkeys(budgets, ASSUMED) | earlier
    content = configuration.build(request, known, about.methods, sparsities)
    put(out / START, configuration.text(content, "prune, before it runs"))
    [section] = about.known.model.values()
    at = {method: [sparsities[method]] if budgets else sparsities for method in about.methods}
    targets = [*budgets.values(), *tables(about), *exports(request, about.alias, stand_in(about.alias, out, at))]
    with (out / LOG).open("a+") as log, contextlib.chdir(out):
        options = ["--snakefile", str(names.HOME / "Snakefile"), "--configfile", about.config]
        with within("planning: ", f" (all of it: {out / LOG})"):
            jobs = plan.planned([*options, "--", *targets], log)
        if not jobs:
            return []
        config = about.mine[1] if about.mine else config_file.whole(content)
        card = cards.measured("cuda" if section["gpus"] else "cpu", section["dtype"])
        return plan.stages(work.Run(config, card), jobs)


def prune(request: Request, line: str, agree: Callable[[list["Stage"]], None] = lambda stages: None) -> Result:
    """Do what was asked for, in `request.out`, where a run that stopped goes on, and write the page to decide by.

    line: the command, which the configuration names. agree: is told what the run takes, before it starts, and may end
    it by an exception. Raises InputError for what cannot be done, with the words of a job that failed."""
    about = ready(request)
    request, alias, known, methods, notes, vocabulary, mine, start = about
    out = request.out
    agree(expected(about))
    known, said = right_answers.collect(about)
    for note in said:
        print(f"Note: {note}", flush=True)
    notes += said
    budgets, sparsities = {}, request.sparsities
    if request.budget:
        put(out / START, configuration.text(configuration.build(request, known, methods, []), line))
        paths = budget_paths(about)
        run(request, "looking for the sparsities", *paths.values(), config=start)
        budgets = {method: artifacts.read_json(out / path, "budget") for method, path in paths.items()}
        sparsities = {method: found["sparsity"] for method, found in budgets.items()}
    wanted = configuration.build(request, known, methods, sparsities)
    if mine:
        for difference in config_file.differences(mine[0], wanted):
            print(f"{out / CONFIG}: {difference}", flush=True)
    else:
        if said := config_file.replaced(out / CONFIG, wanted, line):
            print(said, flush=True)
        put(out / CONFIG, config_file.signed(configuration.text(wanted, line)))
    run(request, "pruning and measuring", *tables(about))

    table, validation, tradeoff = (artifacts.read_csv(out / each) for each in TABLES)
    measures = decision.measures(table)
    models = decision.rows(table, validation, tradeoff, measures)
    choice = decision.choose(models, request.tolerance, equal_cost=bool(budgets))
    compared = [artifacts.read_csv(out / each) for each in tables(about) if each in AGAINST]
    tested = next((each for each in measures if each.key == "answers"), measures[0])
    target, *files = exports(request, alias, choice.variant)
    run(request, "writing the model to take", target, *files)
    if known.answers and (answered := out / names.DENSE.samples(alias, own_data.ANSWERS)).is_file():
        notes += known.answers.notes
        notes += decision.without_answer(artifacts.read_parquet(answered, "samples"), known.answers.judge.name)
    kept = record.widths(out, alias, models["variant"])
    columns = mine[1].table("table1").tasks if mine else wanted["tables"]["table1"]["tasks"]
    answers = record.answers(out, alias, choice.variant, columns)
    questions = {each["prompt"]: each["question"] for each in known.answers.records["test"]} if known.answers else {}
    made_with = artifacts.read_json(artifacts.record_of(out / TABLES[0]), "csv")["provenance"]
    content = words.Content(
        request.model,
        models,
        measures,
        choice,
        request.tolerance,
        str(out / target),
        vocabulary,
        budgets=budgets,
        units="FFN neurons" if known.trained is None else "experts",
        notes=notes,
        full=kept.pop(DENSE),
        widths=kept,
        examples=record.examples(answers, questions),
        outcomes=record.outcomes(answers),
        stages=costs.summary(costs.read(out / names.BENCHMARKS, None)),
        recipes={} if mine or request.methods else dict.fromkeys(methods, efforts.read(request.effort).summary),
        command=line,
        versions={"Python": platform.python_version(), **made_with["versions"]},
        parts={part: len((out / f"own-data/{part}.jsonl").read_text().splitlines()) for part in own_data.PARTS},
        against=against.read(*compared, choice.variant, tested) if compared else None,
    )
    said = page.markdown(content)
    put(out / TEXT_PAGE, said)
    put(out / PAGE, page.html(content))
    return Result(models, out / target, said, [out / file for file in files])


def tables(about: Ready) -> tuple[str, ...]:
    """Return the tables that a page is made of."""
    mine = about.mine and [about.mine[1].table(name) for name in ("validation", "table1")]
    compared = all(table.types for table in mine) if mine else about.request.against
    return TABLES + AGAINST if compared else TABLES


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


def budget_paths(about: Ready) -> dict[str, str]:
    """Method -> what scripts/budget.py finds for it: the least sparsity that meets the budget, and what it costs; none
    without a budget."""
    place = {"model": about.alias, "calib": "own", "budget": configuration.BUDGET}
    methods = about.methods if about.request.budget else ()
    return {method: names.BUDGET.format(method=method, **place) for method in methods}
