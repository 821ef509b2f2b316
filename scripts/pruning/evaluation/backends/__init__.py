"""What answers requests: one file a backend, each with a class that is a model of lm-eval (`lm_eval.api.model.LM`).

A backend knows nothing of remembering: `answers.RememberedLM` wraps it, asks it only for what is not on record, and
listens to its cache hook. To add one:

1. Write `backends/{name}.py` with a subclass of one of lm-eval's models, or of `LM` (loglikelihood, generate_until,
   loglikelihood_rolling), and `lm(network, tokenizer, batch_size)`, which gives it for one task. One that does not
   answer by the model as variants.load gives it has `opened(parts, settings)` as well, a context manager for all
   tasks of a job: the pair that it yields is that `network` and `tokenizer`. Name it in `Model.backend`
   (config/models.py).
2. Report every answer to the cache hook at once (`self.cache_hook.add_partial(kind, arguments, response)`, with the
   very arguments that were asked): what is reported survives a kill. What is only returned is recorded when the call
   returns.
3. If it knows how an answer came about, have an attribute `details`: a JSON-like dict about the answer that is being
   reported, {} if there is nothing to say. Known are `tokens` (how many were generated, an int) and `finish` (`stop`,
   `length` or `loop`). Without it the columns `generated_tokens` and `finish_reason` are empty.
4. Answers of another backend are not this one's: `origin()` says which it is, JSON-like ({} for `hf`).
"""

import sys
from importlib.util import find_spec

from pruning.core.errors import InputError


def check_installed(backend: str) -> None:
    """Raises InputError where a backend's own package is not there."""
    if backend == "vllm" and find_spec("vllm") is None:
        raise InputError(
            f"backend: vllm is not installed in {sys.prefix}: make an environment that has it (docs/howto.md, vLLM) "
            "and run in that, or set the model's `backend: hf`"
        )


def check_length(prompt: int, answer: int, context: int) -> None:
    """Raises InputError if so many tokens do not fit.

    lm-eval cuts what does not, from the left: the question would go with the examples."""
    if prompt + answer > context:
        raise InputError(
            f"a prompt of {prompt} tokens and an answer of up to {answer} do not fit the model's context of "
            f"{context} tokens: lower the task's `num_fewshot` or `max_gen_toks`"
        )
