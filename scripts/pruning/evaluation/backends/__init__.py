"""What answers requests: one file a backend, each with a class that is a model of lm-eval (`lm_eval.api.model.LM`).

`answers.CachingLM` wraps it, asks it only for what is not on record, and listens to its cache hook. To add one:

1. Write `backends/{name}.py` with `opened(variant, settings)`, a context manager for all tasks of a job, which yields
   the `network` and `tokenizer` of `lm(network, tokenizer, batch_size)`, such a model for one task, and of
   `origin(network, tokenizer)`, JSON-like: what answers come from. It is part of the answers' file name and of the
   result (`provenance`). Name it in `Model.backend` (config/models.py).
2. Report every answer to the cache hook at once (`self.cache_hook.add_partial(kind, arguments, response)`, with the
   arguments that were asked): it survives a kill. What is only returned is recorded when the call returns.
3. If it knows how answers came about, have a deque `details`, from which one is taken for every report: {`tokens`, how
   many were generated, and `finish`: `stop`, `length` or `loop`}.
"""

import copy
import sys
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pruning.core.errors import InputError

APPLIED = {
    **{"repetition_penalty": 1, "no_repeat_ngram_size": 0, "bad_words_ids": None, "sequence_bias": None},
    **{"suppress_tokens": None, "begin_suppress_tokens": None, "min_length": 0, "min_new_tokens": 0},
    **{"forced_bos_token_id": None, "forced_eos_token_id": None, "exponential_decay_length_penalty": None},
    **{"remove_invalid_values": False},
}
"""Generation settings, by transformers' names, that change greedy answers; the value that changes nothing."""
REFUSED = {
    **{"num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "guidance_scale": 1, "penalty_alpha": 0},
    **dict.fromkeys(["constraints", "force_words_ids", "dola_layers", "watermarking_config", "token_healing"], False),
    **dict.fromkeys(["stop_strings", "max_time", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp"], False),
}
"""Those that ask for another search than the greedy one, or for another end of answers; the value that does not."""


class Variant(Protocol):
    """What is asked: a model in memory, or a directory of it (methods/variants.py)."""

    gguf: Path | None

    def load(self, dtype: str) -> tuple[Any, Any]: ...

    def written(self, dtype: str) -> AbstractContextManager[Path]: ...


def end_tokens(config: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: all that the generation config lists, and the tokenizer's."""
    listed = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    return sorted({token for token in (*listed, tokenizer.eos_token_id) if token is not None})


def generation_settings(config: Any, tokenizer: Any) -> dict[str, Any]:
    """What of a model's GenerationConfig counts in greedy answers, JSON-like."""
    return {"eos_token_id": end_tokens(config, tokenizer), **_changed(config, APPLIED)}


def check_greedy(config: Any, asked: Mapping[str, Any], applied: Collection[str] = tuple(APPLIED)) -> dict[str, Any]:
    """The settings of a model's GenerationConfig, overridden by those that a task asks for, that change greedy answers.

    applied: those that the backend applies. Raises InputError for others, and for those that ask for another search."""
    config = copy.deepcopy(config)
    unknown = config.update(**{key: value for key, value in asked.items() if key != "temperature"})  # 0, lm-eval's
    changed = _changed(config, APPLIED)
    refused = {**unknown, **_changed(config, REFUSED), **{k: v for k, v in changed.items() if k not in applied}}
    if asked.get("do_sample"):
        refused["do_sample"] = True
    if refused:
        named = ", ".join(f"`{key}: {value}`" for key, value in refused.items())
        raise InputError(
            f"{named}: answers are greedy, and these settings are not supported: leave them out of the task's "
            "generation_kwargs or the model's generation_config.json"
        )
    return changed


def _changed(config: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, none in fields.items() if (value := getattr(config, key, None)) not in (None, none)}


def check_installed(backend: str) -> None:
    """Raises InputError where a backend's own package is not there."""
    if backend == "vllm" and find_spec("vllm") is None:
        raise InputError(
            f"backend: vllm is not installed in {sys.prefix}: make an environment that has it (docs/howto/vllm.md) "
            "and run in that, or set the model's `backend: hf`"
        )


def answer_length(asked: Mapping[str, Any], usual: int) -> int:
    """Most tokens of an answer, which lm-eval knows by several names in a request's settings. usual: without any."""
    from lm_eval.models.utils import normalize_gen_kwargs

    return normalize_gen_kwargs(dict(asked), usual)["max_gen_toks"]


def check_length(prompt: int, answer: int, context: int) -> None:
    """Raises InputError if so many tokens do not fit.

    lm-eval cuts what does not, from the left: the question would go with the examples."""
    if prompt + answer > context:
        raise InputError(
            f"a prompt of {prompt} tokens and an answer of up to {answer} do not fit the model's context of "
            f"{context} tokens: lower the task's `num_fewshot` or `max_gen_toks`"
        )
