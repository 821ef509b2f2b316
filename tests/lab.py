"""A tiny model behind our class and lm-eval's, and lm-eval's tasks on data of a test's own."""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lm_eval.models.huggingface import HFLM

import tiny
from pruning.core import artifacts
from pruning.data.datasets import adapt
from pruning.evaluation import harness, tasks
from pruning.evaluation.answers import AnswerFile, CachingLM
from pruning.evaluation.backends.hf import HuggingFaceLM
from pruning.evaluation.generation import Generated
from workspace import ROOT

TASKS = ROOT / "config/tasks"


class Lab:
    """A tiny model behind both classes, and a count of its forward passes."""

    def __init__(self, folder: Path):
        self.model, self.tokenizer, self.path = tiny.qwen2(), tiny.tokenizer(), folder / "cache.jsonl"
        self.tokenizer.padding_side = "left"
        self.calls: list[tuple[int, int]] = []  # rows and tokens of each forward pass
        self.model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, _, args, kwargs) -> None:
        self.calls.append(tuple((args[0] if args else kwargs["input_ids"]).shape))

    def cached(self, batch_size: int = 2, path: Path | None = None) -> CachingLM:
        return CachingLM(HuggingFaceLM(self.model, self.tokenizer, batch_size), AnswerFile(path or self.path))

    def plain(self, batch_size: int = 2) -> HFLM:
        return HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size, backend="causal")

    def definition(self, task: str, records: list[dict], **changes: Any) -> dict[str, Any]:
        """A task of config/tasks/, with changes, on data.parquet, which is written."""
        data = self.path.with_name("data.parquet")
        artifacts.write_parquet(data, pd.DataFrame(records), "dataset", {})
        os.utime(data, (1, 1))  # the same for all contents
        made = {**tasks.definition(TASKS / f"{task}.yaml"), **changes}
        splits = made["dataset_kwargs"].get("data_files", ["test"])
        made["dataset_kwargs"] = {**made["dataset_kwargs"], "data_files": dict.fromkeys(splits, str(data))}
        return made

    def evaluated(self, task: str, records: list[dict], adapter: str | None = None, fields: list[str] = ()) -> dict:
        """lm-eval's result of a task on `records`, written as fetch_dataset writes them."""
        if adapter:
            records = list(adapt(records, adapter, fields, "test"))
        return harness.evaluate(self.cached(), self.definition(task, records), None, max_gen_toks=192)


def assert_same(found: list, expected: list):
    """Texts, or log-likelihoods up to the rounding that another batch makes."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        assert one == (other if isinstance(other, str) else pytest.approx(other, rel=1e-5))


def speak(texts: dict[str, str], lab: Lab):
    """In place of generation.greedy: says what is written for the prompt that holds the key, token by token."""

    def greedy(model, prompts, limit, ended, **_):
        made = []
        for row, prompt in enumerate(prompts):
            asked = lab.tokenizer.decode(prompt, skip_special_tokens=True)
            (text,) = (text for key, text in texts.items() if key in asked)
            tokens, finish = [], "length"
            for token in lab.tokenizer(text)["input_ids"][:limit]:
                tokens.append(token)
                if ended(row, tokens):
                    finish = "stop"
                    break
            made.append(Generated(tokens, finish))
        return made

    return greedy
