"""llama.cpp itself on a GGUF file, on the CPU, by llama-cpp-python."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError


@contextmanager
def opened(file: Path, what: str, threads: int, **settings: Any) -> Iterator[Any]:
    """Give a file as a `llama_cpp.Llama`, whose `eval` runs in a thread of its own, and close it afterwards.

    Why a thread: where a processor has AMX, torch (in bfloat16) and llama.cpp (in eight bits) both configure its tiles,
    which belong to a thread. llama.cpp does it once per thread, so after a product of torch's there it dies of an
    illegal instruction.

    what: how an error begins. settings: of llama_cpp.Llama, `n_ctx` among them. Raises InputError if llama.cpp does not
    load the file."""
    import llama_cpp

    both = dict.fromkeys(("n_threads", "n_threads_batch"), threads)
    try:
        model = llama_cpp.Llama(str(file), n_gpu_layers=0, verbose=False, **both, **settings)
    except ValueError as error:
        raise InputError(f"{what}: llama.cpp {llama_cpp.__version__} does not load it: {error}") from None
    evaluate = model.eval
    with closing(model), ThreadPoolExecutor(1) as thread:
        model.eval = lambda tokens: thread.submit(evaluate, tokens).result()
        yield model
