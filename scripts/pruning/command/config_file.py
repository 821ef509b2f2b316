"""prune.yaml: written by `prune` with a digest of its text; one that has been edited since is used as it is."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from snakemake.utils import update_config

from pruning.config.default import DEFAULT
from pruning.config.schema import Config
from pruning.config.validation import validate
from pruning.core import strict_yaml
from pruning.core.errors import InputError
from pruning.core.names import Column

DIGEST = "# Digest of the lines above, by which `prune` knows whether they were edited: "
LEFT_OUT = object()
KEEP = "To keep them, stop here and give --out another folder."


def signed(text: str) -> str:
    """With the digest as its last line."""
    return f"{text}\n{DIGEST}{_digest(text)}\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Edited(NamedTuple):
    """A file that somebody edited, and the configuration that it makes of the default."""

    content: dict[str, Any]
    config: Config


def edited(path: Path) -> Edited | None:
    """Return what somebody edited; None where there is no file, or one as `prune` wrote it.

    Raises InputError, naming the key, for one that is no configuration, or without a table1."""
    if not path.exists():
        return None
    strict_yaml.check(path)
    text = path.read_text(encoding="utf-8-sig")
    if (found := re.fullmatch(rf"(.*)\n{DIGEST}(\w+)\n", text, re.S)) and _digest(found[1]) == found[2]:
        return None
    content = yaml.safe_load(text)
    remedy = "correct it, or remove the file, which is then written anew"
    try:
        with contextlib.chdir(path.parent):  # the run's folder, in which models lie
            config = whole(content)
    except InputError as error:
        raise InputError(f"{str(error).replace('config: ', f'{path}: ')}: {remedy}") from None
    for table in ("table1", "validation"):
        if not (content.get("tables") or {}).get(table):
            raise InputError(f"{path}: tables.{table}: missing, and `prune` shows that table: {remedy}")
    kept = {
        "experiment.models": (len(config.experiment.models) == 1, "one model is shown: name one"),
        "experiment.name": (
            config.experiment.name is None,
            "results are read without a folder of their own: leave it out",
        ),
        "tradeoff": (config.tradeoff is not None, "size and speed are shown: leave the section as it was"),
        **{
            f"tables.{name}.reference": (config.table(name).reference == "dense", "the page compares with `dense`")
            for name in ("table1", "validation")
        },
    }
    for key, (right, said) in kept.items():
        if not right:
            raise InputError(f"{path}: {key}: {said}: {remedy}")
    tables = config.tables_used
    for name, why in {"validation": "models are chosen by it", "smaller": "every model of table1 may be taken"}.items():
        if name in tables and (missing := sorted({*tables["table1"].pruned} - {*tables[name].pruned})):
            method, sparsity = missing[0]
            lacks = f"lacks {method} at {sparsity}%, which table1 has"
            raise InputError(f"{path}: tables.{name}: {lacks}: {why}: give both the same")
    tunings = {column.tuning for column in config.table("table1").columns}
    for name in ("table1", "validation"):
        there = {*config.table(name).columns}
        if lacking := sorted({*map(str, {Column(each.task, tuning) for each in there for tuning in tunings} - there)}):
            said = f"lacks {lacking[0]}: every model of table1 is evaluated on every task"
            raise InputError(f"{path}: tables.{name}.tasks: {said}: {remedy}")
    judged = config.table("validation").columns
    if len({column.task for column in judged}) != 1 or config.tasks[judged[0].task].kind != "perplexity":
        raise InputError(f"{path}: tables.validation.tasks: models are chosen by one text's perplexity: {remedy}")
    if not any(config.tasks[column.task].kind == "perplexity" for column in config.table("table1").columns):
        raise InputError(f"{path}: tables.table1.tasks: no text, by whose perplexity models are compared: {remedy}")
    return Edited(content, config)


def whole(*contents: Mapping[str, Any]) -> Config:
    """Configurations above the default, as the workflow reads them. Raises InputError as `validate` does."""
    stacked = json.loads(DEFAULT.model_dump_json())
    for content in contents:
        update_config(stacked, dict(content))
    return validate(stacked)


def replaced(path: Path, wanted: Mapping[str, Any], line: str) -> str | None:
    """What to say before a file as `prune` wrote it is replaced by another configuration; None where there is no file,
    or the same one. line: the command that wants this one."""
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8-sig")
    keys = [each.partition(": ")[0] for each in differences(yaml.safe_load(text), wanted)]
    if not keys:
        return None
    before = found[1] if (found := re.match(r"# Written by: (.*)\n", text)) else "another command"
    which = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if keys[4:] else "")
    other = f"`{before}`; `{line}` changes" if before != line else f"`{before}` by another version, which changed"
    said = "What both have in common is not made again; the page and the tables are replaced"
    return f"{path.parent} holds a run of {other} {which}. {said}. {KEEP}"


def differences(mine: Any, given: Any, key: str = "") -> Iterator[str]:
    """A line for each value of an edited file that is not what the command line would have made of it."""
    if isinstance(mine, Mapping) and isinstance(given, Mapping):
        for name in dict.fromkeys([*mine, *given]):
            inner = f"{key}.{name}".removeprefix(".")
            yield from differences(mine.get(name, LEFT_OUT), given.get(name, LEFT_OUT), inner)
    elif mine != given:
        said = "the command line says nothing of it" if given is LEFT_OUT else f"by the command line: {_shown(given)}"
        yield f"{key}: {'left out' if mine is LEFT_OUT else _shown(mine)} ({said})"


def _shown(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True).split("\n")[0]
