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

from pruning.core.errors import InputError
from pruning.core.out_of_memory import is_out_of_memory
from pruning.evaluation import generation, likelihood, tasks
from pruning.evaluation.answers import ResponseCache
from pruning.evaluation.degeneration import repetition

ANSWERS = 2  # what a remembered answer records; raise it when that changes


class CachedHFLM(HFLM):
    """lm-eval's Hugging Face model that remembers every answer at once, computes what requests share once, halves the
    batch when memory runs out, and knows how many tokens it generated and why it stopped."""

    def __init__(self, model: torch.nn.Module, tokenizer, cache: ResponseCache, batch_size: int):
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self.cache, self.cache_hook = cache, self
        self.pending: deque[generation.Generated] = deque()  # rows generated, not yet decoded
        self.stops: dict[tuple[str, ...], generation.StopStrings] = {}
        self.shared: list[int] = []  # token ids that all prompts begin with
        self.prefix = None

    def add_partial(self, kind: str, arguments: tuple, response: Any) -> None:
        """lm-eval's cache hook: called for every answered request, in the order of the rows of a batch."""
        record: dict[str, Any] = {"response": response}
        if kind == "generate_until":
            made = self.pending.popleft()
            record |= {"tokens": len(made.tokens), "finish": made.finish}
        self.cache.add(self.cache.key(kind, arguments), record)

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], attention_mask: torch.Tensor, **kwargs
    ) -> torch.Tensor:
        if kwargs.get("do_sample") or kwargs.get("num_beams", 1) > 1:
            raise InputError("generation_kwargs: only greedy answers can be remembered: set `do_sample: false`")
        if tuple(stop) not in self.stops:
            self.stops[tuple(stop)] = generation.StopStrings(self.tokenizer, stop)
        ended = self.stops[tuple(stop)]
        prompts = [row[mask.bool()].tolist() for row, mask in zip(context, attention_mask, strict=True)]
        if any(prompt[: len(self.shared)] != self.shared for prompt in prompts):
            self.shared, self.prefix = [], None
        made = generation.greedy(
            self.model,
            prompts,
            max_length - context.shape[1],
            lambda _, tokens: ended(tokens),
            pad=self.tokenizer.pad_token_id,
            prefix=self.prefix,
            shared=len(self.shared),
        )
        self.pending.extend(made)
        longest = max(len(row.tokens) for row in made)
        rows = [row.tokens + [self.tokenizer.pad_token_id] * (longest - len(row.tokens)) for row in made]
        return torch.cat([context, torch.tensor(rows, device=context.device)], dim=1)

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, override_bs: int | None = None) -> list:
        answers: dict[int, tuple[float, bool]] = {}
        pairs = [(context, continuation) for _, context, continuation in requests]
        for context, continuation in pairs:
            self._check_length(len(context), len(continuation) - 1)  # nothing is predicted after the last token
        for batch in likelihood.grouped(pairs, self.batch_size_per_gpu):
            contexts = [pairs[group[0]][0] for group in batch]
            continuations = [[pairs[number][1] for number in group] for group in batch]
            scores = likelihood.score(self.model, contexts, continuations, self.tokenizer.pad_token_id)
            for group, own in zip(batch, scores, strict=True):
                for number, answer in zip(group, own, strict=True):
                    answers[number] = answer
                    self.add_partial("loglikelihood", requests[number][0], answer)
        return [answers[number] for number in range(len(requests))]

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list:
        answers = self._answer("loglikelihood", requests, super().loglikelihood)
        return [tuple(answer) for answer in answers]

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list:
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        for prompt, request in zip(prompts, requests, strict=True):
            self._check_length(len(prompt), request.args[1].get("max_gen_toks", self.max_gen_toks))
        self.shared, self.prefix = [], None
        if (length := generation.common_prefix(prompts)) >= generation.SHARED:
            self.shared = prompts[0][:length]

        def ask(missing: list) -> list:
            if self.shared and self.prefix is None:
                self.prefix = generation.prefix_cache(self.model, self.shared)
                self.shared = self.shared if self.prefix else []
            return super(CachedHFLM, self).generate_until(missing)

        return self._answer("generate_until", requests, ask)

    def _check_length(self, prompt: int, answer: int) -> None:
        """lm-eval cuts what does not fit, from the left: the question would go with the examples."""
        if prompt + answer > self.max_length:
            raise InputError(
                f"a prompt of {prompt} tokens and an answer of up to {answer} do not fit the model's context of "
                f"{self.max_length} tokens: lower the task's `num_fewshot` or `max_gen_toks`"
            )

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


def evaluate(
    lm: HFLM,
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
    Raises InputError if a chat format is asked for and there is none."""
    if chat_template and not lm.tokenizer.chat_template:
        raise InputError("chat_template: this model's tokenizer has none: set `chat_template: false`")
    if shared_examples:
        task = {**task, "fewshot_config": {"sampler": "first_n"}}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "task.yaml"  # a file, because only files may include packaged ones
        path.write_text(yaml.safe_dump(task), encoding="utf-8")
        chosen = {tasks.with_includes(task)["task"]: list(range(first, first + limit))} if first and limit else None
        return lm_eval.simple_evaluate(
            model=lm,
            tasks=[str(path)],
            task_manager=TaskManager(include_defaults=False),
            limit=None if chosen else limit,
            samples=chosen,
            num_fewshot=num_fewshot,
            apply_chat_template=chat_template,
            gen_kwargs={"max_gen_toks": max_gen_toks} if max_gen_toks else None,
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
        how = generated(sample, lm)
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
                        **how,
                    }
                )
    if unknown := set(metrics) - available:
        raise InputError(f"metrics: {sorted(unknown)} not among this task's: {sorted(available)}")
    frame = pd.DataFrame(rows).sort_values(["metric", "item"], ignore_index=True)
    types = {"cluster": "string", "generated_tokens": "Int64", "finish_reason": "string", "repetition": "float64"}
    return frame.astype(types)


def generated(sample: dict[str, Any], lm: CachedHFLM) -> dict[str, Any]:
    """Tokens generated, finish reason (`stop`, `length` or `loop`) and share of repeated 4-grams of words and signs;
    empty for scored options."""
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
