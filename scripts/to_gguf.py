"""An exported model, or the dense one, as one GGUF file with card, manifest and a Modelfile for Ollama, tried in
llama.cpp if that is there; or any variant, with a record alone, to be evaluated, weighed and timed."""

from pathlib import Path

from pruning.core import cli


def to_gguf(
    settings: cli.Settings, output: Path, model: Path | None = None, variant: cli.Variant = None, threads: int = 1
) -> None:
    """output: file to write; its card and manifest have the same name. model: directory of the exported model, or of
    the dense one. variant: in place of that, one that is not to be taken away."""
    from pruning.core import artifacts
    from pruning.evaluation import gguf_files
    from pruning.methods.variants import Parts
    from pruning.report import card

    if variant is not None:
        print(gguf_files.of_variant(Parts.of(variant), output, settings, threads))
        return
    content = gguf_files.exported(model, output, settings, threads)
    text = card.gguf_card(settings, content, *gguf_files.fallbacks(settings["type"], content["widths"]))
    output.with_suffix(".md").write_text(text, encoding="utf-8")
    output.with_suffix(".Modelfile").write_text(card.modelfile(settings, output.name), encoding="utf-8")
    names = [output.with_suffix(suffix).name for suffix in (".gguf", ".md", ".Modelfile")]
    content["files"] = {name: artifacts.file_hash(output.parent / name) for name in names}
    artifacts.write_json(output.with_suffix(".json"), content, "gguf", settings)
    print(text)


if __name__ == "__main__":
    cli.run(to_gguf)
