"""Fetch the dense model, once, pinned: results/{model}/base/, with a manifest that dependants are compared by."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.core import cli


def fetch_model(
    settings: cli.Settings,
    output: Path,
    pruned: Path | None = None,
    pruned_manifest: Path | None = None,
    adapter: Path | None = None,
) -> None:
    """output: manifest.json of the model. pruned: directory of a compact model, to be pruned further. pruned_manifest:
    its manifest.json. adapter: directory of a LoRA adapter to merge into it."""
    from pruning.core import artifacts, chain, hub
    from pruning.models import complete, multimodal, settled, sources
    from pruning.models.checkpoint import Checkpoint, read_config
    from pruning.models.families import TOP_K

    head = None
    with artifacts.atomic_directory(output.parent) as directory, naming(directory, settings):
        if settings["kind"] == "local":
            sources.from_local(Path(settings["path"]), directory)
            for copy in sorted(file for file in directory.rglob("*") if file.is_file()):
                chain.read_source(Path(settings["path"]) / copy.relative_to(directory))
        elif settings["kind"] == "gguf":
            head = sources.from_gguf(settings, directory)
            for package, path in sources.locations(settings):
                if not package:
                    chain.read_source(Path(path))
        elif settings["kind"] == "pruned":
            importlib.import_module("pruning.models.pruned").from_pruned(pruned, adapter, directory)
        else:
            with hub.fetching(output):
                sources.from_hub(settings["repo"], settings["revision"], directory)
        whole = multimodal.split(directory)
        settled.settle(directory)
        if settings["kind"] != "pruned":
            complete.take_out(directory, complete.check(directory))
        checkpoint = Checkpoint(directory)
        original = {"widths": checkpoint.widths, "parameters": checkpoint.parameters}
        if pruned_manifest is not None:
            original = artifacts.read_json(pruned_manifest, "compact")["original"]
        removed = checkpoint.removed()
        content = {
            "model_type": read_config(directory).get("model_type"),
            "parameters": checkpoint.parameters,
            "widths": checkpoint.widths,
            "original": original,
            **({"groups_removed": removed} if removed else {}),
            **({"experts_per_token": checkpoint.config[TOP_K]} if checkpoint.family.mixture else {}),
            **({"head": head} if head else {}),
            **({"multimodal": whole} if whole else {}),
            "files": artifacts.directory_hashes(directory),
        }
        artifacts.write_json(directory / "manifest.json", content, "base", settings)
        chain.remember(directory, directory / "manifest.json", content["files"])


@contextmanager
def naming(directory: Path, settings: dict) -> Iterator[None]:
    """Errors about the directory that is being made name the source instead."""
    try:
        yield
    except cli.InputError as error:
        source = settings.get("path") or settings.get("repo") or settings.get("model")
        raise cli.InputError(str(error).replace(str(directory), str(source))) from None


if __name__ == "__main__":
    cli.run(fetch_model)
