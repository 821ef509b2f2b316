"""Evaluation through lm-eval: its tasks, prompts and filters unchanged, our data files, per-item outcomes kept."""

import hashlib
import re
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import pandas as pd
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from pruning.degeneration import repetition
from pruning.errors import InputError
from pruning.out_of_memory import is_out_of_memory
from pruning.response_cache import ResponseCache

PACKAGED = Path(lm_eval.tasks.__file__).parent


class CachedHFLM(HFLM):
    """lm-eval's Hugging Face model that remembers every answer at once, halves the batch when memory runs out, and
    knows how many tokens it generated and why it stopped."""

    def __init__(self, model: torch.nn.Module, tokenizer, cache: ResponseCache, batch_size: int):
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self.cache, self.cache_hook = cache, self
        self.pending: deque[tuple[int, bool]] = deque()  # (tokens, ended by itself) of rows generated, not yet decoded

    def add_partial(self, kind: str, arguments: tuple, response: Any) -> None:
        """lm-eval's cache hook: called for every answered request, in the order of the rows of a batch."""
        record: dict[str, Any] = {"response": response}
        if kind == "generate_until":
            tokens, ended = self.pending.popleft()
            record |= {"tokens": tokens, "finish": "stop" if ended else "length"}
        self.cache.add(self.cache.key(kind, arguments), record)

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **kwargs) -> torch.Tensor:
        output = super()._model_generate(context, max_length, stop, **kwargs)
        for row in output[:, context.shape[1] :]:
            text = self.tok_decode(row.tolist(), skip_special_tokens=False)
            ends = [text.find(s) for s in stop if s in text]
            own = len(self.tok_encode(text[: min(ends)], add_special_tokens=False)) if ends else len(row)
            self.pending.append((own, bool(ends)))
        return output

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list:
        answers = self._answer("loglikelihood", requests, super().loglikelihood)
        return [tuple(answer) for answer in answers]

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list:
        return self._answer("generate_until", requests, super().generate_until)

    def _answer(self, kind: str, requests: list, ask: Callable[[list], list]) -> list:
        """Responses in the order of the requests; only those not on record are computed.

        Raises InputError when memory does not suffice for a batch of one."""
        keys = [self.cache.key(kind, request.args) for request in requests]
        tried = []
        while missing := [r for r, key in zip(requests, keys, strict=True) if key not in self.cache]:
            tried.append(self.batch_size_per_gpu)
            try:
                ask(missing)
                break
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.batch_size_per_gpu == 1:
                    raise InputError(
                        f"out of memory, batch sizes tried: {tried}; give the job more memory or GPUs"
                    ) from None
                self.batch_size_per_gpu //= 2
                self.pending.clear()
                torch.cuda.empty_cache()
        return [self.cache[key]["response"] for key in keys]


def task_definition(definition: Path) -> dict[str, Any]:
    """A task YAML of config/tasks/. Its `include` names a file of lm-eval's own task folder.

    Raises InputError if the YAML or the packaged file is missing or broken."""
    try:
        task = yaml.safe_load(definition.read_text(encoding="utf-8"))
        if not isinstance(task, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{definition}: {error}") from None
    if "include" in task:
        packaged = PACKAGED / task["include"]
        if not packaged.is_file():
            raise InputError(f"{definition}: include: lm-eval {lm_eval.__version__} has no task file {task['include']}")
        task["include"] = str(packaged)
    return task


def evaluate(lm: HFLM, task: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """lm-eval's result for one task definition, samples included; at most `limit` items, in order."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "task.yaml"  # a file, because only files may include packaged ones
        path.write_text(yaml.safe_dump(task), encoding="utf-8")
        return lm_eval.simple_evaluate(
            model=lm,
            tasks=[str(path)],
            task_manager=TaskManager(include_defaults=False),
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
        )


def outcomes(result: dict[str, Any], lm: CachedHFLM, metrics: Sequence[str]) -> pd.DataFrame:
    """One row an item and metric, in the schema shared with perplexity (docs/artefacts.md).

    metrics: lm-eval's names, `acc` or with the filter, `exact_match,strict-match`. Items whose document names a
    `template` are clusters: they are alike.
    Raises InputError naming the metrics that the task has, if one is not among them."""
    (samples,) = result["samples"].values()
    rows, available = [], set()
    for sample in samples:
        own_filter = "" if sample["filter"] == "none" else f",{sample['filter']}"
        names = {f"{metric}{own_filter}": metric for metric in sample["metrics"]}
        available |= set(names)
        hashes = "".join(sample[h] for h in ("doc_hash", "prompt_hash", "target_hash"))
        generated = generation(sample, lm)
        template = sample["doc"].get("template")
        for name in metrics:
            if name in names:
                rows.append(
                    {
                        "item": sample["doc_id"],
                        "item_hash": hashlib.sha256(hashes.encode()).hexdigest()[:16],
                        "metric": name,
                        "value": float(sample[names[name]]),
                        "weight": 1,
                        "cluster": None if template is None else str(template),
                        "prediction": prediction(sample),
                        "target": str(sample["target"]),
                        **generated,
                    }
                )
    if unknown := set(metrics) - available:
        raise InputError(f"metrics: {sorted(unknown)} not among this task's: {sorted(available)}")
    frame = pd.DataFrame(rows).sort_values(["metric", "item"], ignore_index=True)
    types = {"cluster": "string", "generated_tokens": "Int64", "finish_reason": "string", "repetition": "float64"}
    return frame.astype(types)


def generation(sample: dict[str, Any], lm: CachedHFLM) -> dict[str, Any]:
    """Generated length, finish reason (`stop` or `length`) and share of repeated 4-grams of words and signs; empty for
    scored options."""
    record: dict[str, Any] = {}
    arguments = list(sample["arguments"].values()) if isinstance(sample["arguments"], dict) else sample["arguments"]
    if arguments:
        first = tuple(arguments[0].values()) if isinstance(arguments[0], dict) else tuple(arguments[0])
        record = lm.cache.records.get(lm.cache.key("generate_until", first), {})
    repeated = repetition(re.findall(r"\w+|[^\w\s]", record["response"])) if record else None
    return {
        "generated_tokens": record.get("tokens"),
        "finish_reason": record.get("finish"),
        "repetition": repeated,
    }


def prediction(sample: dict[str, Any]) -> str:
    """The extracted answer of a generation, or the number of the likeliest option."""
    answers = sample["filtered_resps"]
    if isinstance(answers[0], str):
        return answers[0]
    scores = [answer[0] if isinstance(answer, (list, tuple)) else answer for answer in answers]
    return str(max(range(len(scores)), key=scores.__getitem__))
