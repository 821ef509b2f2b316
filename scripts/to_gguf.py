"""An exported model, or the dense one, as one GGUF file with card, manifest and a Modelfile for Ollama, tried in
llama.cpp if that is there; or any variant, with a record alone, to be evaluated, weighed and timed."""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli

DTYPES = {"f16": "float16", "bf16": "bfloat16"}  # what is only rounded
TOOLS = {"gguf": "gguf", "llama-cpp-python": "llama_cpp"}


def to_gguf(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the exported model, or of the dense one")],
    output: Annotated[Path, typer.Option(help="file to write; its card and manifest have the same name")],
    manifest: Annotated[Path | None, typer.Option(help="manifest.json of a model that is not to be taken away")] = None,
    mask: Annotated[Path | None, typer.Option(help="what to cut out of that, if it is the dense one")] = None,
    compensate: Annotated[str, typer.Option(help="scheme of the mask's method")] = "none",
    evidence: Annotated[Path | None, typer.Option(help="what the compensation is fitted on")] = None,
    adapter: Annotated[Path | None, typer.Option(help="directory of a LoRA adapter to merge")] = None,
    threads: int = 1,
) -> None:
    if manifest is not None:
        from pruning.evaluation import quantised

        parts = quantised.variants.Parts(model, manifest, mask, compensate, evidence, adapter)
        print(quantised.write(parts, output, settings, threads))
        return

    from pruning.core import artifacts
    from pruning.evaluation import runtimes
    from pruning.models import gguf, loading
    from pruning.report import card

    cli.phase("start-up")
    kind, checks = settings["type"], {}
    made = artifacts.read_json(model / "manifest.json", "export", "base")
    artifacts.check_model(model)
    with artifacts.atomic(output) as temporary:
        held = gguf.convert(model, temporary, kind, settings, threads)
        cli.phase("convert")
        if find_spec("llama_cpp"):
            ours, tokenizer = loading.load(model, settings["dtype"], "cpu")
            wanted = runtimes.expected(ours, tokenizer(runtimes.TEXT)["input_ids"], settings["dtype"])
            del ours
            checks["llama.cpp"] = runtimes.in_llama_cpp(temporary, wanted, tokenizer, DTYPES.get(kind))
        held = {"type": kind, "bytes": temporary.stat().st_size, **held}
    tools = {name: version(name) for name, module in TOOLS.items() if find_spec(module)}
    content = {**held, "widths": made["widths"], "made_with": tools, "checks": checks}
    odd = {width: instead for width in made["widths"] if (instead := gguf.stored_instead(kind, width))}
    text = card.gguf_card(settings, content, gguf.BLOCK[kind], odd)
    output.with_suffix(".md").write_text(text, encoding="utf-8")
    output.with_suffix(".Modelfile").write_text(card.modelfile(settings, output.name), encoding="utf-8")
    names = [output.with_suffix(suffix).name for suffix in (".gguf", ".md", ".Modelfile")]
    content["files"] = {name: artifacts.file_hash(output.parent / name) for name in names}
    artifacts.write_json(output.with_suffix(".json"), content, "gguf", settings)
    print(text)


if __name__ == "__main__":
    cli.run(to_gguf)
