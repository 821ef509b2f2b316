"""The types of GGUF file that are made: known before any job starts, so without what makes them."""

from importlib.util import find_spec

from pruning.core.errors import InputError

BLOCK = {"f16": 1, "bf16": 1, "q8_0": 32, "q4_k_m": 256}
"""Type -> values that are stored together: rows are whole blocks, or are stored in another type."""
K_QUANTS = {"q4_k_m": "LLAMA_FTYPE_MOSTLY_Q4_K_M"}
"""Those that llama.cpp itself must make -> its name of them."""


def check(kind: str) -> None:
    """Raises InputError if there is no such type, or if it needs llama.cpp and that is not installed."""
    if kind not in BLOCK:
        raise InputError(f"export: no type {kind!r} of GGUF file is made; there are {', '.join(BLOCK)}")
    if kind in K_QUANTS and find_spec("llama_cpp") is None:
        others = ", ".join(other for other in BLOCK if other not in K_QUANTS)
        raise InputError(
            f"export: {kind} is made by llama.cpp, and llama-cpp-python is not installed: pip install llama-cpp-python "
            f"(it compiles for a while), or ask for {others}, which need it not"
        )
