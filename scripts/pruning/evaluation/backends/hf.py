"""lm-eval's Hugging Face model with our generation and likelihoods.

Greedy; what requests share is computed once, and what does not fit the context is an error.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase

from pruning.evaluation import generation, likelihood
from pruning.evaluation.backends import (
    Variant,
    answer_length,
    check_greedy,
    check_length,
    end_tokens,
    generation_settings,
)
from pruning.models import packing


@contextmanager
def opened(variant: Variant, task: Mapping[str, Any]) -> Iterator[tuple[torch.nn.Module, PreTrainedTokenizerBase]]:
    """The variant for inference alone, and its tokenizer. task: `dtype`."""
    network, tokenizer = variant.load(task["dtype"])
    yield packing.pack(network), tokenizer


def origin(network: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    rule = (generation.PERIOD, generation.REPEATED, generation.PERIODS, generation.LEFT)
    return {"generation": generation_settings(network.generation_config, tokenizer), "loops": rule}


class HuggingFaceLM(HFLM):
    """Answers as HFLM does, up to rounding (a batch's shape) and the end of answers caught in a loop.

    details: {tokens, finish} of the generated answers of a batch that are not yet reported to the cache hook."""

    def __init__(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int):
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self.details: deque[dict[str, Any]] = deque()
        self.stops: dict[tuple[str, ...], generation.StopStrings] = {}
        self.shared: list[int] = []  # token ids that all prompts begin with
        self.prefix = None

    def greedy(self, *arguments: Any, **settings: Any) -> list[generation.Generated]:
        """Generate as generation.greedy does, for which another backend has its own."""
        return generation.greedy(*arguments, **settings)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Raises InputError if a prompt and its answer do not fit the context, and as `_model_generate` does."""
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        for prompt, request in zip(prompts, requests, strict=True):
            check_length(len(prompt), answer_length(request.args[1], self.max_gen_toks), self.max_length)
        self.shared, self.prefix = [], None
        if (length := generation.common_prefix(prompts)) >= generation.SHARED:
            self.prefix = generation.prefix_cache(self.model, prompts[0][:length])
            self.shared = prompts[0][:length] if self.prefix else []
        return super().generate_until(requests, disable_tqdm)

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], attention_mask: torch.Tensor, **asked: Any
    ) -> torch.Tensor:
        """Prompts and continuations, [B, T]; prompts are padded on the left, continuations on the right.

        HFLM and transformers' `generate` prepare all that they would (the model's own generation settings, the task's);
        only the loop is ours. Raises InputError for settings that ask for more than greedy answers."""
        check_greedy(self.model.generation_config, asked)
        if tuple(stop) not in self.stops:
            self.stops[tuple(stop)] = generation.StopStrings(self.tokenizer, stop)
        stopped = self.stops[tuple(stop)]
        prompts = [row[mask.bool()].tolist() for row, mask in zip(context, attention_mask, strict=True)]
        if any(prompt[: len(self.shared)] != self.shared for prompt in prompts):
            self.shared, self.prefix = [], None

        def loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **_) -> torch.Tensor:
            limit = max_length - input_ids.shape[1]
            ends = set(end_tokens(generation_config, self.tokenizer))
            made = self.greedy(
                model,
                prompts,
                limit,
                lambda _, tokens: tokens[-1] in ends or stopped(tokens),
                pad=self.tokenizer.pad_token_id,
                prefix=self.prefix,
                processors=logits_processor,
            )
            # A loop is taken to go on to the limit: what was not generated counts as if it had been.
            self.details = deque(
                {"tokens": limit if row.finish == "loop" else len(row.tokens), "finish": row.finish} for row in made
            )
            longest = max(len(row.tokens) for row in made)
            rows = [row.tokens + [self.tokenizer.pad_token_id] * (longest - len(row.tokens)) for row in made]
            return torch.cat([input_ids, torch.tensor(rows, device=input_ids.device)], dim=1)

        return super()._model_generate(
            context, max_length, stop, attention_mask=attention_mask, custom_generate=loop, **asked
        )

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, override_bs: int | None = None) -> list:
        """(log-likelihood in nats, whether it is greedy) of each request (its arguments, context, continuation), the
        last two token ids. Arguments are None for the windows of a longer text: they are not reported.

        Raises InputError if one does not fit the context."""
        pairs = [(context, continuation) for _, context, continuation in requests]
        for context, continuation in pairs:
            # nothing is predicted after the last token
            check_length(len(context), len(continuation) - 1, self.max_length)
        answers: dict[int, tuple[float, bool]] = {}
        for batch in likelihood.grouped(pairs, self.batch_size_per_gpu):
            contexts = [pairs[group[0]][0] for group in batch]
            continuations = [[pairs[number][1] for number in group] for group in batch]
            scores = likelihood.score(self.model, contexts, continuations, self.tokenizer.pad_token_id)
            for group, own in zip(batch, scores, strict=True):
                for number, answer in zip(group, own, strict=True):
                    answers[number] = answer
                    if requests[number][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
        return [answers[number] for number in range(len(requests))]


lm = HuggingFaceLM
