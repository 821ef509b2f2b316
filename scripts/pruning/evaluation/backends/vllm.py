"""vLLM, by lm-eval's own class for it, on a directory of the variant: greedy, a batch at a time.

Uniform widths run in vLLM's own class of the architecture; others in its Transformers backend, by the code that lies
beside the weights (models/remote_code.py). What was checked against which version, and run: docs/reference/families.md.
"""

import gc
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pruning.core import devices
from pruning.core.errors import InputError
from pruning.evaluation import backends
from pruning.evaluation.backends import Variant, answer_length, check_length, end_tokens
from pruning.models import loading, remote_code, served

backends.check_installed("vllm")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process, if one GPU is used: the same schedule

from lm_eval.models.vllm_causallms import VLLM  # noqa: E402 (imports vLLM, which reads these variables)
from vllm.platforms import current_platform  # noqa: E402

SHARE = 0.9
"""Of a GPU's memory that vLLM takes at most: the rest is for the libraries."""


class GreedyVLLM(VLLM):
    """Answers as lm-eval's class does, but never from a prompt that was cut, and never drawn at random.

    details: {tokens, finish} of the generated answers of a batch that are not yet reported to the cache hook."""

    def __init__(self, directory: Path, **settings: Any):
        super().__init__(str(directory), **settings)
        self.own = loading.generation_config(directory)
        self.details: deque[dict[str, Any]] = deque()
        self.asked: dict[str, dict[str, Any]] = {}  # arguments of generation, by their context

    def set_cache_hook(self, cache_hook: Any) -> None:
        """VLLM reports a generation's arguments in vLLM's words, which would never be found again."""

        def report(kind: str, arguments: tuple, response: Any) -> None:
            own = (arguments[0], self.asked[arguments[0]]) if kind == "generate_until" else arguments
            cache_hook.add_partial(kind, own, response)

        self.cache_hook = SimpleNamespace(add_partial=report)

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        """Raises InputError if a prompt and its answer do not fit the context, and for settings of the model or the
        task that ask for more than greedy answers with a `repetition_penalty`."""
        for request in requests:
            length = answer_length(request.args[1], self.max_gen_toks)
            check_length(len(self.tok_encode(request.args[0])), length, self.max_length)
        self.asked = {context: arguments for context, arguments in (request.args for request in requests)}
        return super().generate_until(requests, disable_tqdm)

    def modify_gen_kwargs(
        self, gen_kwargs: dict[str, Any], eos: str | list[str] | None = None, default_max_gen_toks: int = 256
    ) -> tuple[dict[str, Any], list[str], int]:
        """Greedy where nothing is said of it (VLLM would leave vLLM's own temperature, which is 1), with the model's
        own ends and penalty (lm-eval's parameters replace those that vLLM reads from generation_config.json)."""
        asked, until, tokens = VLLM.modify_gen_kwargs(gen_kwargs, eos, default_max_gen_toks)
        known = {key: value for key, value in asked.items() if key in vars(self.own)}
        settings = backends.check_greedy(self.own, known, ["repetition_penalty"])
        ends = {"stop_token_ids": end_tokens(self.own, self.tokenizer)}
        return {**settings, **ends, **asked, "temperature": 0.0}, until, tokens

    def _model_generate(self, requests: list, generate: bool = False, sampling_params: Any = None) -> list:
        outputs = super()._model_generate(requests, generate, sampling_params)
        if generate:
            made = [output.outputs[0] for output in outputs]
            self.details = deque({"tokens": len(own.token_ids), "finish": own.finish_reason} for own in made)
        return outputs

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Raises InputError if one does not fit the context (vLLM generates a token after it)."""
        for _, context, continuation in requests:
            check_length(len(context), len(continuation) + 1, self.max_length)
        return super()._loglikelihood_tokens(requests, disable_tqdm)


def lm(network: GreedyVLLM, tokenizer: Any, batch_size: int) -> GreedyVLLM:
    network.batch_size = batch_size
    return network


def origin(network: GreedyVLLM, tokenizer: Any) -> dict[str, Any]:
    return {"vllm": version("vllm"), "generation": backends.generation_settings(network.own, tokenizer)}


@contextmanager
def opened(variant: Variant, task: Mapping[str, Any]) -> Iterator[tuple[GreedyVLLM, Any]]:
    """The variant in vLLM, on all GPUs of the job, and its tokenizer. task: `dtype`, `max_model_len`.

    Raises InputError without a GPU (vLLM's build for CPUs wants none), if the weights are more than what is free, and
    for what vLLM would not compute right."""
    gpus = len(devices.visible())
    if not gpus and not current_platform.is_cpu():
        raise InputError("backend: vllm needs a GPU, and this job sees none: set the model's `gpus`, or `backend: hf`")
    gc.collect()  # what tasks of the model itself have left
    torch.cuda.empty_cache()
    with variant.written(task["dtype"]) as directory:
        own_code = remote_code.trusted(directory)
        served.check(directory, own_code, max(gpus, 1))
        loading.check_memory(directory, task["dtype"], "cuda" if gpus else "cpu")
        free = [torch.cuda.mem_get_info(card) for card in range(gpus)]
        network = GreedyVLLM(
            directory,
            dtype=task["dtype"],
            max_model_len=task["max_model_len"],
            trust_remote_code=own_code,
            model_impl="transformers" if own_code else "auto",
            tensor_parallel_size=max(gpus, 1),
            generation_config="vllm",  # the model's own settings are given with every request
            **({"gpu_memory_utilization": min(SHARE, *(0.98 * left / whole for left, whole in free))} if gpus else {}),
        )
        yield network, network.tokenizer
