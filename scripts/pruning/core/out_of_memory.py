"""Out of memory, on GPU or CPU, as an error that says what was tried and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pruning.core.errors import InputError

SAID = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""By a CPU, by CUDA, and by its libraries (cuBLAS, cuSOLVER), as a plain RuntimeError."""


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(said in str(error) for said in SAID)
    )


@contextmanager
def advise(advice: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise InputError(f"out of memory with {advice}") from None
        raise
