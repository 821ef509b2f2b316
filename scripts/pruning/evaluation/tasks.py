"""Task definitions: YAML files in lm-eval's form, ours in config/tasks/ and those they include, there or in lm-eval.

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


def files(path: Path) -> list[Path]:
    """A task YAML of ours, and the one of its folder that it includes, if it does, and so on.

    Raises InputError if one is missing or broken, names functions, or includes itself."""
    found = [path]
    while isinstance(name := _read(found[-1], _Own).get("include"), str):
        beside = path.parent / name
        if name != beside.name or not beside.is_file():
            break  # one of lm-eval's
        if beside in found:
            raise InputError(f"{path}: include: {name} includes itself")
        found.append(beside)
    return found


def definition(path: Path) -> dict[str, Any]:
    """A task YAML of ours, with those of its folder that it includes. Another `include`, a file of lm-eval's task
    folder or a list of some, is made absolute.

    Raises InputError as `files` does, and if a file of lm-eval's is missing or broken."""
    task: dict[str, Any] = {}
    for own in files(path):
        task = _read(own, _Own) | {key: value for key, value in task.items() if key != "include"}
    if "include" in task:
        folder, absolute = packaged_folder(path), []
        for name in _listed(task["include"]):
            included = Path(os.path.normpath(folder / str(name)))  # links are not followed: installers make them
            if not included.is_relative_to(folder) or not included.is_file():
                beside = "one of this folder is included alone, by its name without folders"
                raise InputError(f"{own}: include: lm-eval has no task file {name}; {beside}")
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
