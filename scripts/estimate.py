"""What a run would take, before anything starts: jobs, loads of a model, memory and disk a stage, and time where known.

    python scripts/estimate.py paper --configfile config/qwen2_5-7b.yaml

Memory is the weights and what a rehearsal of each stage's code holds at once beside them (models/rehearsal.py), without
the libraries themselves (about 0.4 GB, on a GPU as much again) and the allocator's fragments. Time is what finished
jobs of the same stage and model took here (results/benchmarks); a stage that never ran here has none.
"""

import json
import re
import shutil
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from pruning.analysis import costs
from pruning.core import names

# Stages that load a model to compute with it.
LOADING = (
    *("calibrate_shard", "observe", "second_moments", "parameter_gradients"),
    *("evaluate", "recover", "cases"),
)
PROMPT, ANSWER = 1024, 256  # tokens, where only the data know
SHAPES = Path(names.own("resources/architectures"))


def estimate(
    targets: Annotated[list[str] | None, typer.Argument(help="as for snakemake")] = None,
    configfile: Annotated[list[str] | None, typer.Option(help="as for snakemake")] = None,
    config: Annotated[list[str] | None, typer.Option(help="as for snakemake: KEY=VALUE")] = None,
) -> None:
    warnings.simplefilter("ignore")  # transformers' own, about its own
    from rich.console import Console
    from rich.table import Table

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
    for column in ("stage", "jobs", "loads", "memory, GB", "written, GB", "hours, one after another"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    total, unknown, loads = 0.0, 0, 0
    for stage, jobs in sorted(by_stage.items(), key=lambda item: -len(item[1])):
        loaded = len(jobs) if stage in LOADING else 0
        loads += loaded
        took = [seconds.get((stage, job.get("model", ""))) for job in jobs]
        hours = sum(took) / 3600 if None not in took else None
        total, unknown = total + (hours or 0), unknown + (hours is None)
        needed, disk = memory(settings, stage, jobs), written(settings, stage, jobs)
        table.add_row(
            stage,
            f"{len(jobs):,}",
            f"{loaded:,}" if loaded else "",
            f"{needed:.1f}" if needed else "",
            f"{disk:,.1f}" if disk else "",
            f"{hours:.2f}" if hours is not None else "not measured here",
        )
    Console(width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 110).print(table)
    known = f"{total:.1f} hours one after another" if unknown < len(by_stage) else "time unknown"
    print(f"{loads:,} loads of a model; {known}{f'; {unknown} stages never ran here' if unknown else ''}")


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

    from pruning.config.validation import validate

    whole = load_configfile(names.own("config/config.yaml"))
    for file in files:
        update_config(whole, load_configfile(file))
    update_config(whole, parse_config(values))
    return validate(whole)


def measured(models: Collection[str]) -> dict[tuple[str, str], float]:
    """Median seconds of finished jobs, by stage and model ("" where none is involved)."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for path in Path(names.BENCHMARKS).rglob("*.tsv"):
        job, folder = costs.job(path), path.relative_to(names.BENCHMARKS).parts[0]
        found[job["stage"], folder if folder in models else ""].append(job["seconds"])
    return {key: median(seconds) for key, seconds in found.items()}


def directory(config, model: str) -> Path | None:
    """Where the config.json of a model lies, if its shape is known."""
    source = config.models[model].source
    own = [Path(source.path)] if source.kind == "local" else []
    for place in (Path(names.BASE.format(model=model)).parent, *own):
        if (place / "config.json").is_file():
            return place
    return SHAPES / model if (SHAPES / model).is_dir() else None  # a published shape, until the model is fetched


def memory(config, stage: str, jobs: list[dict[str, str]]) -> float | None:
    """Gigabytes that the largest of a stage's jobs takes, weights included; None where that is not known."""
    from pruning.analysis import footprint
    from pruning.models import rehearsal

    found = []
    for model, key in sorted({(job.get("model", ""), job.get(KEYS.get(stage, ""), "")) for job in jobs}):
        if model not in config.models or not (place := directory(config, model)):
            continue
        network = rehearsal.model(place, config.models[model].dtype)
        weights = sum(parameter.nbytes for parameter in network.parameters())
        if stage in ("calibrate_shard", "observe", "second_moments"):
            own = config.calibrations[key].model_dump()
            work = footprint.second_moments if stage == "second_moments" else footprint.calibration
            beside = work(network, own)
        elif stage == "evaluate":
            beside = max(asked(network, config.tasks[task]) for task in key.split(","))
        elif stage == "recover":
            beside = footprint.lora(network, config.tunings[key].model_dump())
        else:
            continue
        found.append((weights + beside) / 1e9)
    return max(found, default=None)


def asked(network, task) -> float:
    """Bytes of a task beside the weights."""
    from pruning.analysis import footprint

    if task.kind == "perplexity":
        return footprint.perplexity(network, task.model_dump())
    return footprint.answers(network, task.batch_size, PROMPT, task.max_gen_toks or ANSWER)


# What of a job's wildcards its memory depends on, besides the model.
KEYS = {
    **dict.fromkeys(("calibrate_shard", "observe", "second_moments"), "calib"),
    "evaluate": "task",
    "recover": "tuning",
}


def written(config, stage: str, jobs: list[dict[str, str]]) -> float | None:
    """Gigabytes of models and second moments that a stage writes in all, whether they are kept or not."""
    total = 0.0
    for job in jobs:
        model = job.get("model", "")
        if model not in config.models or not (place := directory(config, model)):
            continue
        shape = json.loads((place / "config.json").read_text(encoding="utf-8"))
        layers, width, hidden = (shape[key] for key in ("num_hidden_layers", "intermediate_size", "hidden_size"))
        if stage == "second_moments":
            total += layers * 2 * width**2 * 4
        elif stage in ("compact", "fetch_model"):
            from pruning.models import rehearsal

            network = rehearsal.model(place, config.models[model].dtype)
            size = network.get_input_embeddings().weight.element_size()
            cut = layers * 3 * width * hidden * int(job.get("sparsity", 0)) / 100
            total += (sum(parameter.numel() for parameter in network.parameters()) - cut) * size
    return total / 1e9 or None


if __name__ == "__main__":
    typer.run(estimate)
