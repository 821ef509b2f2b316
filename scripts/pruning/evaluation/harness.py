"""Evaluation through lm-eval: its tasks, prompts and filters unchanged, our data files."""

import json
import math
import os
import random
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import torch
import yaml
from jinja2 import StrictUndefined, Template
from jinja2.exceptions import TemplateError
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import evaluator
from lm_eval.api import samplers
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager

from pruning.core.errors import InputError
from pruning.evaluation.answers import CachingLM
from pruning.models.tokenizers import timed

SECONDS = 5
"""Of computing, at most, to render a template for one item: real ones take microseconds."""
SIZE = 10**6
"""Of what a template may multiply: characters, entries, or a number."""


class _Template(Template):
    """Bounded in time. Raises TemplateError for one that takes longer, or that fails in its own arithmetic."""

    def render(self, *arguments: Any, **fields: Any) -> str:
        with timed(SECONDS, TemplateError(f"it takes more than {SECONDS} s for one item")):
            return super().render(*arguments, **fields)


class _Sandbox(SandboxedEnvironment):
    """Task definitions come from strangers: their templates get at the item's fields, not at Python, nor at all of the
    memory."""

    template_class = _Template
    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            large = abs(left) > SIZE or abs(right) > 64
        else:
            sizes = [len(side) if isinstance(side, str | list | tuple) else abs(side) for side in (left, right)]
            large = any(isinstance(side, str | list | tuple) for side in (left, right)) and math.prod(sizes) > SIZE
        if large:
            raise TemplateError(f"{operator} makes more than {SIZE:,} of something")
        return super().call_binop(context, operator, left, right)


# lm-eval's own filters and options are kept.
_sandbox = _Sandbox(loader=lm_eval.utils.env.loader, undefined=StrictUndefined, keep_trailing_newline=True)
_sandbox.filters |= lm_eval.utils.env.filters
lm_eval.utils.env = _sandbox


def evaluate(
    lm: CachingLM,
    task: dict[str, Any],
    limit: int | None,
    first: int = 0,
    *,
    num_fewshot: int | None = None,
    shared_examples: bool = False,
    chat_template: bool = False,
    max_gen_toks: int | None = None,
) -> dict[str, Any]:
    """lm-eval's result for one task definition, samples included; at most `limit` items from number `first` on.

    task: as `tasks.definition` reads it. The rest is as the config's tasks have it.
    Raises InputError if there is no item number `first`, if lm-eval fails at the definition, or if a chat format is
    asked for and the model's tokenizer has none (a model without a tokenizer, as those behind a service are, is trusted
    to have one)."""
    tokenizer = getattr(lm, "tokenizer", None) if chat_template else None
    if tokenizer is not None and not tokenizer.chat_template:
        raise InputError("chat_template: this model's tokenizer has none: set `chat_template: false`")
    with _loaded(task) as loaded:
        ((name, own),) = loaded["tasks"].items()
        _set(own, num_fewshot, max_gen_toks, shared_examples)
        chosen = {name: _items(own, first, limit)} if first else None
        result = evaluator.evaluate(
            lm,
            loaded,
            limit=None if chosen else limit,
            samples=chosen,
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=True,
        )
    for config in result["configs"].values():
        config.get("metadata", {}).pop("config_source", None)  # the temporary file
        config.get("dataset_kwargs", {}).pop("cache_dir", None)
    # Of packaged functions the name alone, not their address: equal runs make equal bytes.
    named = json.dumps(result["configs"], default=lambda value: getattr(value, "__name__", str(value)))
    result["configs"] = json.loads(named)
    return result


@contextmanager
def _loaded(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give lm-eval's own objects of a definition. Raises InputError where lm-eval fails at it, here or in the block."""
    with tempfile.TemporaryDirectory() as directory:
        # datasets finds what it cached by path and time, not by content, and trusts it: no cache outlives a job.
        task = {**task, "dataset_kwargs": {**task.get("dataset_kwargs", {}), "cache_dir": directory}}
        path = Path(directory) / "task.yaml"  # a file, because only files may include packaged ones
        path.write_text(yaml.safe_dump(task), encoding="utf-8")
        try:
            yield TaskManager(include_defaults=False).load([str(path)])
        except TemplateError as error:
            raise InputError(f"task {task.get('task')}: a template cannot be rendered: {error}") from None
        except Exception as error:  # lm-eval checks little of what it reads
            if not (doing := _of_definition(error)):
                raise
            said = f"{type(error).__name__} {' '.join(str(error).split())[:300]}".strip()
            raise InputError(
                f"task {task.get('task')}: lm-eval cannot evaluate it as it is defined: {doing}: {said}"
            ) from None


def texts(task: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the prompt, without worked examples, and the right answer of all test items of a task definition.

    Raises InputError where lm-eval fails at the definition, and for a task whose options begin their items."""
    with _loaded(task) as loaded:
        [own] = loaded["tasks"].values()
        found = [(own.doc_to_text(doc), own.config.target_delimiter + _right(own, doc)) for doc in own.test_docs()]
    if not all(isinstance(prompt, str) for prompt, _ in found):  # as winogrande
        raise InputError(f"task {own.config.task}: its items begin with their options, not with a prompt: give --data")
    return found


def _right(task: Task, doc: dict[str, Any]) -> str:
    """Return an item's right answer: of several the first, of options that which its number says."""
    target = task.doc_to_target(doc)
    first = target[0] if isinstance(target, list) else target
    numbered = isinstance(first, int) and task.config.doc_to_choice is not None
    return task.doc_to_choice(doc)[first] if numbered else str(first)


def _set(task: Task, num_fewshot: int | None, max_gen_toks: int | None, shared_examples: bool) -> None:
    """What lm_eval.simple_evaluate sets of a task, and its seeds; that also asks pip, gcc and others what they are.

    Raises InputError for a task without examples of its own: lm-eval would show items with their answers."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)
    if max_gen_toks and task.get_config("output_type") == "generate_until":
        task.set_config("generation_kwargs", {"max_gen_toks": max_gen_toks}, update=True)
    own = task.get_config("num_fewshot")
    if own != 0:  # a task that says 0 has no examples to give
        task.set_config("num_fewshot", num_fewshot if num_fewshot is not None else own or 0)
    if asked := task.get_config("num_fewshot"):
        given = task.fewshot_cfg.split is not None or task.get_config("fewshot_config") and task.fewshot_cfg.samples
        if not (given or task.has_training_docs() or task.has_validation_docs() and task.has_test_docs()):
            lacks = "has no examples but the items that are evaluated"
            remedy = "name a training_split or fewshot_split, or set num_fewshot: 0"
            raise InputError(f"task {task.config.task}: num_fewshot: {asked}: the task {lacks}: {remedy}")
        if shared_examples:
            task.sampler = samplers.get_sampler("first_n")(task.sampler.df)
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)


def _items(task: Task, first: int, limit: int | None) -> list[int]:
    """Numbers of at most `limit` items from number `first` on. Raises InputError if there is none."""
    count = len(task.eval_docs)
    if first >= count:
        files = task.config.dataset_kwargs["data_files"]
        file = files[task.config.test_split or task.config.validation_split]
        raise InputError(f"first: {first}, but {file} has only {count} items, counted from 0")
    return list(range(first, count if limit is None else min(first + limit, count)))


def _of_definition(error: Exception) -> str | None:
    """What lm-eval was doing with a task's definition or items as it failed; None where the model was at work."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(isinstance(frame.f_locals.get("self"), LM | CachingLM) for frame in frames):
        return None
    names = [frame.f_code.co_name for frame in frames if f"{os.sep}lm_eval{os.sep}" in frame.f_code.co_filename]
    return names[-1].strip("_<>") if names else None
