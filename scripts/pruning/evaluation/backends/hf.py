"""lm-eval's Hugging Face model with our generation and likelihoods.

Greedy; what requests share is computed once, the batch is halved when memory runs out, what does not fit is an error.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase

from pruning.core.artifacts import key_of
from pruning.core.errors import InputError
from pruning.core.out_of_memory import is_out_of_memory
from pruning.evaluation import generation, likelihood
from pruning.evaluation.backends import check_greedy, check_length, end_tokens, generation_settings


def lm(network: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> "HuggingFaceLM":
    return HuggingFaceLM(network, tokenizer, batch_size)


def origin(network: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    rule = (generation.PERIOD, generation.REPEATED, generation.PERIODS, generation.LEFT)
    return {"generation": generation_settings(network.generation_config, tokenizer), "loops": rule}


class HuggingFaceLM(HFLM):
    """Answers as HFLM does, up to rounding (a batch's shape) and the end of answers caught in a loop.

    details: of the answer being reported to the cache hook, {tokens, finish} if it was generated, else {}."""

    def __init__(self, model: torch.nn.Module, tokenizer, batch_size: int):
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
        self.listener, self.cache_hook = self.cache_hook, self
        self.details: dict[str, Any] = {}
        self.pending: deque[dict[str, Any]] = deque()  # details of the batch's rows that are not yet reported
        self.given: dict[str, str] = {}  # answers of this call to generate_until, by their arguments
        self.stops: dict[tuple[str, ...], generation.StopStrings] = {}
        self.shared: list[int] = []  # token ids that all prompts begin with
        self.prefix = None

    def set_cache_hook(self, cache_hook: Any) -> None:
        self.listener = cache_hook

    def add_partial(self, kind: str, arguments: tuple, response: Any) -> None:
        """What HFLM calls for every answer, in the order of a batch's rows; passed on to the cache hook."""
        self.details = {}
        if kind == "generate_until":
            self.details = self.pending.popleft()
            self.given[key_of(arguments)] = response
        self.listener.add_partial(kind, arguments, response)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Raises InputError if a prompt and its answer do not fit the context, if memory does not suffice for a batch
        of one, and if sampling is asked for."""
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        for prompt, request in zip(prompts, requests, strict=True):
            check_length(len(prompt), request.args[1].get("max_gen_toks", self.max_gen_toks), self.max_length)
        keys = [key_of(request.args) for request in requests]
        self.given, self.shared, self.prefix = {}, [], None
        if (length := generation.common_prefix(prompts)) >= generation.SHARED:
            self.shared = prompts[0][:length]

        def ask() -> None:
            if self.shared and self.prefix is None:
                self.prefix = generation.prefix_cache(self.model, self.shared)
                self.shared = self.shared if self.prefix else []
            left = [request for request, key in zip(requests, keys, strict=True) if key not in self.given]
            if left:
                super(HuggingFaceLM, self).generate_until(left, disable_tqdm)

        self._halving(ask)
        return [self.given[key] for key in keys]

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
            made = generation.greedy(
                model,
                prompts,
                limit,
                lambda _, tokens: tokens[-1] in ends or stopped(tokens),
                pad=self.tokenizer.pad_token_id,
                prefix=self.prefix,
                shared=len(self.shared),
                processors=logits_processor,
            )
            # A loop is taken to go on to the limit: what was not generated counts as if it had been.
            self.pending = deque(
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

        Raises InputError if one does not fit the context, or if memory does not suffice for a batch of one."""
        pairs = [(context, continuation) for _, context, continuation in requests]
        for context, continuation in pairs:
            # nothing is predicted after the last token
            check_length(len(context), len(continuation) - 1, self.max_length)
        answers: dict[int, tuple[float, bool]] = {}

        def ask() -> None:
            left = [number for number in range(len(pairs)) if number not in answers]
            for batch in likelihood.grouped([pairs[number] for number in left], self.batch_size_per_gpu):
                numbers = [[left[place] for place in group] for group in batch]
                contexts = [pairs[group[0]][0] for group in numbers]
                continuations = [[pairs[number][1] for number in group] for group in numbers]
                scores = likelihood.score(self.model, contexts, continuations, self.tokenizer.pad_token_id)
                for group, own in zip(numbers, scores, strict=True):
                    for number, answer in zip(group, own, strict=True):
                        answers[number] = answer
                        if requests[number][0] is not None:
                            self.add_partial("loglikelihood", requests[number][0], answer)

        self._halving(ask)
        return [answers[number] for number in range(len(requests))]

    def _halving(self, ask: Callable[[], None]) -> None:
        """Calls `ask`; each time that memory runs out again, with half the batch. `ask` leaves out what is answered.

        Raises InputError when memory does not suffice for a batch of one."""
        tried = []
        while True:
            tried.append(self.batch_size_per_gpu)
            try:
                return ask()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.batch_size_per_gpu == 1:
                    raise InputError(
                        f"out of memory, batch sizes tried: {tried}; give the job more memory or GPUs"
                    ) from None
                self.batch_size_per_gpu //= 2
            torch.cuda.empty_cache()  # the error's traceback, which held tensors, is gone here
