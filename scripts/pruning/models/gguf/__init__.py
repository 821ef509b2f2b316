"""A model directory as a GGUF file, which llama.cpp and what is built on it run: an optional part.

`check` says before any job whether a type can be made, without what makes it; `convert` makes it.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.models.gguf.kinds import BLOCK as BLOCK
from pruning.models.gguf.kinds import OWN, check
from pruning.models.gguf.kinds import check_runs as check_runs
from pruning.models.gguf.kinds import stored_instead as stored_instead


def convert(folder: Path, output: Path, kind: str, about: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Convert a model directory; returns the file's `architecture`, and `tensors`: how many there are of each type.

    about: `name`, and `repo` and `revision` of the base where it is the hub's. Raises InputError as `check` does, if
    llama.cpp has no such model or tokenizer, if a weight is too large for float16, and if llama.cpp fails."""
    from pruning.models.gguf import model

    check(kind)
    if kind in OWN:
        model.write(folder, output, kind, about)
        return model.contents(output)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        model.write(folder, whole := Path(scratch) / "f16.gguf", "f16", {**about, "type": kind})
        model.quantise(whole, output, kind, threads)
    return model.contents(output)


def takes(kind: str, widths: list[int]) -> bool:
    """Whether llama.cpp has models of this type, in transformers' word, with these widths of the FFN."""
    from pruning.models.gguf import model

    try:
        model.architecture(kind, widths, False)
    except InputError:
        return False
    return True


def check_model(folder: Path, uneven: bool = False, biased: bool = False, others: bool = False) -> None:
    """Look at a dense model before anything is made of it: whether llama.cpp has what will come of it.

    uneven: layers of different widths are to come; biased: biases of the FFN; others: more than neurons is to be cut.
    Raises InputError as `convert` does for its architecture, its config and its tokenizer."""
    from pruning.models.gguf import model

    model.check(folder, uneven, biased, others)
