"""One variant of a model as a GGUF file, to be evaluated, weighed and timed; and a record of what it holds."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def quantise(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the model")],
    manifest: Annotated[Path, typer.Option(help="its manifest.json")],
    output: Annotated[Path, typer.Option(help="file to write; its record has the same name and .json")],
    mask: Annotated[Path | None, typer.Option(help="what to cut out of the model, if it is the dense one")] = None,
    compensate: Annotated[str, typer.Option(help="scheme of the mask's method")] = "none",
    evidence: Annotated[Path | None, typer.Option(help="what the compensation is fitted on")] = None,
    adapter: Annotated[Path | None, typer.Option(help="directory of a LoRA adapter to merge")] = None,
    threads: int = 1,
) -> None:
    """Settings: `name` of the model, `type` of the file, `dtype` in which the model is evaluated."""
    from pruning.core import artifacts
    from pruning.methods import variants
    from pruning.models import gguf
    from pruning.models.checkpoint import Checkpoint

    cli.phase("start-up")
    parts, kind = variants.Parts(model, manifest, mask, compensate, evidence, adapter), settings["type"]
    with variants.written(parts, settings["dtype"]) as folder, artifacts.atomic(output) as temporary:
        held = gguf.convert(folder, temporary, kind, settings, threads)
        widths, parameters = Checkpoint(folder).widths, Checkpoint(folder).parameters
    files = {output.name: artifacts.file_hash(output)}
    content = {"type": kind, "bytes": output.stat().st_size, "parameters": parameters, "widths": widths, **held}
    artifacts.write_json(output.with_suffix(".json"), {**content, "files": files}, "gguf", settings)
    print(f"{kind}: {content['bytes']:,} bytes; tensors {held['tensors']}")


if __name__ == "__main__":
    cli.run(quantise)
