"""What a run would take, before anything starts: jobs, loads of a model, memory, disk and hours a stage.

    python scripts/estimate.py paper --configfile config/qwen2_5-7b.yaml

Memory is the weights and what a rehearsal of each stage's code holds at once beside them (models/rehearsal.py), without
the libraries themselves (about 0.4 GB, on a GPU as much again) and the allocator's fragments. Hours on a card are the
work that is counted (analysis/work.py) at a share of what its data sheet promises, and reading the weights for each
load. Hours here are what finished jobs of the same stage, model and tasks took (results/benchmarks).
"""

import re
import shutil
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from pruning.analysis import costs, work
from pruning.config import validation
from pruning.core import names, strict_yaml
from pruning.core.errors import InputError
from pruning.core.names import Variant
from pruning.methods import allocation
from pruning.models.families import read_config

PASSES = ("calibrate_shard", "observe", "attention_statistics")  # of a calibration's text, with gradients
ATTENTION = ("attention_second_moments", "attention_output_gradients")  # as those of FFNs
# Stages that load a model to compute with it.
LOADING = (
    *(
        *PASSES,
        "second_moments",
        "output_gradients",
        *ATTENTION,
        "parameter_gradients",
        "attention_parameter_gradients",
    ),
    *("rounds", "refit", "sensitivity", "evaluate", "recover", "cases"),
)
PROMPT, ANSWER = 1024, 256  # tokens, where only the data know
READING = 2e9  # bytes a second of a checkpoint, from disk to device
SHAPES = Path(names.own("resources/architectures"))


def estimate(
    targets: Annotated[list[str] | None, typer.Argument(help="as for snakemake")] = None,
    configfile: Annotated[list[str] | None, typer.Option(help="as for snakemake")] = None,
    config: Annotated[list[str] | None, typer.Option(help="as for snakemake: KEY=VALUE; repeat")] = None,
    card: Annotated[str, typer.Option(help=f"hours on which: {', '.join(work.CARDS)}")] = "rtx4090",
    stops_from: Annotated[
        int,
        typer.Option(help="models of so many per cent and more stop early where a task lets them"),
    ] = 101,
) -> None:
    warnings.simplefilter("ignore")  # transformers' own, about its own
    from rich.console import Console
    from rich.table import Table

    for file in configfile or []:
        strict_yaml.check(Path(file))
    options = [*(["--configfile", *configfile] if configfile else []), *(["--config", *config] if config else [])]
    plan = planned([*(targets or ["paper"]), *options])
    if not plan:
        print("Nothing to be done.")
        return
    settings = configuration(configfile or [], config or [])
    by_stage: dict[str, list[dict[str, str]]] = defaultdict(list)
    for stage, wildcards in plan:
        by_stage[stage].append(wildcards)
    by_stage.pop("paper", None)  # which runs nothing itself
    seconds = measured(settings.models)
    table = Table(title=f"{sum(map(len, by_stage.values())):,} jobs")
    for column in ("stage", "jobs", "loads", "memory, GB", "written, GB", f"hours, {card}", "hours, here"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    total, unknown, loads, on_card = 0.0, 0, 0, 0.0
    if card not in work.CARDS:
        sys.exit(f"error: --card {card}: known are {', '.join(work.CARDS)}")
    for stage, jobs in sorted(by_stage.items(), key=lambda item: -len(item[1])):
        loaded = len(jobs) if stage in LOADING else 0
        loads += loaded
        took = [seconds.get((stage, job.get("model", ""), tasks_of(stage, job))) for job in jobs]
        hours = sum(took) / 3600 if None not in took else None
        total, unknown = total + (hours or 0), unknown + (hours is None)
        needed, disk = memory(settings, stage, jobs, work.CARDS[card]), written(settings, stage, jobs)
        busy = card_hours(settings, stage, jobs, work.CARDS[card], stops_from)
        on_card += busy or 0
        table.add_row(
            stage,
            f"{len(jobs):,}",
            f"{loaded:,}" if loaded else "",
            f"{needed:.1f}" if needed else "",
            f"{disk:,.1f}" if disk else "",
            f"{busy:.2f}" if busy else "",
            f"{hours:.2f}" if hours is not None else "not measured",
        )
    Console(width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 110).print(table)
    known = f"{total:.1f} hours here, one after another" if unknown < len(by_stage) else "no time is known here"
    print(f"{loads:,} loads of a model; {known}{f'; {unknown} stages never ran here' if unknown else ''}")
    if on_card:
        share = work.CARDS[card].share
        print(f"{on_card:.1f} hours of a {card}, at {share:.0%} of its data sheet and {READING / 1e9:.0f} GB/s to load")
        if stops_from <= 100:
            print(f"if all models of {stops_from}% and more, but for recovered ones, stop early")


def planned(arguments: list[str]) -> list[tuple[str, dict[str, str]]]:
    """(stage, wildcards) of the jobs that snakemake would run; `task` of an evaluation: all of its tasks, with commas.

    Ends the program with snakemake's words if it refuses."""
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit((done.stderr or done.stdout).strip().splitlines()[-1])
    jobs = []
    for rule, text in re.findall(r"^(?:local)?rule (\w+):\n((?:^ +\S.*\n)*)", done.stdout + done.stderr, re.M):
        wildcards = dict(re.findall(r"(\w+)=([^,\n]+)", (re.search(r"wildcards: (.*)", text) or ["", ""])[1]))
        written = (re.search(r"output: (.*)", text) or ["", ""])[1].split(", ")
        if tasks := [sample[2] for sample in map(names.sample_of, written) if sample]:
            wildcards["task"] = ",".join(tasks)
        jobs.append((costs.stage_of(rule), wildcards))
    return jobs


def configuration(files: list[str], values: list[str]):
    from snakemake.cli import parse_config
    from snakemake.common.configfile import load_configfile
    from snakemake.utils import update_config

    whole = load_configfile(names.own("config/config.yaml"))
    for file in files:
        update_config(whole, load_configfile(file))
    update_config(whole, parse_config(values))
    return validation.validate(whole)


def tasks_of(stage: str, job: dict[str, str]) -> str:
    """What an evaluation's time depends on most, as its benchmark file is named: its tasks."""
    return names.joined(job["task"].split(",")) if stage == "evaluate" else ""


def measured(models: Collection[str]) -> dict[tuple[str, str, str], float]:
    """Median seconds of finished jobs, by stage, model ("" where none is involved) and, of evaluations, tasks."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for path in Path(names.BENCHMARKS).rglob("*.tsv"):
        job, folder = costs.job(path), path.relative_to(names.BENCHMARKS).parts[0]
        tasks = path.stem if job["stage"] == "evaluate" else ""
        found[job["stage"], folder if folder in models else "", tasks].append(job["seconds"])
    return {key: median(seconds) for key, seconds in found.items()}


def directory(config, model: str) -> Path | None:
    """Where the config.json of a model lies, if its shape is known."""
    source = config.models[model].source
    own = [Path(source.path)] if source.kind == "local" else []
    for place in (Path(names.BASE.format(model=model)).parent, *own):
        if (place / "config.json").is_file():
            return place
    return SHAPES / model if (SHAPES / model).is_dir() else None  # a published shape, until the model is fetched


def memory(config, stage: str, jobs: list[dict[str, str]], card: work.Card) -> float | None:
    """Gigabytes that the largest of a stage's jobs takes, weights included; of lm-eval's tasks with the batch that a
    card holds. None where it is not known."""
    from pruning.analysis import footprint
    from pruning.models import rehearsal

    found = []
    keys = {(job.get("model", ""), key) for job in jobs for key in job.get(KEYS.get(stage, ""), "").split(",")}
    for model, key in sorted(keys):
        if stage not in KEYS or model not in config.models or not (place := directory(config, model)):
            continue
        network = rehearsal.model(place, config.models[model].dtype)
        weights = loaded_bytes(network)
        if KEYS[stage] == "calib":
            reckoned = getattr(footprint, "calibration" if stage in PASSES else stage.removeprefix("attention_"))
            structure = {"structure": "kv_groups"} if stage in ATTENTION else {}
            beside = reckoned(network, {**config.calibrations[key].model_dump(), **structure})
        elif stage == "evaluate":
            beside = asked(config, model, key, room(config, model, weights, card))[1]
        else:
            tuning = config.tunings[key]
            beside = footprint.lora(network, tuning.model_dump())
            if tuning.objective == "distillation" and (dense := directory(config, config.lineage(model)[-1])):
                weights += loaded_bytes(rehearsal.model(dense, config.models[model].dtype))  # the teacher's
        found.append((weights + beside) / 1e9)
    return max(found, default=None)


def loaded_bytes(network) -> int:
    return sum(parameter.nbytes for parameter in network.parameters())


def room(config, model: str, weights: float, card: work.Card) -> float:
    """Bytes that are left beside the weights; on a CPU it is not asked."""
    gpus = config.models[model].gpus
    return gpus * card.gb * 1e9 - weights if gpus else float("inf")


def asked(config, model: str, name: str, room: float) -> tuple[int, int]:
    """The largest batch of a task that fits, halved from its own, and the bytes that it takes beside the weights."""
    batch, halved = config.tasks[name].batch_size, config.tasks[name].kind != "perplexity"
    while (beside := held(config, model, name, batch)) > room and halved and batch > 1:
        batch //= 2
    return batch, beside


def held(config, model: str, name: str, batch: int) -> int:
    """Bytes of a task's batch beside the weights. Prompts are taken to be twice the mean, beyond what they share."""
    from pruning.analysis import footprint
    from pruning.models import rehearsal

    if (key := (model, name, batch)) not in HELD:
        network, task = rehearsal.model(directory(config, model), config.models[model].dtype), config.tasks[name]
        size = work.known_sizes().get(getattr(task, "definition", None) or name)
        if task.kind == "perplexity":
            HELD[key] = footprint.perplexity(network, task.model_dump())
        elif size is None or not size["answer_tokens"]:
            HELD[key] = footprint.options(network, batch, PROMPT, ANSWER)
        else:
            shared = int(size["examples_tokens"]) if task.shared_examples else 0
            prompt = shared + 2 * int(size["context_tokens"] - shared)
            answer = int(task.max_gen_toks or size["answer_tokens"])
            HELD[key] = footprint.answers(network, batch, prompt, answer, shared)
    return HELD[key]


HELD: dict[tuple[str, str, int], int] = {}  # each takes seconds


# What of a job's wildcards its memory depends on, besides the model.
KEYS = {
    **dict.fromkeys((*PASSES, "second_moments", "output_gradients", *ATTENTION, "rounds", "refit"), "calib"),
    "sensitivity": "calib",
    "evaluate": "task",
    "recover": "tuning",
}


def card_hours(config, stage: str, jobs: list[dict[str, str]], card: work.Card, stops_from: int) -> float | None:
    """Of a stage's jobs on a card; None where it uses none, or where a shape or a size is not known."""
    if stage not in KEYS:
        return None
    seconds = 0.0
    for job in jobs:
        if (own := shape_of(config, job["model"])) is None:
            return None
        try:
            seconds += card.seconds(work_of(config, stage, job, own, card, stops_from))
        except InputError:
            return None
        seconds += (own.matrices + own.head) * own.size / READING
    return seconds / 3600


def work_of(config, stage: str, job: dict[str, str], shape: work.Shape, card: work.Card, stops_from: int) -> work.Work:
    from pruning.models.structures import kv_groups  # imports torch

    if stage == "evaluate":
        return evaluation(config, job, shape, card, stops_from)
    if stage == "recover":
        dense = shape_of(config, config.lineage(job["model"])[-1]) or shape
        return work.recovery(shape, config.tunings[job["tuning"]].model_dump(), int(job["sparsity"]) / 100, dense)
    own = config.calibrations[job["calib"]].model_dump()
    if stage == "refit":
        return work.refit(shape, own, config.method(job["method"]).compensate, int(job["sparsity"]) / 100)
    if stage == "sensitivity":
        scheme = config.method(job["method"]).allocate
        groups = kv_groups.counts_of(raw_of(config, job["model"]))[0] if allocation.cuts_groups(scheme) else 1
        return work.sensitivity(shape, own, allocation.search_of(scheme), groups)
    if stage in ATTENTION:
        shape = replace(shape, width=channels(raw_of(config, job["model"])))
    return getattr(work, "calibration" if stage in PASSES else stage.removeprefix("attention_"))(shape, own)


def raw_of(config, model: str) -> dict[str, Any]:
    """A model's config.json."""
    return read_config(directory(config, model))


def channels(shape: Mapping[str, Any]) -> int:
    """Inputs of attention's output projection, by config.json."""
    size = shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"]
    return shape["num_attention_heads"] * size


def evaluation(config, job: dict[str, str], shape: work.Shape, card: work.Card, stops_from: int) -> work.Work:
    """Of all tasks that a variant is asked in one job; of those that share their answers the dearest."""
    model, variant = job["model"], Variant.parse(job["variant"])
    sparsity, stopped = variant.sparsity / 100, variant.sparsity >= stops_from and not variant.tuning
    left = room(config, model, (shape.kept(sparsity) + 2 * shape.head) * shape.size, card)
    dearest: list[tuple[str, dict, work.Work]] = []
    for name in job["task"].split(","):
        own = config.tasks[name].model_dump()
        if own["kind"] == "lm_eval":
            own["batch_size"] = asked(config, model, name, left)[0]
        one = work.evaluation(shape, name, own, sparsity, stopped)
        same = next((i for i, (n, o, _) in enumerate(dearest) if work.shares_answers(own, name, o, n)), None)
        if same is None:
            dearest.append((name, own, one))
        elif card.seconds(one) > card.seconds(dearest[same][2]):
            dearest[same] = (name, own, one)
    return sum((one for *_, one in dearest), work.Work())


def shape_of(config, model: str) -> work.Shape | None:
    place = directory(config, model)
    return shape_in(place.resolve(), config.models[model].dtype) if place else None


@cache
def shape_in(place: Path, dtype: str) -> work.Shape:
    from pruning.models import rehearsal

    network = rehearsal.model(place, dtype)
    total, embedding = sum(p.numel() for p in network.parameters()), network.get_input_embeddings().weight
    raw = read_config(place)
    return work.shape_of(raw, raw["num_hidden_layers"], embedding.numel(), total, embedding.element_size())


def written(config, stage: str, jobs: list[dict[str, str]]) -> float | None:
    """Gigabytes of models, moments and refits that a stage writes in all, whether they are kept or not."""
    total = 0.0
    for job in jobs:
        model = job.get("model", "")
        if model not in config.models or not (place := directory(config, model)):
            continue
        shape = read_config(place)
        layers, width, hidden = (shape[key] for key in ("num_hidden_layers", "intermediate_size", "hidden_size"))
        if stage in ("second_moments", "attention_second_moments"):
            total += layers * 2 * (width if stage == "second_moments" else channels(shape)) ** 2 * 4
        elif stage in ("output_gradients", "attention_output_gradients"):
            total += layers * hidden**2 * 4
        elif stage == "refit":
            total += layers * hidden * width * (1 - int(job["sparsity"]) / 100) * 4
            if config.method(job["method"]).compensate == "ridge_attention":
                total += layers * hidden * channels(shape) * 4
        elif stage in ("compact", "fetch_model"):
            from pruning.models import rehearsal

            network = rehearsal.model(place, config.models[model].dtype)
            size = network.get_input_embeddings().weight.element_size()
            cut = layers * 3 * width * hidden * int(job.get("sparsity", 0)) / 100
            total += (sum(parameter.numel() for parameter in network.parameters()) - cut) * size
    return total / 1e9 or None


if __name__ == "__main__":
    try:
        typer.run(estimate)
    except InputError as error:
        sys.exit(f"error: {error}")
