"""What a run would take, before anything starts: jobs, loads of a model, memory, disk and hours a stage.

    python scripts/estimate.py paper --configfile config/qwen2_5-7b.yaml

Memory is the weights and what a rehearsal of each stage's code holds at once beside them (models/rehearsal.py), without
the libraries themselves (about 0.4 GB, on a GPU as much again) and the allocator's fragments. Hours on a card are the
work that is counted (there, and analysis/work.py) at a share of what its data sheet promises, and reading the weights
for each load. Hours here are what finished jobs of the same stage, model and tasks took (results/benchmarks).
"""

import re
import shutil
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Collection
from functools import cache
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from pruning.analysis import costs, work
from pruning.calibration import footprint, gradients, output_gradients, second_moments
from pruning.config import validation
from pruning.core import names, strict_yaml
from pruning.core.errors import InputError
from pruning.core.names import Variant
from pruning.evaluation import perplexity, recovery
from pruning.methods import allocation
from pruning.models import rehearsal
from pruning.models.families import read_config
from pruning.models.structures import kv_groups

STAGES = {
    **dict.fromkeys(("calibrate_shard", "observe", "attention_statistics"), gradients.STAGE),
    **dict.fromkeys(("second_moments", "attention_second_moments"), second_moments.STAGE),
    **dict.fromkeys(("output_gradients", "attention_output_gradients"), output_gradients.STAGE),
    **{"refit": footprint.REFIT, "rounds": footprint.ROUNDS, "sensitivity": footprint.SENSITIVITY},
    **{"recover": recovery.STAGE, "evaluate": perplexity.STAGE},
}
LOADING = (*STAGES, "parameter_gradients", "attention_parameter_gradients", "cases")  # a model, to compute with it
KEYS = {"calibrations": "calib", "tunings": "tuning", "tasks": "task"}  # section -> wildcard
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

    if card not in work.CARDS:
        sys.exit(f"error: --card {card}: known are {', '.join(work.CARDS)}")
    for file in configfile or []:
        strict_yaml.check(Path(file))
    options = [*(["--configfile", *configfile] if configfile else []), *(["--config", *config] if config else [])]
    by_stage: dict[str, list[dict[str, str]]] = defaultdict(list)
    for stage, wildcards in planned([*(targets or ["paper"]), *options]):
        by_stage[stage].append(wildcards)
    if not by_stage:
        print("Nothing to be done.")
        return
    by_stage.pop("paper", None)  # which runs nothing itself
    settings = configuration(configfile or [], config or [])
    run, seconds = Run(settings, work.CARDS[card], stops_from), measured(settings.models)
    table = Table(title=f"{sum(map(len, by_stage.values())):,} jobs")
    for column in ("stage", "jobs", "loads", "memory, GB", "written, GB", f"hours, {card}", "hours, here"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    total, unknown, loads, on_card = 0.0, 0, 0, 0.0
    for stage, jobs in sorted(by_stage.items(), key=lambda item: -len(item[1])):
        loaded = len(jobs) if stage in LOADING else 0
        took = [seconds.get((stage, job.get("model", ""), tasks_of(stage, job))) for job in jobs]
        hours = sum(took) / 3600 if None not in took else None
        needed, disk, busy = run.memory(stage, jobs), run.written(stage, jobs), run.card_hours(stage, jobs)
        loads, on_card = loads + loaded, on_card + (busy or 0)
        total, unknown = total + (hours or 0), unknown + (hours is None)
        cells = [f"{loaded:,}" if loaded else "", f"{needed:.1f}" if needed else "", f"{disk:,.1f}" if disk else ""]
        cells += [f"{busy:.2f}" if busy else "", f"{hours:.2f}" if hours is not None else "not measured"]
        table.add_row(stage, f"{len(jobs):,}", *cells)
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


class Run:
    """What jobs of one configuration take on a card. Each rehearsal, of seconds, is made once."""

    def __init__(self, config, card: work.Card, stops_from: int = 101) -> None:
        self.config, self.card, self.stops_from = config, card, stops_from
        self.taken, self.shape = cache(self._taken), cache(self._shape)

    def directory(self, model: str) -> Path | None:
        """Where the config.json of a model lies, if its shape is known."""
        source = self.config.models[model].source if model in self.config.models else None
        places = [Path(names.BASE.format(model=model)).parent, SHAPES / model]  # a published shape, until it is fetched
        if source and source.kind == "local":
            places.insert(1, Path(source.path))
        return next((place for place in places if source and (place / "config.json").is_file()), None)

    def network(self, model: str):
        return rehearsal.network(self.directory(model), self.config.models[model].dtype)

    def _shape(self, model: str) -> work.Shape | None:
        return work.shape_of(self.network(model)) if self.directory(model) else None

    def _taken(self, model: str, stage: str, key: str, batch: int = 0) -> rehearsal.Taken:
        """Of lm-eval's tasks prompts are taken to be twice the mean, beyond what they share."""
        own = getattr(self.config, STAGES[stage].section)[key].model_dump()
        if own.get("kind") == "lm_eval":
            if not (size := work.size_of(key, own)) or not size["answer_tokens"]:
                return work.reading(self.network(model), batch, PROMPT, ANSWER)
            answer, shared, prompt = work.lengths(own, size)
            return work.reading(self.network(model), batch, shared + 2 * prompt, answer, shared, at_once=False)
        structure = {"structure": "kv_groups"} if stage.startswith("attention_") else {}
        return STAGES[stage].taken(self.network(model), {**own, **structure})

    def asked(self, model: str, name: str, sparsity: float = 0) -> tuple[int, int]:
        """The largest batch of a task that fits beside a model's weights, halved from its own, and its bytes; on a CPU
        its own."""
        task, gpus, shape = self.config.tasks[name], self.config.models[model].gpus, self.shape(model)
        weights = (shape.kept(sparsity) + 2 * shape.head) * shape.size if sparsity else shape.weights
        batch, room = task.batch_size, gpus * self.card.gb * 1e9 - weights if gpus else float("inf")
        while (beside := self.taken(model, "evaluate", name, batch).bytes) > room and batch > 1:
            if task.kind == "perplexity":
                break
            batch //= 2
        return batch, beside

    def memory(self, stage: str, jobs: list[dict[str, str]]) -> float | None:
        """Gigabytes that the largest of a stage's jobs takes, weights included; None where it is not known."""
        if stage not in STAGES:
            return None
        key, found = KEYS[STAGES[stage].section], []
        for model, name in sorted({(job["model"], name) for job in jobs for name in job[key].split(",")}):
            if self.directory(model):
                beside = self.asked(model, name)[1] if stage == "evaluate" else self.taken(model, stage, name).bytes
                loaded = [self.shape(model)]
                if stage == "recover" and self.config.tunings[name].objective == "distillation":
                    loaded.append(self.shape(self.config.lineage(model)[-1]))  # the teacher
                found.append((sum(shape.weights for shape in loaded if shape) + beside) / 1e9)
        return max(found, default=None)

    def card_hours(self, stage: str, jobs: list[dict[str, str]]) -> float | None:
        """Of a stage's jobs; None where it uses no card, or where a shape or a size is not known."""
        if stage not in STAGES or not all(self.directory(job["model"]) for job in jobs):
            return None
        try:
            busy = sum(self.seconds(stage, job) for job in jobs)
        except InputError:
            return None
        shapes = [self.shape(job["model"]) for job in jobs]
        return (busy + sum((shape.matrices + shape.head) * shape.size for shape in shapes) / READING) / 3600

    def seconds(self, stage: str, job: dict[str, str]) -> float:
        if stage == "evaluate":
            return self.evaluation(job)
        model, shape, sparsity = job["model"], self.shape(job["model"]), int(job.get("sparsity", 0)) / 100
        if stage == "recover":
            own = self.config.tunings[job["tuning"]]
            tokens = own.steps * own.batch_size * own.sequence_length
            teacher = self.shape(self.config.lineage(model)[-1]) or shape
            left = shape.forward(1, 1, sparsity) / shape.forward(1, 1)
            flops = own.steps * self.taken(model, stage, job["tuning"]).flops * left
            return self.card.seconds(flops + (own.objective == "distillation") * teacher.forward(tokens, tokens))
        own = self.config.calibrations[job["calib"]].model_dump()
        batches = own["samples"] / own["micro_batch"]

        def rehearsed(stage: str) -> float:
            each = self.taken(model, stage, job["calib"]).flops * batches
            return each * shape.layers if stage.endswith("second_moments") else each

        if stage == "refit":
            return self.card.seconds(work.refit(shape, own, self.config.method(job["method"]).compensate, sparsity))
        if stage == "sensitivity":
            scheme = self.config.method(job["method"]).allocate
            raw = read_config(self.directory(model))
            groups = kv_groups.STRUCTURE.units(raw)[0] if "kv_groups" in allocation.structures_of(scheme) else 1
            return self.card.seconds(work.sensitivity(shape, own, allocation.search_of(scheme), groups))
        if stage == "rounds":
            refits = sum(work.refit(shape, own, "ridge_attention", gone / 100) for gone in own["rounds"])
            measured = rehearsed("output_gradients") + rehearsed("second_moments")
            return self.card.seconds((1 + len(own["rounds"])) * measured + refits)
        return self.card.seconds(rehearsed(stage) / (own["shards"] if stage == "calibrate_shard" else 1))

    def evaluation(self, job: dict[str, str]) -> float:
        """Of all tasks that a variant is asked in one job; of those that share their answers the longest."""
        model, variant = job["model"], Variant.parse(job["variant"])
        sparsity, stopped = variant.sparsity / 100, variant.sparsity >= self.stops_from and not variant.tuning
        found: list[tuple[str, dict, float]] = []
        for name in job["task"].split(","):
            own = self.config.tasks[name].model_dump()
            if own["kind"] == "lm_eval":
                own["batch_size"] = self.asked(model, name, sparsity)[0]
            seconds = self.card.seconds(*work.evaluation(self.shape(model), name, own, sparsity, stopped))
            for same in [each for each in found if work.shares_answers(own, name, each[1], each[0])]:
                found.remove(same)
                seconds = max(seconds, same[2])
            found.append((name, own, seconds))
        return sum(seconds for *_, seconds in found)

    def written(self, stage: str, jobs: list[dict[str, str]]) -> float | None:
        """Gigabytes of models, moments and refits that a stage writes in all, whether they are kept or not."""
        return sum(self._written(stage, job) for job in jobs if self.directory(job.get("model", ""))) / 1e9 or None

    def _written(self, stage: str, job: dict[str, str]) -> float:
        shape, raw = self.shape(job["model"]), read_config(self.directory(job["model"]))
        size = raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"]
        channels, left = raw["num_attention_heads"] * size, 1 - int(job.get("sparsity", 0)) / 100
        if stage.endswith("second_moments"):
            return 8 * shape.layers * (channels if stage.startswith("attention_") else shape.width) ** 2
        if stage.endswith("output_gradients"):
            return 4 * shape.layers * shape.hidden**2
        if stage == "refit":
            attention = channels * (self.config.method(job["method"]).compensate == "ridge_attention")
            return 4 * shape.layers * shape.hidden * (shape.width * left + attention)
        if stage in ("compact", "fetch_model"):
            return shape.weights - shape.ffn * (1 - left) * shape.size
        return 0


if __name__ == "__main__":
    try:
        typer.run(estimate)
    except InputError as error:
        sys.exit(f"error: {error}")
