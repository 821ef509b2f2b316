"""prune MODEL --data mine.jsonl: a configuration, the workflow, a page to decide by, and the model to take."""

import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from pruning.command import config_file, decision, defaults, experiment, own_data
from pruning.core import artifacts, devices, locks, memory, names
from pruning.core.errors import InputError, one_line
from pruning.data import datasets

CONFIG, LOG, PAGE = "prune.yaml", "prune.log", "decision.md"
START = ".prune-start.yaml"
"""The configuration of what comes before the one that is shown: fetching, and looking for sparsities."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def prune(
    model: Annotated[str, typer.Argument(help="folder, .gguf file, package:file.gguf, or org/name of the hub")],
    data: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, help="JSON Lines: messages, prompt/completion, question/answer, or text"
        ),
    ],
    sparsity: Annotated[
        str | None, typer.Option(help="per cent of FFN neurons to remove, with commas; 20,30 unless there is a budget")
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=AMOUNT",
            help="in its place, what a model may cost: parameters=1.2B, bytes=900MB, prefill_ms=120, decode_ms=9, or a "
            "share of the dense model's: parameters=70%",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="with commas; the first is what others are compared with; attention_obs,wanda, or what this model and "
            "machine can do in their place"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for all of it; a run that stopped goes on there")] = Path("pruned"),
    recover: Annotated[bool, typer.Option(help="also tune each pruned model by LoRA, 150 steps")] = False,
    tolerance: Annotated[float, typer.Option(help="per cent of perplexity that may be lost")] = 10.0,
    cores: Annotated[int, typer.Option(help="CPU cores")] = os.cpu_count() or 1,
) -> None:
    """Prune a model on your data, measure what is left, and take the one to use."""
    from transformers import AutoConfig

    from pruning.models import tokenizers

    alias, source = experiment.model_source(model)
    asked = experiment.budget_of(budget or [])
    if asked and sparsity:
        raise InputError(f"--budget and --sparsity {sparsity}: the budget says how much is pruned; give one of them")
    sparsities = [] if asked else numbers(sparsity or "20,30")
    records, machine = datasets.read_jsonl(data), experiment.Machine(min(1, len(devices.visible())), cores)
    mine = config_file.edited(out / CONFIG)
    if mine:
        print(f"{out / CONFIG} was edited and is used as it is; remove it to have it written anew.", flush=True)
        if alias not in mine[1].models:
            raise InputError(f"{out / CONFIG}: models: does not name {alias}, the model of the command line")
    start = CONFIG if mine else START
    out.mkdir(parents=True, exist_ok=True)
    base = names.BASE.format(model=alias)
    known = experiment.parameters_of(source, out / Path(base).parent)
    first = {"models": experiment.model_section(alias, source, known, machine), **experiment.nothing_else()}
    first |= {"experiment": {"models": [alias], "methods": ["wanda"]}}
    put(out / START, experiment.text(first, "prune, before it has seen the model"))
    run(out, cores, f"fetching {model}", base, config=start)

    folder = out / Path(base).parent
    tokenizer = tokenizers.load(folder)
    shape = AutoConfig.from_pretrained(folder).get_text_config()
    context = shape.max_position_embeddings
    pairs = own_data.texts(records, tokenizer, data)
    train, test = own_data.split(pairs)
    for name, part in (("train", train), ("test", test)):
        place = out / "own-data" / f"{name}.jsonl"
        place.parent.mkdir(exist_ok=True)
        put(place, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in part))
    size = experiment.Size(
        *(sum(len(tokenizer(p["prompt"] + p["completion"])["input_ids"]) for p in s) for s in (train, test))
    )
    manifest = json.loads((out / base).read_text())
    section = experiment.model_section(alias, source, manifest["parameters"], machine)
    text = experiment.calibration(size, context, machine)
    refits = defaults.refits(folder, section[alias]["dtype"], text, bool(machine.gpus))
    here = shutil.disk_usage(out).free + sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    lacking = refits.lacking(memory.physical() / 1e9, here / 1e9)
    raw = json.loads((folder / "config.json").read_text())
    compared, notes = defaults.chosen(methods.split(",") if methods else None, raw, lacking)
    if defaults.refitted(compared):
        section[alias]["memory_gb"] = max(section[alias]["memory_gb"], math.ceil(refits.memory))
        print(f"Refits take up to {refits.memory:.1f} GB of memory and {refits.disk:.1f} GB of disk meanwhile.")
    notes += defaults.remarks(compared, raw, max(manifest["widths"]), text, min(sparsities, default=0))
    for note in notes:
        print(f"Note: {note}", flush=True)
    own = {"methods": compared, "recover": recover, "budget": asked}
    line = shlex.join(["prune", *sys.argv[1:]])
    budgets = {}
    if asked:
        put(out / START, experiment.text(experiment.config(section, size, context, sparsities=[], **own), line))
        place = {"model": alias, "calib": "own", "budget": experiment.BUDGET}
        found = {method: names.BUDGET.format(method=method, **place) for method in own["methods"]}
        run(out, cores, "looking for the sparsities", *found.values(), config=start)
        budgets = {method: artifacts.read_json(out / path, "budget") for method, path in found.items()}
        sparsities = {method: each["sparsity"] for method, each in budgets.items()}
    wanted = experiment.config(section, size, context, sparsities=sparsities, **own)
    if mine:
        for difference in config_file.differences(mine[0], wanted):
            print(f"{out / CONFIG}: {difference}", flush=True)
        compared = [mine[1].table("table1").reference]
    else:
        put(out / CONFIG, config_file.signed(experiment.text(wanted, line)))
    tables = ["results/table1.csv", "results/tradeoff.csv"]
    run(out, cores, "pruning and measuring", *tables, "results/figures/tradeoff.png")

    models = decision.rows(*(artifacts.read_csv(out / table) for table in tables))
    choice = decision.choose(models, tolerance / 100, equal_cost=bool(asked))
    target = names.EXPORT.format(model=alias, variant=choice.variant)
    run(out, cores, "writing the model to take", target)
    about = {"reference": compared[0], "vocabulary": shape.vocab_size, "budgets": budgets, "notes": notes}
    page = decision.page(models, choice, tolerance / 100, folder=str(out / target), **about)
    put(out / PAGE, page)
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(page))
    print(f"This page: {out / PAGE}   configuration: {out / CONFIG}   tables: {out / 'results'}")


def numbers(text: str) -> list[int]:
    """Raises InputError for what is not 1 to 99, with commas."""
    found = re.fullmatch(r"\s*\d{1,2}(\s*,\s*\d{1,2})*\s*", text)
    values = sorted({int(part) for part in text.split(",")}) if found else []
    if not values or values[0] == 0:
        raise InputError(f"--sparsity {text}: whole per cent from 1 to 99, with commas: 20,30")
    return values


def put(path: Path, text: str) -> None:
    """Write, but leave a file that says the same alone."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def run(out: Path, cores: int, what: str, *targets: str, config: str = CONFIG) -> None:
    """The workflow, in `out`, by the configuration of this name, with progress.

    Raises InputError with the failed job's own words."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    snakefile = names.HOME / "Snakefile"
    command = [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(out)]
    command += ["--cores", str(cores), "--configfile", str(out / config), "--", *targets]
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeElapsedColumn())
    lines: list[str] = []
    with (out / LOG).open("a") as log, Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=None, now="")
        process = subprocess.Popen(command, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True)
        rule = ""
        for line in process.stdout:
            log.write(line)
            lines.append(line.rstrip())
            if found := re.match(r"(?:local)?rule (\w+):", line):
                rule = found[1]
            elif found := re.match(r"    wildcards: (.*)", line):
                progress.update(task, now=f"{rule} {found[1]}")
            elif found := re.match(r"(\d+) of (\d+) steps", line):
                progress.update(task, completed=int(found[1]), total=int(found[2]))
    if process.wait():
        said = [line.strip() for line in lines if re.match(r"\s*error: ", line)] or lines[-1:]
        raise InputError(f"{what}: {said[-1].removeprefix('error: ')} (all of it: {out / LOG})")


def status(out: Annotated[Path, typer.Option(help="folder of the run")] = Path("pruned")) -> None:
    """What a run is at, what failed, and the last words of its log."""
    if not (out / LOG).is_file():
        raise InputError(f"--out {out}: no run of prune there (no {LOG})")
    for line in progress_of((out / LOG).read_text(encoding="utf-8"), out):
        print(line)


def progress_of(log: str, out: Path) -> list[str]:
    """Of the last run in a log of snakemake's."""
    run = log.rpartition("Building DAG of jobs...")[2]
    jobs = {}
    for rule, body in re.findall(r"^(?:local)?rule (\w+):\n((?:^ +\S.*\n)*)", run, re.M):
        noted = dict(re.findall(r"^    (jobid|wildcards|log): (.*)$", body, re.M))
        jobs[noted.get("jobid")] = (f"{rule} {noted.get('wildcards', '')}".strip(), noted.get("log", ""))
    done = re.findall(r"^Finished jobid: (\d+)", run, re.M)
    failed = [
        number for number in re.findall(r"^Error in rule .*?^    jobid: (\d+)", run, re.M | re.S) if number in jobs
    ]
    steps = re.findall(r"^\d+ of \d+ steps.*", run, re.M)
    lines = steps[-1:] or ["no job has ended yet"]
    for number in failed:
        name, place = jobs[number]
        lines.append(f"failed: {name}: {last_line(out / place.split(' ')[0])}")
    if "Nothing to be done" in run:
        return ["all jobs have ended"]
    left = [name for number, (name, _) in jobs.items() if number not in done]
    if locks.alive(out / ".snakemake"):
        lines += [] if failed else [f"at work: {name}" for name in left]
    elif not failed and (left or not steps):
        lines += [f"stopped: {name}" for name in left] + ["the same command as before goes on from here"]
    return lines


def last_line(log: Path) -> str:
    if not log.is_file():
        return "no log"
    written = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return written[-1] if written else "an empty log"


def main() -> None:
    with one_line():
        if sys.argv[1:2] == ["status"]:
            del sys.argv[1]
            typer.run(status)
        app()


if __name__ == "__main__":
    main()
