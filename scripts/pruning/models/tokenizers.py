"""The one reader of tokenizers: what is broken is refused, and what a chat template may take is bounded.

A chat template is a program that comes with a model: transformers runs it in a sandbox, which bounds neither its time
nor its memory.
"""

import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pruning.core.errors import InputError
from pruning.core.files import reading

SECONDS = 5
"""Of computing, at most, to render a conversation: real ones take milliseconds."""
MEMORY = 2**29
"""Bytes of memory, at most, for that."""
LENGTH = 10**6
"""Characters of a template, at most: real ones have up to 20,000. Ten times as many of what it makes."""


def load(directory: Path) -> PreTrainedTokenizerBase:
    """A model's tokenizer, padding on the left for generation. Raises InputError if it cannot be read."""
    with reading(directory / "tokenizer*.json"):
        tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
    tokenizer.apply_chat_template = bounded(tokenizer, directory)
    return tokenizer


def check(directory: Path, rows: int) -> None:
    """Raises InputError unless a folder's tokenizer can be read, makes tokens of text, and none but for special ones
    beyond the model's `rows` of embeddings (Gemma 3's has one, for images), the end and padding among these."""
    tokenizer = load(directory)
    with reading(directory / "tokenizer*.json"):
        made, numbers = tokenizer("a b")["input_ids"], tokenizer.get_vocab()
        added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
        special = {*tokenizer.all_special_tokens, *added}
        used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id} - {None}
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{directory}/tokenizer_config.json: no `eos_token`: name the token of the vocabulary that ends a text"
        )
    if not made:
        raise InputError(f"{directory}: its tokenizer makes no tokens of text: is tokenizer.json missing?")
    if beyond := [token for token, n in numbers.items() if n >= rows and (n in used or token not in special)]:
        raise InputError(
            f"{directory}/tokenizer.json: token {beyond[0]!r} has number {numbers[beyond[0]]}, but the model has "
            f"embeddings for 0 to {rows - 1} (`vocab_size` of config.json): give the tokenizer of this model"
        )


def bounded(tokenizer: PreTrainedTokenizerBase, directory: Path) -> Callable[..., Any]:
    """Its `apply_chat_template` within SECONDS and MEMORY. Raises InputError for what fails or takes more."""
    render = tokenizer.apply_chat_template
    what = "its chat template cannot be rendered"
    remedy = "correct it, or do without (`chat_template: false`)"

    @wraps(render)
    def rendered(*arguments: Any, **options: Any) -> Any:
        try:
            with reading(directory, remedy, what), limited():
                if len(str(tokenizer.chat_template)) > LENGTH:  # one that takes long to parse heeds no signal
                    raise ValueError(f"it has more than {LENGTH:,} characters")
                made = render(*arguments, **options)
                if isinstance(made, str) and len(made) > 10 * LENGTH:
                    raise ValueError(f"it makes {len(made):,} characters")
                return made
        except MemoryError:
            raise InputError(f"{directory}: {what} (it takes more than {MEMORY >> 20} MB); {remedy}") from None

    return rendered


@contextmanager
def timed(seconds: float, error: Exception) -> Iterator[None]:
    """The block may compute for so many seconds; after them it raises this error. For the main thread alone."""

    def stop(*_: Any) -> None:
        raise error

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def limited() -> Iterator[None]:
    """The block's time and memory are bounded, where the system can. Raises TimeoutError and MemoryError."""
    if threading.current_thread() is not threading.main_thread() or not os.path.exists("/proc/self/statm"):
        yield  # signals come to the main thread alone
        return
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = min(limit for limit in (soft, mapped + MEMORY) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        with timed(SECONDS, TimeoutError(f"it takes more than {SECONDS} s")):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
