"""Task definitions of lm-eval's (config/tasks/), checked before any job: what the workflow reads of them, what lm-eval
needs of any, and their templates."""

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from jinja2 import Environment, TemplateSyntaxError
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from pruning.core import strict_yaml
from pruning.core.errors import InputError
from pruning.evaluation import tasks

NAMED = re.compile(r"""^["']?(task|group|tag)["']?: *["']?([^\s"']+)["']? *$""", re.M)


class _DataFiles(BaseModel):
    data_files: dict[str, str]


class _Metric(BaseModel):
    metric: str


class _Function(BaseModel):
    function: str


class _Filter(BaseModel):
    name: str
    filter: list[_Function]


def _template(text: Any) -> Any:
    """Raises ValueError for a text that Jinja cannot read; of others, whatever they are, lm-eval's stage says more."""
    for each in text if isinstance(text, list) else [text]:
        if isinstance(each, str):
            try:
                TEMPLATES.from_string(each)
            except TemplateSyntaxError as error:
                raise ValueError(f"no template: {error.message}") from None
    return text


TEMPLATES = Environment()
TEMPLATES.filters["regex_replace"] = str  # lm-eval's own
Text = Annotated[str, AfterValidator(_template)]


class _Generation(BaseModel):
    until: str | list[str] = []
    max_gen_toks: Annotated[int, Field(gt=0)] | None = None


class _Task(BaseModel):
    """What this workflow reads of a task definition, and what lm-eval needs of any; the rest is lm-eval's."""

    task: str
    dataset_path: Literal["parquet"]
    dataset_kwargs: _DataFiles
    test_split: str | None = None
    validation_split: str | None = None
    output_type: Literal["generate_until", "multiple_choice", "loglikelihood", "loglikelihood_rolling"] = (
        "generate_until"
    )
    doc_to_text: Text | int
    doc_to_target: Text | int | list
    doc_to_choice: Annotated[str | list | dict | None, AfterValidator(_template)] = None
    description: Text = ""
    generation_kwargs: _Generation | None = None
    fewshot_config: dict[str, Any] | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    repeats: Annotated[int, Field(gt=0)] = 1
    metric_list: list[_Metric] = []
    filter_list: list[_Filter] = []


def _task(path: Path) -> _Task:
    """A task definition with all that it includes. Raises InputError if a file is missing, broken or odd."""
    return _read(path, tuple(file.stat().st_mtime_ns for file in tasks.files(path)))


@cache
def _read(path: Path, changed: tuple[int, ...]) -> _Task:
    """The file and those it includes, as they were changed last. Kept, since every start of Snakemake asks for each of
    its parts, and templates are slow."""
    for file in tasks.files(path):
        strict_yaml.check(file)
    definition = tasks.with_includes(tasks.definition(path))
    if odd := [key for key in definition if not isinstance(key, str)]:
        raise InputError(f"{path}: {odd[0]}: a key must be a word; quote it")
    try:
        return _Task.model_validate(definition)
    except ValidationError as error:
        mistake = error.errors()[0]
        key = ".".join(str(part) for part in mistake["loc"] if not str(part).startswith(("function-", "list[")))
        hint = " (a parquet path a split)" if key.startswith("dataset_kwargs") else ""
        raise InputError(f"{path}: {key}{hint}: {mistake['msg'].removeprefix('Value error, ')}") from None


def packaged(name: str) -> tuple[str, dict[str, Any]]:
    """The file of lm-eval's own task of this name, below its folder of tasks, and all of its definition. Raises
    InputError where there is none."""
    folder = tasks.packaged_folder(Path(name))
    kinds = _named(folder).get(name, {})
    if "task" not in kinds:
        said = "a group of tasks: name one of them" if kinds else "lm-eval has no task of this name"
        raise InputError(f"{name}: {said}")
    return str(kinds["task"].relative_to(folder)), tasks.with_includes({"include": str(kinds["task"])})


@cache
def _named(folder: Path) -> dict[str, dict[str, Path]]:
    """Name -> `task`, `group` or `tag` -> the first file of the folder that gives it that name."""
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.rglob("*.y*ml")):
        for kind, name in NAMED.findall(file.read_text(encoding="utf-8")):
            found.setdefault(name, {}).setdefault(kind, file)
    return found


def data_files(path: Path) -> list[str]:
    """The parquet files that a task reads: {split: path} under dataset_kwargs.data_files. Raises InputError without."""
    return sorted(set(_task(path).dataset_kwargs.data_files.values()))


def test_file(path: Path) -> str:
    """The parquet of a task's test items (its validation items, where it has no test split)."""
    task = _task(path)
    files, split = task.dataset_kwargs.data_files, task.test_split or task.validation_split
    if split not in files:
        raise InputError(f"{path}: names no file for its items' split {split!r} under dataset_kwargs.data_files")
    return files[split]


def included(path: Path) -> list[Path]:
    """The definitions of ours that a task's own includes. Raises InputError as tasks.files does."""
    return tasks.files(path)[1:]


def no_examples(path: Path) -> bool:
    """Whether a task says that it is asked without worked examples, whatever its user says."""
    return _task(path).num_fewshot == 0


def metric_names(path: Path) -> list[str]:
    """lm-eval's names of what a task measures, with its filters."""
    task = _task(path)
    filters = [f",{f.name}" for f in task.filter_list] or [""]
    return [f"{metric.metric}{name}" for metric in task.metric_list for name in filters]
