"""Checks of a run before any job starts: what the config names exists and fits together."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open

from pruning.config import alternatives, mixtures
from pruning.config.base import known
from pruning.config.budgets import TIMED
from pruning.config.definitions import data_files, metric_names, no_examples, test_file
from pruning.config.methods import PREFIXES
from pruning.config.references import uses
from pruning.config.schema import Config
from pruning.core import devices, gpu_request, memory, names
from pruning.core.errors import InputError, within
from pruning.core.files import read_object, reading
from pruning.evaluation import backends
from pruning.methods import compensation, scores
from pruning.models import multimodal, sources
from pruning.models.families import check_plain_residual, family_of, read_config

NOTICEABLE = 0.2
"""GB of weights from which a type that this CPU has no instructions for is warned of: hours, not seconds."""


def check_place(home: str) -> None:
    """Raises InputError if the workflow lies, or runs, where Snakemake takes the path for one with wildcards."""
    for place in (home, os.getcwd()):
        if "{" in place or "}" in place:
            raise InputError(f"{place}: Snakemake takes braces in a path for wildcards; move it elsewhere")


def check_size(config: Config, jobs: int) -> None:
    """Raises InputError if a run has more jobs than are started unasked."""
    if config.ask_above and jobs > config.ask_above and not config.confirm:
        raise InputError(
            f"{jobs:,} jobs, more than `ask_above: {config.ask_above}`: see what they take with `make estimate "
            "CONFIG=…`, and start them with --config confirm=true"
        )


def check(config: Config) -> None:
    """Raises InputError at the first thing that cannot work."""
    for path in config.custom_rules:
        if not Path(path).is_file():
            relative = "paths are relative to the folder that the workflow runs in"
            raise InputError(f"custom_rules: no file {path}; {relative}")
    try:
        _check_data(config)
    except ValueError as error:
        raise InputError(f"config: {error}" if type(error) is ValueError else str(error)) from None
    for name in sorted({*scores.installed()} & {*scores.BUILT_IN}):
        scores.check(name)
    for name in config.models_used:
        _check_model(config, name)
    alternatives.check_models(config)


def _check_data(config: Config) -> None:
    """Task definitions, the data files that they name, and local copies of the datasets that are used."""
    used = {name for _, section, found, _ in uses(config) if section == "datasets" for name in found}
    for name, task in config.tasks.items():
        if task.kind == "perplexity":
            continue
        definition = config.definition(name)
        known(f"tasks.{name}.metrics", task.metrics, metric_names(definition))
        if task.num_fewshot and no_examples(definition):
            said = f"{definition} says num_fewshot: 0, which lm-eval keeps to: take that line out of it"
            raise InputError(f"tasks.{name}.num_fewshot: {task.num_fewshot}, but {said}, or leave this out")
        used |= {_dataset_of(config, definition, file) for file in data_files(definition)}
        items = Path(test_file(definition))
        has = config.splits(items.parent.name)[items.stem]
        if isinstance(has, int) and task.first >= has:  # of a generated one; of others the job says it
            place = f"{items.parent.name}'s split {items.stem!r}"
            raise InputError(f"tasks.{name}.first: {task.first}, but {place} has {has} items, from 0 on")
    for name, split in [(each, part) for each in sorted(used) for part in config.splits(each)]:
        if (path := config.local_path(name, split)) and not path.is_file():
            remedy = "check `data_folder` and `path`"
            raise InputError(f"datasets.{name}: no file {path} for the split {split!r}; {remedy}")


def _dataset_of(config: Config, definition: Path, file: str) -> str:
    """The dataset that a task's data file belongs to."""
    if not (found := names.pattern_of(names.DATA).fullmatch(file)):
        raise InputError(f"{definition}: data file {file} is not {names.DATA}")
    dataset, split = found.groups()
    known(f"{definition}: data file {file}: dataset", [dataset], config.datasets)
    known(f"{definition}: data file {file}: split", [split], config.splits(dataset))
    return dataset


def check_budget(config: Config, budget: str, model: str, method: str) -> None:
    """Raises InputError for parameters or bytes that the dense model has no more of, or that the least which a layer
    keeps exceeds; of a model that is there."""
    own = config.budgets[budget]
    if own.kind in TIMED or not Path(names.BASE.format(model=model)).is_file():
        return
    import numpy as np

    from pruning.methods import allocation
    from pruning.methods import budget as counting  # needs torch
    from pruning.models.checkpoint import Checkpoint
    from pruning.models.vocabulary import Tokenizer

    folder = Path(names.BASE.format(model=model)).parent
    base, kept = Checkpoint(folder), config.method(method)
    tokens = Tokenizer(folder).budget(kept.vocabulary) if kept.vocabulary else None
    sizes = counting.Sizes(base, own.kind, kept.compensate == "bias", tokens)
    target = own.amount.value * (sizes.dense if own.amount.share else 1)
    if target >= sizes.dense:
        raise counting.nothing(own.kind, own.text, sizes.dense)
    others = allocation.structures_of(kept.allocate)[1:]
    floors = dict.fromkeys(others, [0 if kept.drop_layers else 1] * base.layers)
    least = sizes.cost({base.main.name: allocation.floors(np.array(base.widths), kept.least.get("min_keep")), **floors})
    if target < least.value:
        (said,) = (f"`{key}: {str(value).lower()}`" for key, value in kept.least.items())
        raise counting.unmet(own.kind, own.text, least, f"which {said} of {method} leaves")


def _check_model(config: Config, name: str) -> None:
    source = config.models[name].source
    if source.kind == "gguf" and not source.package:
        _check_gguf(config, name)
    folder = config.folder(name)
    if source.kind == "local":
        with within(f"models.{name}.source.path: "):
            sources.check_folder(folder)
            if not Path(names.BASE.format(model=name)).is_file():  # else the job checks what is new
                sources.check_files(folder)
    _check_memory(config, name)
    if not (folder / "config.json").is_file():
        return  # not fetched yet: the job itself will check
    shape = multimodal.text_shape(read_config(folder), f"models.{name}")
    family_of(shape, f"models.{name}")
    tables = [table for table in config.tables_used.values() if name in table.models]
    columns = [column for table in tables for column in table.columns]
    tasks, tunings = {column.task for column in columns}, {column.tuning for column in columns if column.tuning}
    _check_shape(config, name, shape, tasks, tunings)
    _check_targets(config, name, folder, tunings)
    _check_chat(config, name, folder, tasks)
    pruned = config.experiment.methods if name in config.experiment.models else ()  # nobody prunes a sibling
    for method in sorted({*pruned, *(method for table in tables for method in table.methods)}):
        _check_method(config, method, name, shape)
    mixtures.check(config, name, shape, {pair for table in tables for pair in table.pruned}, tunings)


def _check_gguf(config: Config, name: str) -> None:
    with within(f"models.{name}.source: "):
        sources.gguf_files(config.models[name].source.model_dump())


def _check_memory(config: Config, name: str) -> None:
    """Less memory for a job than the weights alone take (on the CPU: those for GPUs pass through it in pieces)."""
    model = config.models[name]
    if model.gpus == 0 and not model.offload and (needed := weights_gb(config, name)) > model.memory_gb:
        raise InputError(
            f"models.{name}.memory_gb: {model.memory_gb} is less than the weights alone take in {model.dtype}, "
            f"{needed:.1f} GB; raise it above that, by what the activations need"
        )


def weights_gb(config: Config, name: str) -> float:
    """Gigabytes of a model's weights as it is loaded; 0 where they are not known yet."""
    model = config.models[name]
    count = memory.parameters(config.folder(name))
    if not count and model.source.kind == "gguf":
        with suppress(InputError):  # its package is not installed here
            count = memory.gguf_parameters(sources.gguf_files(model.source.model_dump())[0]) or 0
    return memory.gigabytes(count, model.dtype)


def _check_shape(config: Config, name: str, shape: dict[str, Any], tasks: set[str], tunings: set[str]) -> None:
    """Layers and lengths that the model does not have."""
    layers, context = (shape.get(key) for key in ("num_hidden_layers", "max_position_embeddings"))
    if layers and config.experiment.layer is not None and not 0 <= config.experiment.layer < layers:
        said = f"{config.experiment.layer} is out of range, {name} has layers 0 to {layers - 1}"
        raise InputError(f"experiment.layer: {said}")
    texts = [task for task in tasks if getattr(config.tasks[task], "per", "") == "token"]
    lengths = {f"tasks.{task}.seqlen": config.tasks[task].seqlen for task in texts}
    lengths |= {f"tunings.{tuning}.sequence_length": config.tunings[tuning].sequence_length for tuning in tunings}
    for key, length in sorted(lengths.items()):
        if context and length > context:
            raise InputError(f"{key}: {length} is longer than {name}'s context of {context} tokens")


def _check_targets(config: Config, name: str, folder: Path, tunings: set[str]) -> None:
    """Modules for LoRA that the model does not have."""
    modules: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with reading(file), safe_open(file, "numpy") as tensors:
            modules |= {key.split(".")[-2] for key in tensors.keys() if key.endswith(".weight")}  # noqa: SIM118
    for tuning in sorted(tunings):
        if modules and (missing := sorted(set(config.tunings[tuning].targets) - modules)):
            raise InputError(f"tunings.{tuning}.targets: {name} has no {missing}; it has {sorted(modules)}")


def _check_chat(config: Config, name: str, folder: Path, tasks: set[str]) -> None:
    """Refuse a task in chat format for a model that has none."""
    settings = folder / "tokenizer_config.json"
    known_here = read_object(settings) if settings.is_file() else {}
    if "chat_template" in known_here or any(folder.glob("*chat_template*")):
        return
    for task in sorted(tasks):
        if getattr(config.tasks[task], "chat_template", False):
            raise InputError(f"tasks.{task}.chat_template: {name}'s tokenizer has no chat template; set it to false")


def _check_method(config: Config, name: str, model: str, shape: dict[str, Any]) -> None:
    """A compensation, an export or a number of tokens that the model has no place for."""
    place, method = f"methods.{name}.", config.method(name)
    if compensation.corrective(method.compensate):
        prefix, _, rest = name.partition("_")
        named = PREFIXES.get(prefix) == {"compensate": method.compensate}
        instead = f"sequential_{rest}" if named else "`compensate: ridge_sequential`"
        check_plain_residual(shape, f"{place}compensate: {method.compensate}", instead)
    if (method.compensate, method.export) == ("bias", "pad"):
        from pruning.methods.compact import no_slot
        from pruning.models.checkpoint import has_mlp_bias  # need torch: slow for every start of snakemake

        if not has_mlp_bias(shape):
            raise InputError(f"{place}export: {no_slot(shape)}")
    mixtures.check_method(method, place, model, shape)
    if method.vocabulary:
        from pruning.models.vocabulary import Tokenizer

        with within(f"{place}vocabulary: "):
            tokenizer = Tokenizer(config.folder(model))
        with within(place):
            tokenizer.budget(method.vocabulary)


def gpus_asked(config: Config) -> dict[str, int]:
    """Keys that ask for GPUs, and how many."""
    asked = {f"models.{name}.gpus": config.models[name].gpus for name in config.models_used}
    asked |= {"latency.gpus": config.latency.gpus} if config.latency else {}
    return {key: count for key, count in asked.items() if count}


def check_gpus(config: Config, visible: list[str], same_packages: bool) -> None:
    """Raises InputError if fewer GPUs are visible here than a job asks for, or if torch cannot use them.

    same_packages: whether jobs see the packages that are seen here."""
    asked = gpus_asked(config)
    for key, count in asked.items():
        if count > len(visible):
            raise InputError(
                f"{key}: {count} GPUs requested, {len(visible)} visible on this machine: "
                "lower it, or run through a cluster profile (profiles/README.md)"
            )
    if asked and same_packages and (usable := devices.usable()) < len(visible):
        raise InputError(f"{next(iter(asked))}: {gpu_request.refusal(usable)}")


def check_memory(config: Config) -> None:
    """Raises InputError for a model whose weights this machine's memory cannot hold; of one whose weights stay on disk
    the jobs that need all of them say so."""
    for name in config.models_used:
        model = config.models[name]
        needed, machine = weights_gb(config, name), memory.physical() / 1e9
        if model.gpus == 0 and not model.offload and needed > machine:
            smaller = "use bfloat16, " if model.dtype == "float32" else ""
            raise InputError(
                f"models.{name}.dtype: the weights take {needed:.1f} GB in {model.dtype}, this machine has "
                f"{machine:.1f} GB of memory: {smaller}set `gpus`, or run on a larger machine"
            )


def slow_models(config: Config) -> list[str]:
    """Warnings of models that run on the CPU (`gpus: 0` hides GPUs from their jobs) in a type that it has no
    instructions for; small ones excepted."""
    slow = devices.slow_dtypes()
    return [
        f"models.{name}.dtype: this CPU has no instructions for {model.dtype}; a product takes about {times} times as "
        "long as in float32: set `dtype: float32` (twice the memory), or run on another machine"
        for name in config.models_used
        if (model := config.models[name]).gpus == 0
        and (times := slow.get(model.dtype))
        and weights_gb(config, name) > NOTICEABLE
    ]


def check_python() -> None:
    """Raises InputError if jobs, which call `python`, would get another than the one that runs snakemake."""
    command = ["python", "-c", "import sys; print(sys.prefix)"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found = "none"
    if os.path.realpath(found) != os.path.realpath(sys.prefix):
        raise InputError(
            f"jobs call `python`, which is {found} here, while snakemake runs in {sys.prefix}: activate the "
            f"environment first, `. {sys.prefix}/bin/activate`"
        )


def check_packages(config: Config) -> None:
    """The packages that answer, and those whose GGUF files are still to be fetched. Raises InputError if one is missing
    or another version."""
    for name in config.models_used:
        with within(f"models.{name}."):
            backends.check_installed(config.models[name].backend)
        source = config.models[name].source
        if source.kind == "gguf" and source.package and not _fetched(name, source.model_dump()):
            _check_gguf(config, name)


def _fetched(name: str, source: dict[str, Any]) -> bool:
    """Whether the model has been made from this source."""
    with suppress(InputError, KeyError, TypeError):
        return read_object(Path(names.BASE.format(model=name)))["provenance"]["settings"] == source
    return False
