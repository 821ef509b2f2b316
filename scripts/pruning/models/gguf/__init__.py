"""A model directory as a GGUF file, which llama.cpp and what is built on it run: an optional part.

Here is what is known before any job starts, without what makes a file (model.py).
"""

from importlib.util import find_spec

from pruning.core.errors import InputError

OWN = {"f16": 1, "bf16": 1, "q8_0": 32}
"""Types that the package `gguf` writes -> values that are stored together."""
BY_LLAMA_CPP = {
    **dict.fromkeys(("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k"), 256),
    **dict.fromkeys(("q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"), 32),
    "iq4_xs": 256,
}
"""The same of types that llama.cpp's own quantiser makes; those that need an importance matrix are left out."""
BLOCK = OWN | BY_LLAMA_CPP
"""Rows are whole blocks, or are stored in another type: see `stored_instead`."""


def check(kind: str, named: str = "export: ") -> None:
    """Raises InputError if there is no such type, or if it needs llama.cpp and that is not installed.

    named: what asked for it."""
    if kind not in BLOCK:
        raise InputError(f"{named}no type {kind!r} of GGUF file is made; there are {', '.join(BLOCK)}")
    if kind in BY_LLAMA_CPP:
        check_installed(f"{named}{kind} is made by", f", or ask for {', '.join(OWN)}, which do not need it")


def check_installed(what: str, instead: str = "") -> None:
    """Raises InputError if llama.cpp is not installed. what: the beginning of a sentence that names it."""
    if find_spec("llama_cpp") is None:
        raise InputError(
            f"{what} llama.cpp, and llama-cpp-python is not installed: pip install llama-cpp-python (it compiles for "
            f"about ten minutes){instead}"
        )


def stored_instead(kind: str, width: int) -> str | None:
    """Return the types of matrices whose rows of `width` values are no whole blocks of a file's type; None
    where they are. For each K-quant llama.cpp has a larger type of blocks of 32, as Q5_0 for Q4_K."""
    if width % BLOCK[kind] == 0:
        return None
    return "blocks of 32" if BLOCK[kind] == 256 and width % 32 == 0 else "F16"
