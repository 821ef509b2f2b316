"""How fast GGUF files are in llama.cpp, on the CPU: two in turn in one process, by the clock of analysis/timing.py."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.benchmark import timer

from pruning.analysis import timing
from pruning.core.errors import InputError

STATM = Path("/proc/self/statm")
PAGE = 4096
"""Bytes that STATM counts in, on every processor that this runs on."""


def of_files(dense: Path, other: Path, settings: timing.Settings) -> dict[str, Any]:
    """Return what was measured of a file, in turn with the dense model's: the columns of timing.timings, for `dense` as
    well (medians), and `memory_mb`, what loading a file and one prompt add to the process's resident memory (10^6
    bytes: weights, keys and values, buffers; NaN where Linux's /proc is not there).

    settings: those of a clock, `threads`, `confidence` and `resamples`. Raises InputError if llama.cpp does not load a
    file, or if prompt and decoded tokens are more than its context."""
    import llama_cpp

    files, memory = {"dense": dense, "other": other}, {}
    length = settings["prompt_tokens"] + settings["decode_tokens"]
    with ExitStack() as opened:
        models: dict[str, Callable[[], dict[str, float]]] = {}
        for name, file in files.items():
            before = resident_mb()
            try:
                model = llama_cpp.Llama(
                    str(file),
                    **{"n_ctx": length, "n_batch": settings["prompt_tokens"], "n_gpu_layers": 0, "verbose": False},
                    **dict.fromkeys(("n_threads", "n_threads_batch"), settings["threads"]),
                )
            except ValueError as error:
                raise InputError(f"{file}: llama.cpp {llama_cpp.__version__} does not load it: {error}") from None
            opened.callback(model.close)
            if length > (context := int(model.metadata[f"{model.metadata['general.architecture']}.context_length"])):
                raise InputError(f"llama_cpp: prompt_tokens + decode_tokens: {length} are more than {context}")
            models[name] = model
            once(model, settings)
            memory[name] = resident_mb() - before
        samples = timing.by_variant(timing.in_turn(models, settings, lambda model: once(model, settings)))
    found = {name: timing.timings(samples[name], samples["dense"], settings) for name in files}
    for name, own in found.items():
        own["memory_mb"] = memory[name]
        del own["peak_memory_mb"]
    device = timing.device_name(torch.device("cpu"))
    return {"llama_cpp": llama_cpp.__version__, "device": device, **found["other"], "dense": found["dense"]}


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
