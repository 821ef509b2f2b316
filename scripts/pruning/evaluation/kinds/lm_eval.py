"""A task of lm-eval's. Answers already given by this very model are not asked for again."""

import importlib
from pathlib import Path
from typing import Any

import pandas as pd

from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.evaluation import harness, tasks
from pruning.evaluation.answers import ANSWERS, AnswerFile, CachingLM
from pruning.evaluation.kinds import Cache, Outcome
from pruning.evaluation.samples import outcomes


def check_memory(model: Path, task: dict[str, Any]) -> None:
    """Of the weights alone, on loading: batches are halved where memory runs out."""


def ask(network, tokenizer, task: dict[str, Any], source: Path, cache: Cache, dense: Path | None = None) -> Outcome:
    """`source`: the task's YAML. Raises InputError as harness.evaluate and artifacts.read_table do."""
    definition = tasks.definition(source)
    files = {name: Path(path) for name, path in definition["dataset_kwargs"]["data_files"].items()}
    for path in files.values():
        artifacts.read_table(path, "dataset")  # lm-eval reads them itself, and would take any
    data = {name: artifacts.file_hash(path) for name, path in files.items()}
    asked = {key: task[key] for key in ("num_fewshot", "shared_examples", "chat_template", "max_gen_toks")}
    backend = importlib.import_module(f"pruning.evaluation.backends.{task.get('backend') or 'hf'}")
    origin = backend.origin(network, tokenizer)
    answering = [artifacts.versions().get(library) for library in ("torch", "transformers", "lm_eval")]
    own = (definition, asked, task["dtype"], *answering, *origin.items())  # and no data: a key holds its whole prompt
    identity = artifacts.key_of(ANSWERS, *cache.model, *own)
    own_file = cache.folder / f".{cache.name}.{identity}.jsonl"
    same = cache.folder.glob(f".*.{identity}.jsonl")  # of tasks that differ in `first`, `limit` and data alone
    answers = AnswerFile(own_file, sorted(file for file in same if file != own_file))
    lm = CachingLM(backend.lm(network, tokenizer, task["batch_size"]), answers)
    early = task.get("stop_early")
    for limit in [early["after"], task["limit"]] if early else [task["limit"]]:
        result = harness.evaluate(lm, definition, limit, task["first"], **asked)
        frame = outcomes(result, answers, task["metrics"])
        if limit != task["limit"] and (stopped := hopeless(frame, **early)):
            result["stopped_early"] = stopped
            break
    result.pop("samples")
    means = frame.groupby("metric")["value"].agg(["mean", "count"]).to_string()
    return Outcome(frame, result, means, {"data": data, **origin})


def hopeless(samples: pd.DataFrame, after: int, below: float, confidence: float) -> dict[str, float]:
    """Metric -> the upper end of Wilson's interval, if each of them is below what would matter; else nothing.

    Raises InputError for a metric that is no accuracy."""
    from statsmodels.stats.proportion import proportion_confint  # slow, and unneeded by most

    ends = {}
    for metric, values in samples.groupby("metric")["value"]:
        if not values.isin([0, 1]).all():
            raise InputError(f"stop_early: {metric} is no accuracy (0 or 1 an item): leave it out of `metrics`")
        ends[metric] = float(proportion_confint(values.sum(), len(values), 1 - confidence, method="wilson")[1])
    return ends if max(ends.values()) < below else {}
