"""GGUF files: of an exported model, to be taken away, and of any variant, to be evaluated, weighed and timed."""

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pruning.core import artifacts
from pruning.evaluation import runtimes
from pruning.evaluation.backends import Variant
from pruning.models import gguf, loading
from pruning.models.checkpoint import Checkpoint
from pruning.models.gguf import model

DTYPES = {"f16": "float16", "bf16": "bfloat16"}
"""Types that only round -> what to."""


def exported(folder: Path, output: Path, settings: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Write the file of an exported folder, or of the dense model's, and try it in llama.cpp if that is there. Return
    what is known of it: model.convert's words, `type`, `bytes`, `widths` (of a mixture its experts', and how many
    `experts` there are), `made_with` and `checks`.

    Raises InputError as model.convert and runtimes.in_llama_cpp do."""
    kind, checks, tools = settings["type"], {}, {"gguf": version("gguf")}
    artifacts.check_model(folder)
    with artifacts.atomic(output) as temporary:
        held = model.convert(folder, temporary, kind, settings, threads)
        if find_spec("llama_cpp"):
            ours, tokenizer = loading.load(folder, settings["dtype"], "cpu")
            wanted = runtimes.expected(ours, tokenizer, settings["dtype"])
            del ours
            tools["llama-cpp-python"] = version("llama-cpp-python")
            checks["llama.cpp"] = runtimes.in_llama_cpp(temporary, wanted, tokenizer, DTYPES.get(kind))
        held = {"type": kind, "bytes": temporary.stat().st_size, **held}
    own = Checkpoint(folder)
    sizes = {"widths": own.widths}
    if own.family.mixture:
        neurons = zip(own.channels(own.main.name), own.widths, strict=True)
        sizes = {"experts": own.widths, "widths": [all_of_them // many for all_of_them, many in neurons]}
    return {**held, **sizes, "made_with": tools, "checks": checks}


def fallbacks(kind: str, widths: list[int]) -> tuple[int, dict[int, str]]:
    """Return how many values a type stores together, and what widths that are no multiple of it are stored as."""
    return gguf.BLOCK[kind], {width: other for width in widths if (other := gguf.stored_instead(kind, width))}


def of_variant(variant: Variant, output: Path, settings: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Write the file of a variant and, beside it, `{type}.json`: what model.convert says of it, its `bytes`, and the
    model's `widths` and `parameters`. Return what that holds.

    settings: `name` of the model, `type` of the file, `dtype` in which the model is evaluated. Raises InputError as
    Parts.written and model.convert do."""
    with variant.written(settings["dtype"]) as folder, artifacts.atomic(output) as temporary:
        held = model.convert(folder, temporary, settings["type"], settings, threads)
        own = Checkpoint(folder)
        size = {"widths": own.widths, "parameters": own.parameters}
    content = {"type": settings["type"], "bytes": output.stat().st_size, **size, **held}
    content["files"] = {output.name: artifacts.file_hash(output)}
    artifacts.write_json(output.with_suffix(".json"), content, "gguf", dict(settings))
    return content
