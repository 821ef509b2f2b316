"""Task definitions: YAML files of lm-eval's, ours in config/tasks/ and the packaged ones that they include.

Read here without importing lm-eval (every start of snakemake reads them). Functions that packaged files name
(`!function utils.f`) stay text; lm-eval finds them itself when a job passes it the definition with its `include`."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import yaml

from pruning.core.errors import InputError


class _Packaged(yaml.SafeLoader):
    """Functions as text."""


class _Own(yaml.SafeLoader):
    """No functions."""


def _refused(loader: yaml.Loader, node: yaml.Node) -> None:
    raise yaml.YAMLError(
        f"line {node.start_mark.line + 1}: !function {node.value}: only lm-eval's own files may name functions, as "
        "results would not notice an edit of yours: write a template, or include the packaged task"
    )


_Packaged.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
_Own.add_constructor("!function", _refused)


def definition(path: Path) -> dict[str, Any]:
    """A task YAML of ours. Its `include`, a file of lm-eval's task folder or a list of some, is made absolute.

    Raises InputError if the file or one that it includes is missing or broken, or if it names functions."""
    task = _read(path, _Own)
    if "include" in task:
        folder, absolute = packaged_folder(path), []
        for name in _listed(task["include"]):
            included = Path(os.path.normpath(folder / str(name)))  # links are not followed: installers make them
            if not included.is_relative_to(folder) or not included.is_file():
                raise InputError(f"{path}: include: lm-eval has no task file {name}")
            absolute.append(str(included))
        task["include"] = absolute if isinstance(task["include"], list) else absolute[0]
        with_includes(task)  # broken ones are told of here
    return task


def with_includes(task: dict[str, Any]) -> dict[str, Any]:
    """A definition with all that it includes, as lm-eval merges them: own keys first, later files before earlier."""
    merged: dict[str, Any] = {}
    for name in map(Path, _listed(task.get("include", []))):
        inner = _read(name, _Packaged)
        if "include" in inner:
            inner["include"] = [str(name.parent / other) for other in _listed(inner["include"])]
        merged |= with_includes(inner)
    return {**merged, **{key: value for key, value in task.items() if key != "include"}}


def _read(path: Path, loader: type[yaml.SafeLoader]) -> dict[str, Any]:
    try:
        task = yaml.load(path.read_text(encoding="utf-8"), loader)  # noqa: S506 (a SafeLoader)
        if not isinstance(task, dict):
            raise ValueError("not a mapping")
    except FileNotFoundError:
        raise InputError(f"{path}: no such task definition; add it, or rename the task in the config") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: broken task definition: {error}") from None
    return task


def _listed(included: Any) -> list:
    return included if isinstance(included, list) else [included]


def packaged_folder(path: Path) -> Path:
    spec = importlib.util.find_spec("lm_eval")  # imports nothing
    if spec is None or spec.origin is None:
        raise InputError(f"{path}: include: lm-eval is not installed here")
    return Path(spec.origin).parent / "tasks"
