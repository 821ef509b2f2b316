"""A task of lm-eval's. Answers already given by this very model are not asked for again."""

import importlib
from pathlib import Path
from typing import Any

import lm_eval

from pruning.core import artifacts
from pruning.evaluation import harness, tasks
from pruning.evaluation.answers import ANSWERS, AnswerFile, RememberedLM
from pruning.evaluation.kinds import Outcome, Remembered
from pruning.evaluation.samples import outcomes

# What lm-eval says of the run rather than of its result: equal runs make equal bytes.
OF_THE_RUN = ("date", "pretty_env_info", "git_hash", "upper_git_hash", "total_evaluation_time_seconds")


def ask(network, tokenizer, task: dict[str, Any], source: Path, remembered: Remembered) -> Outcome:
    """`source`: the task's YAML. Raises InputError as harness.evaluate does."""
    definition = tasks.definition(source)
    data = {name: artifacts.file_hash(Path(path)) for name, path in definition["dataset_kwargs"]["data_files"].items()}
    asked = {key: task[key] for key in ("num_fewshot", "shared_examples", "chat_template", "max_gen_toks")}
    backend = importlib.import_module(f"pruning.evaluation.backends.{task.get('backend', 'hf')}")
    own = (definition, asked, data, task["dtype"], lm_eval.__version__, *backend.origin().items())
    identity = artifacts.key_of(ANSWERS, *remembered.model, *own)
    own_file = remembered.folder / f".{remembered.name}.{identity}.jsonl"
    same = remembered.folder.glob(f".*.{identity}.jsonl")  # of tasks that differ in `first` and `limit` alone
    answers = AnswerFile(own_file, sorted(file for file in same if file != own_file))
    lm = RememberedLM(backend.lm(network, tokenizer, task["batch_size"]), answers)
    result = harness.evaluate(lm, definition, task["limit"], task["first"], **asked)
    frame = outcomes(result, answers, task["metrics"])
    for key in ("samples", *OF_THE_RUN):
        result.pop(key, None)
    means = frame.groupby("metric")["value"].agg(["mean", "count"]).to_string()
    return Outcome(frame, result, means, {"data": data, **backend.origin()})
