"""llama.cpp on the GGUF file of a quantised variant: a check that it answers as the file's values do in the harness.

Prompts, ends of answers and what is read of them are the model's own (backends/hf.py); only the tokens come from
llama.cpp, one prompt after the other on the CPU. Answers are generated alone: options and texts are not scored.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from pruning.core.errors import InputError
from pruning.evaluation.backends import Variant, check_greedy, check_length, hf
from pruning.evaluation.generation import Generated
from pruning.models.gguf import llama

CONTEXT = 4096
"""Tokens of a prompt and its answer that there is room for, if the model has as many and no `max_model_len` is set."""


class LlamaCppLM(hf.HuggingFaceLM):
    """Greedy tokens by llama.cpp in place of the network's."""

    def __init__(self, opened: SimpleNamespace, tokenizer: Any, batch_size: int):
        super().__init__(opened.network, tokenizer, batch_size)
        self.file = opened.file

    def _loglikelihood_tokens(self, requests: list, disable_tqdm: bool = False, override_bs: int | None = None) -> list:
        raise InputError("backend: llama_cpp generates answers and scores no options: leave it out of the task")

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], attention_mask: torch.Tensor, **asked: Any
    ) -> torch.Tensor:
        """Raises InputError for settings of the model or the task that change greedy answers."""
        check_greedy(self.model.generation_config, asked, ())
        return super()._model_generate(context, max_length, stop, attention_mask, **asked)

    def greedy(
        self,
        model: torch.nn.Module,
        prompts: Sequence[Sequence[int]],
        limit: int,
        ended: Callable[[int, list[int]], bool],
        **_: Any,
    ) -> list[Generated]:
        """As generation.greedy, without its end of answers caught in a loop."""
        found = []
        for row, prompt in enumerate(prompts):
            check_length(len(prompt), limit, self.file.n_ctx())
            self.file.reset()
            tokens, finish, given = [], "length", list(prompt)
            while finish == "length" and len(tokens) < limit:
                self.file.eval(given)
                given = [int(last_logits(self.file).argmax())]
                tokens += given
                finish = "stop" if ended(row, tokens) else "length"
            found.append(Generated(tokens, finish))
        return found


def last_logits(file: Any) -> np.ndarray:
    """Return llama.cpp's logits of the token after all that it was given, float32 [vocabulary]."""
    import llama_cpp

    return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(file.ctx, -1), shape=(file.n_vocab(),))


lm = LlamaCppLM


def origin(opened: SimpleNamespace, tokenizer: Any) -> dict[str, Any]:
    import llama_cpp

    return {"llama_cpp": llama_cpp.__version__, **hf.origin(opened.network, tokenizer)}


@contextmanager
def opened(variant: Variant, task: Mapping[str, Any]) -> Iterator[tuple[SimpleNamespace, Any]]:
    """The variant's GGUF file in llama.cpp with the network of the same values, and its tokenizer."""
    network, tokenizer = variant.load(task["dtype"])
    context = min(network.config.max_position_embeddings, task.get("max_model_len") or CONTEXT)
    with llama.opened(variant.gguf, str(variant.gguf), torch.get_num_threads(), n_ctx=context) as file:
        yield SimpleNamespace(network=network, file=file), tokenizer
