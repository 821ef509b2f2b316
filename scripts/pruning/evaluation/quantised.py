"""A variant of a model as a GGUF file, to be evaluated as what it holds, weighed and timed; and the file's record."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.core import artifacts
from pruning.methods import variants
from pruning.models import gguf
from pruning.models.checkpoint import Checkpoint


def write(parts: variants.Parts, output: Path, settings: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Write the file and, beside it, `{type}.json`: what gguf.convert says of it, its `bytes`, and the model's `widths`
    and `parameters`. Return what that holds.

    settings: `name` of the model, `type` of the file, `dtype` in which the model is evaluated. Raises InputError as
    variants.written and gguf.convert do."""
    with variants.written(parts, settings["dtype"]) as folder, artifacts.atomic(output) as temporary:
        held = gguf.convert(folder, temporary, settings["type"], settings, threads)
        model = Checkpoint(folder)
        size = {"widths": model.widths, "parameters": model.parameters}
    content = {"type": settings["type"], "bytes": output.stat().st_size, **size, **held}
    content["files"] = {output.name: artifacts.file_hash(output)}
    artifacts.write_json(output.with_suffix(".json"), content, "gguf", dict(settings))
    return content
