"""How fast GGUF files are in llama.cpp, on the CPU: two in turn in one process, by the clock of analysis/timing.py."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.benchmark import timer

from pruning.analysis import timing
from pruning.core import artifacts, chain
from pruning.core.errors import InputError
from pruning.models.gguf import llama

STATM = Path("/proc/self/statm")
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes that STATM counts in


def of_files(files: Mapping[str, Path], settings: timing.Settings) -> pd.DataFrame:
    """Time the file of the `dense` model and another, in turn: one row per file.

    Columns: `file`, those of timing.timings but for the peak, and `memory_mb`: what loading a file and one prompt add
    to the process's resident memory (10^6 bytes: weights, keys and values, buffers; NaN where Linux's /proc is not
    there); what times hold under.

    settings: those of a clock, `threads`, `confidence` and `resamples`. Raises InputError for files that are not those
    of their records, if llama.cpp does not load one, or if prompt and decoded tokens are more than its context."""
    import llama_cpp

    memory, models = {}, {}
    with ExitStack() as opened:
        for name, file in files.items():
            record = file.with_suffix(".json")
            chain.check_files(file.parent, record, artifacts.read_json(record, "gguf"))
            before = resident_mb()
            models[name] = opened.enter_context(loaded(file, settings))
            once(models[name], settings)
            memory[name] = resident_mb() - before
        samples = timing.by_variant(timing.in_turn(models, settings, lambda model: once(model, settings)))
    asked = {key: settings[key] for key in ("threads", "prompt_tokens", "decode_tokens", "rounds")}
    said = {"llama_cpp": llama_cpp.__version__, "device": timing.device_name(torch.device("cpu")), **asked}
    rows = [timing.timings(samples[name], samples["dense"], settings) for name in files]
    rows = [{"file": name, **row, "memory_mb": memory[name], **said} for name, row in zip(files, rows, strict=True)]
    return pd.DataFrame(rows).drop(columns="peak_memory_mb")


@contextmanager
def loaded(file: Path, settings: timing.Settings) -> Iterator[Any]:
    """Give a GGUF file in llama.cpp, on the CPU."""
    prompt, length = settings["prompt_tokens"], settings["prompt_tokens"] + settings["decode_tokens"]
    with llama.opened(file, str(file), settings["threads"], n_ctx=length, n_batch=prompt) as model:
        context = int(model.metadata[f"{model.metadata['general.architecture']}.context_length"])
        if length > context:
            raise InputError(f"llama_cpp: prompt_tokens + decode_tokens: {length} are more than the model's {context}")
        yield model


def once(model: Any, settings: Mapping[str, Any]) -> dict[str, float]:
    """Time one prefill and the tokens after it, which are drawn: the time does not depend on which they are."""
    rng = np.random.default_rng(settings["seed"])
    tokens = rng.integers(model.n_vocab(), size=settings["prompt_tokens"] + settings["decode_tokens"]).tolist()
    model.reset()
    begin = timer()
    model.eval(tokens[: settings["prompt_tokens"]])
    prefilled = timer()
    for token in tokens[settings["prompt_tokens"] :]:
        model.eval([token])
    return {"prefill_s": prefilled - begin, "decode_s": timer() - prefilled, "peak_memory_mb": np.nan}


def resident_mb() -> float:
    """Return the process's resident memory, pages of mapped files among it, in 10^6 bytes."""
    return int(STATM.read_text().split()[1]) * PAGE / 1e6 if STATM.is_file() else np.nan
