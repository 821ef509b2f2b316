"""A configuration of the workflow, its run, a page to decide by, and the model to take."""

import contextlib
import json
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from pruning.analysis import costs
from pruning.command import comparisons, config_file, configuration, decision, own_data, page, right_answers, words
from pruning.command.known import Known
from pruning.command.ready import ready, too_few_tokens
from pruning.command.request import Request, budget_of
from pruning.command.running import CONFIG, EVENTS, LOG, PAGE, PAGE_WRITTEN, START, TEXT_PAGE, one_at_a_time, put, run
from pruning.core import artifacts, names
from pruning.core.errors import InputError, within
from pruning.data import datasets

if TYPE_CHECKING:
    from pruning.command.estimate import Stage
    from pruning.config.schema import Config

TEST = "own-data/test.jsonl"
ASSUMED = 30  # per cent: of a sparsity that is still to be found, in an estimate
TABLES = ("results/table1.csv", "results/validation.csv", "results/tradeoff.csv")
AGAINST = ("results/validation-bytes.csv", "results/table1-bytes.csv")  # of `--against TYPE`
SMALLER = "results/smaller-bytes.csv"  # of `--against MODEL`
METHODS = "results/methods.csv"  # of several methods


class Result(NamedTuple):
    """What came out of a run: decision.rows, the model to take, its folder, and the page to decide by as Markdown."""

    models: pd.DataFrame
    folder: Path
    page: str
    files: list[Path]  # GGUF files of that model


def expected(known: Known) -> list["Stage"]:
    """Return what is left to do, stage by stage; none where all is there. The model to take is not known yet: any
    stands for it, and so does ASSUMED for the sparsities that a budget will find.

    Raises InputError for what Snakemake refuses."""
    from pruning.command import cards, estimate, work  # torch is slow

    request, out = known.request, known.request.out
    known = replace(known, own=right_answers.collect(known, ask=False)[0])
    sparsities, pruned = request.sparsities, [*product(known.methods, request.sparsities)]
    if request.budget:
        sparsities = dict.fromkeys(known.methods, ASSUMED) | found_before(known)
        pruned = [*sparsities.items()]
    content = configuration.build(known, sparsities)
    put(out / START, configuration.text(content, "prune, before it runs"))
    if known.mine:
        pruned = known.mine.config.table("table1").pruned
    targets = [*budget_paths(known).values(), *tables(known), *exports(known, stand_in(known, pruned))]
    with (out / LOG).open("a+") as log, contextlib.chdir(out):
        options = ["--snakefile", str(names.HOME / "Snakefile"), "--configfile", known.config]
        with within("planning: ", f" (all of it: {out / LOG})"):
            jobs = estimate.planned([*options, "--", *targets], log)
        if not jobs:
            return []
        config = known.mine.config if known.mine else config_file.whole(content)
        card = cards.measured("cuda" if known.kind == "gpu" else "cpu", known.model[known.alias]["dtype"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' own, about its own
            return estimate.stages(work.Run(config, card), jobs)


@one_at_a_time
def prune(request: Request, line: str, agree: Callable[[list["Stage"]], None] = lambda stages: None) -> Result:
    """Do what was asked for, in `request.out`, where a run that stopped goes on, and write the page to decide by.

    line: the command, which the configuration names. agree: is told what the run takes, before it starts, and may end
    it by an exception. Raises InputError for what cannot be done, with the words of a job that failed."""
    known = ready(request)
    request, out, budgets, sparsities = known.request, known.request.out, {}, known.request.sparsities
    agree(expected(known))
    own, said = right_answers.collect(known)
    if known.own is not None:
        width = max(artifacts.read_json(known.folder / "manifest.json", "base")["widths"])
        said = [*said, *too_few_tokens(replace(known, own=own), width)]
    known = replace(known, own=own)
    known = known.noted([*said, *right_answers.of_others(known)])
    if request.budget:
        put(out / START, configuration.text(configuration.build(known, []), line))
        run(request, "looking for the sparsities", *budget_paths(known).values(), config=known.config)
        budgets, sparsities = found_for(known)
    wanted = configuration.build(known, sparsities)
    if known.mine and budgets and (other := budgeted(known.mine.config, sparsities)):
        raise InputError(f"{out / CONFIG}: {other}: the budget asks for {sparsities}: set these, or leave --budget out")
    if known.mine:
        for difference in config_file.differences(known.mine.content, wanted):
            print(f"{out / CONFIG}: {difference}", flush=True)
    else:
        if said := config_file.replaced(out / CONFIG, wanted, line):
            print(said, flush=True)
        put(out / CONFIG, config_file.signed(configuration.text(wanted, line)))
    run(request, "pruning and measuring", *tables(known))

    read = {each: artifacts.read_csv(out / each) for each in tables(known)}
    table, validation, tradeoff = (read[each] for each in TABLES)
    measures = decision.measures(table)
    models = decision.rows(table, validation, tradeoff, measures)
    choice = decision.choose(models, known.tolerance, equal_cost=bool(budgets))
    target, *files = exports(known, choice.variant)
    run(request, "writing the model to take", target, *files)
    notes, questions = [*known.notes], {}
    if known.answers:
        questions = {each["prompt"]: each["question"] for each in known.answers.records["test"]}
        if (answered := out / names.DENSE.samples(known.alias, own_data.ANSWERS)).is_file():
            notes += known.answers.notes
            notes += decision.without_answer(artifacts.read_parquet(answered, "samples"), known.answers.judge.name)
    if METHODS in read:
        notes += comparisons.between(read[METHODS], measures)
    columns = known.mine.config.table("table1").tasks if known.mine else wanted["tables"]["table1"]["tasks"]
    answers = decision.answers(out, known.alias, choice.variant, columns, questions)
    made_with = artifacts.read_json(artifacts.record_of(out / TABLES[0]), "csv")["provenance"]
    content = words.Content(
        request.model,
        models,
        measures,
        choice,
        known.tolerance,
        str(out / target),
        known.vocabulary,
        budgets=budgets,
        units=known.units,
        notes=notes,
        widths=decision.widths(out, known.alias, models["variant"]),
        examples=decision.examples(answers),
        outcomes=decision.outcomes(answers),
        stages=costs.summary(costs.read(out / names.BENCHMARKS, None)),
        recipes={} if known.mine or request.methods else dict.fromkeys(known.methods, known.effort.summary),
        command=line,
        versions={"Python": platform.python_version(), **made_with["versions"]},
        parts={part: len(datasets.read_jsonl(out / f"own-data/{part}.jsonl")) for part in own_data.PARTS},
        against=compared(known, read, choice.variant, measures),
    )
    said = page.markdown(content)
    put(out / TEXT_PAGE, said)
    put(out / PAGE, page.html(content))
    with (out / EVENTS).open("a") as events:
        events.write(json.dumps({"event": PAGE_WRITTEN}) + "\n")
    return Result(models, out / target, said, [out / file for file in files])


def tables(known: Known) -> tuple[str, ...]:
    """Return the tables that a page is made of."""
    types, smaller, several = known.request.types, known.smaller, configuration.several(known)
    if known.mine:
        asked = known.mine.config.tables_used
        types = all(asked[name].types for name in ("validation", "table1"))
        smaller, several = "smaller" in asked and asked["smaller"].types, "methods" in asked
    return (*TABLES, *(AGAINST if types else ()), *([SMALLER] if smaller else []), *([METHODS] if several else []))


def compared(
    known: Known, read: Mapping[str, pd.DataFrame], taken: names.Variant, measures: Sequence[decision.Measure]
) -> dict[str, words.Against]:
    """Return what may be taken in the pruned model's place -> how they compare. read: `tables` by path. In fewer bits
    by the text that models are chosen by, on validation data; with other models on test data (compared_by)."""
    found, tuned = {}, f"@{taken.tuning}" if taken.tuning else ""

    def rows(table: str, task: str) -> pd.DataFrame:
        return read[table][read[table]["column"] == f"{task}{tuned}"]

    def measured(table: str) -> decision.Measure | None:
        """By which of the measures that a table has: an edited configuration may lack the one that tells most."""
        there = [each for each in measures if f"{each.task}{tuned}" in set(read[table]["column"])]
        asked = configuration.compared_by(known)
        return next((each for each in there if each.task == asked), there[0] if there else None)

    if AGAINST[0] in read and (tested := measured(AGAINST[1])):
        of_text = next(each for each in measures if each.key in decision.OF_TEXT)
        mine = known.mine and known.mine.config.table("validation").columns[0].task
        judged = rows(AGAINST[0], mine or configuration.VALIDATION)
        by = f"{of_text.title.lower()} on the validation data"
        found[comparisons.FEWER_BITS] = comparisons.against(
            judged, rows(AGAINST[1], tested.task), taken, of_text, tested, by
        )
    if SMALLER in read and (tested := measured(SMALLER)):
        judged, by = rows(SMALLER, tested.task), f"{tested.title.lower()} on the test data"
        found[comparisons.SMALLER_MODEL] = comparisons.against(judged, judged, taken, tested, tested, by)
    return found


def budgeted(config: "Config", sparsities: Mapping[str, int]) -> str:
    """Return which tables of an edited configuration are of other sparsities than the budgets ask for."""
    own = {name: {*config.table(name).pruned} - {*sparsities.items()} for name in ("table1", "validation")}
    return " and ".join(f"tables.{name}.at" for name, others in own.items() if others)


def stand_in(known: Known, pruned: Sequence[tuple[str, int]]) -> names.Variant:
    """Return the model that an earlier run like this exported, or else the first. pruned: methods and sparsities."""
    exported = known.request.out / Path(names.EXPORT.format(model=known.alias, variant="x")).parents[1]
    for folder in sorted(exported.glob("own/**/model")):
        made = names.Variant.parse(folder.parent.relative_to(exported).as_posix())
        tuned = not made.tuning or known.request.recover or known.mine and made.tuning in known.mine.config.tunings
        if (made.method, made.sparsity) in pruned and tuned:
            return made
    return names.Variant("own", *pruned[0])


def exports(known: Known, variant: names.Variant) -> list[str]:
    """Return the folder of a model to take, and its GGUF files."""
    own = {"model": known.alias, "variant": variant}
    return [names.EXPORT.format(**own), *(f"{names.GGUF.format(**own, type=kind)}.gguf" for kind in known.request.gguf)]


def budget_paths(known: Known) -> dict[str, str]:
    """Method -> where the sparsity that meets the budget is written; none without a budget."""
    place = {"model": known.alias, "calib": "own", "budget": configuration.BUDGET}
    methods = known.methods if known.request.budget else ()
    return {method: names.BUDGET.format(method=method, **place) for method in methods}


def found_before(known: Known) -> dict[str, int]:
    """Return the sparsities that an earlier run found for this budget; it may have looked for those of another."""
    asked, (found, sparsities) = budget_of(known.request.budget), found_for(known)
    return {method: sparsities[method] for method, each in found.items() if asked == {each["kind"]: each["asked"]}}


def found_for(known: Known) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """By method, what scripts/budget.py has found for it: the least sparsity that meets the budget, and what it costs;
    and that sparsity alone."""
    paths = {method: known.request.out / path for method, path in budget_paths(known).items()}
    found = {method: artifacts.read_json(path, "budget") for method, path in paths.items() if path.is_file()}
    return found, {method: each["sparsity"] for method, each in found.items()}
