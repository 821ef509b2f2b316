"""Tasks of lm-eval, by name, as sections of a configuration: `--task gsm8k`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pruning.config.default import DEFAULT
from pruning.config.definitions import data_files, metric_names, packaged
from pruning.core import names
from pruning.core.errors import InputError, within
from pruning.evaluation import tasks

RIGHT_OR_WRONG = ("exact_match", "acc", "acc_norm", "acc_mutual_info", "exact_match_mc")
"""Metrics that are 0 or 1 for an item."""
USUAL = {"multiple_choice": ("acc", "acc_norm"), "generate_until": ("exact_match",), "loglikelihood": ("acc",)}
"""What lm-eval measures where a task does not say it, by its `output_type`."""

BUILDERS = ("json", "parquet", "csv", "text", "arrow")
OWN_WAYS = {"class", "custom_dataset", "data_files", "data_dir"}
"""Keys by which a definition's data are more than a repository's."""


class Asked(NamedTuple):
    """A task that the user names."""

    name: str  # its key in the configuration
    task: dict[str, Any]  # its section there, but for how many items
    dataset: dict[str, Any] = {}  # sections `datasets` that the default configuration lacks
    definition: str | None = None  # a file for config/tasks/, where the workflow has none
    training: str | None = None
    """The file of its training data that the workflow fetches; None where it has none."""
    files: tuple[str, ...] = ()
    """Of the data that it asks."""


def asked(given: Sequence[str]) -> list[Asked]:
    """--task NAME or NAME:METRIC, several times. Raises InputError for a task that lm-eval has not, or that cannot be
    compared item by item, and for a metric that the task has not."""
    found = [_asked(*text.partition(":")[::2]) for text in given]
    if len({each.name for each in found}) < len(found):
        raise InputError(f"--task {' --task '.join(given)}: a task is named twice")
    return found


def _asked(name: str, metric: str) -> Asked:
    own = names.HOME / "config" / "tasks" / f"{name}.yaml"
    usual = DEFAULT.tasks.get(name)
    if re.fullmatch(r"[a-z0-9_-]+", name) and own.is_file():
        has, preferred = metric_names(own), usual.metrics if usual and usual.kind == "lm_eval" else []
        [dataset] = {Path(file).parent.name for file in data_files(own)}
        there = dataset in DEFAULT.datasets and "train" in DEFAULT.splits(dataset)
        training = names.DATA.format(dataset=dataset, split="train") if there else None
        section = _section(name, metric, has, preferred) | ({"chance": usual.chance} if preferred else {})
        return Asked(name, section, training=training, files=tuple(data_files(own)))
    with within("--task "):
        include, whole = packaged(name)
    alias = _key(name)
    if alias in DEFAULT.tasks or alias in DEFAULT.datasets:
        alias = f"lm_eval_{alias}"
    definition, dataset = _on_hub(name, alias, whole)
    filters = [f",{each['name']}" for each in whole.get("filter_list") or []] or [""]
    has = [f"{each['metric']}{kind}" for each in definition["metric_list"] for kind in filters]
    section = _section(name, metric, has, [])
    text = yaml.safe_dump({"include": include, **definition}, sort_keys=False, allow_unicode=True)
    training = whole.get("training_split") and names.DATA.format(dataset=alias, split=_key(whole["training_split"]))
    files = tuple(dict.fromkeys(definition["dataset_kwargs"]["data_files"].values()))
    return Asked(alias, section, {alias: dataset}, text, training, files)


def _key(name: str) -> str:
    """Return a name, of a task or split, as a path may have it."""
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower())


def with_training_data(given: Sequence[Asked]) -> Asked:
    """Return the first task that has training data, for a run without --data. Raises InputError without one."""
    for each in given:
        if each.training:
            return each
    said = f": {', '.join(each.name for each in given)} has no training data" if given else ""
    raise InputError(f"--data is missing{said}: give JSON Lines, or a --task with training data, as gsm8k")


def records(task: Asked, folder: Path) -> list[dict[str, str]]:
    """Return `prompt` and `completion` of a task's training data as lm-eval writes them, without worked examples.

    folder: that of the run, where its data were fetched. Raises InputError where lm-eval cannot write them."""
    from pruning.evaluation import harness  # lm-eval is slow

    own = folder / "config" / "tasks" / f"{task.name}.yaml"
    definition = tasks.definition(own if task.definition else names.HOME / own.relative_to(folder))
    files = {"dataset_path": "parquet", "dataset_name": None}
    files |= {"dataset_kwargs": {"data_files": {"train": str(folder / task.training)}}}
    splits = {"test_split": "train", "training_split": None, "validation_split": None, "fewshot_split": None}
    return [{"prompt": prompt, "completion": target} for prompt, target in harness.texts(definition | files | splits)]


def _section(name: str, metric: str, has: Sequence[str], preferred: Sequence[str]) -> dict[str, Any]:
    """The task's section of the configuration. has: its metrics; preferred: those to take unless one is named."""
    fitting = [each for each in has if each.partition(",")[0] in RIGHT_OR_WRONG]
    if metric and metric not in has:
        raise InputError(f"--task {name}:{metric}: the task has no metric {metric}; it has {', '.join(has) or 'none'}")
    chosen = metric or next(iter([*preferred, *fitting]), "")
    if chosen.partition(",")[0] not in RIGHT_OR_WRONG:
        raise InputError(
            f"--task {name}: models are compared by items that are right or wrong, and the task's metrics "
            f"({', '.join(has) or 'none'}) say neither: name a task with acc or exact_match"
        )
    return {"kind": "lm_eval", "title": name, "metrics": [chosen]}


def _on_hub(name: str, alias: str, whole: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What differs from lm-eval's definition where the workflow fetches the data, and the section of these.

    Raises InputError for a task whose data are not simply a repository's of the hub."""
    repo, kind = whole.get("dataset_path"), whole.get("output_type", "generate_until")
    split = whole.get("test_split") or whole.get("validation_split")
    simple = isinstance(repo, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo) and repo not in BUILDERS
    own_way = OWN_WAYS & {*whole, *(whole.get("dataset_kwargs") or {})}
    if not simple or own_way or not split:
        remedy = "write its definition and dataset by hand (docs/howto/tables.md)"
        raise InputError(f"--task {name}: its data are not one repository of the hub: {remedy}")
    own = whole.get("fewshot_config") or {}  # examples that the definition itself has come before any split's
    examples = whole.get("fewshot_split") or own.get("split")
    examples = examples or (None if own.get("samples") else whole.get("training_split") or split)
    examples = examples if whole.get("num_fewshot") else None
    files = {_key(each): names.DATA.format(dataset=alias, split=_key(each)) for each in filter(None, (split, examples))}
    splits = {_key(each): each for each in filter(None, (split, examples, whole.get("training_split")))}
    usual = [{"metric": each, "aggregation": "mean", "higher_is_better": True} for each in USUAL.get(kind, ())]
    definition = {
        **{"task": alias, "dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": {"data_files": files}},
        **{"test_split": _key(split), "validation_split": None, "training_split": None},
        **{"fewshot_split": examples and _key(examples), "metric_list": whole.get("metric_list") or usual},
    }
    hub = {"repo": repo, "name": whole.get("dataset_name"), "revision": "main", "splits": splits}
    return definition, {"kind": "published", "fields": None, "hub": hub}
