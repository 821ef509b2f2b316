"""A model to take away: weights (a recovery merged), tokenizer, card and manifest in a folder, tried in stock tools."""

import os
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli

# What stock tools read; a base folder may hold other things.
WANTED = (
    *("config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json", "modeling_pruned.py"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.jinja"),
)


def export(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the compact model")],
    manifest: Annotated[Path, typer.Option(help="its manifest.json")],
    base: Annotated[Path, typer.Option(help="manifest.json of the dense model")],
    mask: Annotated[Path, typer.Option(help="which neurons were kept")],
    output: Annotated[Path, typer.Option(help="directory to write")],
    adapter: Annotated[Path | None, typer.Option(help="directory of a LoRA adapter to merge")] = None,
    measured: Annotated[list[Path] | None, typer.Option(help="results that are there; repeat")] = None,
    threads: int = 1,
) -> None:
    scratch = tempfile.TemporaryDirectory()
    os.environ["HF_MODULES_CACHE"] = scratch.name  # where transformers copies a folder's own code
    os.environ["HF_HUB_OFFLINE"] = "1"

    from pruning.core import artifacts
    from pruning.evaluation import runtimes
    from pruning.methods import masks
    from pruning.models import loading, multimodal, put_back, vocabulary
    from pruning.models.pruned import from_pruned
    from pruning.models.structures import STRUCTURES
    from pruning.report import card
    from pruning.report.measures import measures

    cli.phase("start-up")
    made = artifacts.read_json(manifest, "compact")
    ours, tokenizer = loading.load(model, settings["dtype"], "cpu", adapter)
    wanted = runtimes.expected(ours, tokenizer(runtimes.TEXT)["input_ids"], settings["dtype"])
    del ours
    cli.phase("load")
    with artifacts.atomic_directory(output) as directory:
        from_pruned(model, adapter, directory, settings["dtype"])
        for file in directory.iterdir():
            if not any(fnmatch(file.name, pattern) for pattern in WANTED):
                file.unlink()
            else:
                file.chmod(0o644)
        checks = runtimes.check(directory, wanted)
        if (base.parent / multimodal.FOLDER).is_dir():
            put_back.put_back(directory, base.parent, directory / multimodal.FOLDER)
            checks["transformers, with the rest"] = runtimes.in_whole(directory / multimodal.FOLDER, wanted)
        if settings["method"]["compensate"] == "none" and adapter is None:
            dense, _ = loading.load(base.parent, settings["dtype"], "cpu")
            if "vocabulary" in made:
                vocabulary.shrink(dense, vocabulary.kept_of(base.parent, model))
            apart = runtimes.masked(dense, masks.read(mask, base.parent), wanted)
            checks["the dense model, masked"] = {"max_difference": apart}
        results = list(measures(settings, [path for path in measured or () if path.suffix == ".parquet"]))
        own_code = (directory / "modeling_pruned.py").exists()
        others = {each.title: made[name] for name, each in STRUCTURES.items() if name in made}
        text = card.card(settings, made, others, results, checks, wanted.ids.shape[1], own_code)
        (directory / "README.md").write_text(text, encoding="utf-8")
        keys = ("original", "achieved_sparsity", "widths", *STRUCTURES, "vocabulary", "parameters", "parameters_kept")
        content = {**{key: made[key] for key in keys if key in made}, "checks": checks}
        content["files"] = artifacts.directory_hashes(directory)
        artifacts.write_json(directory / "manifest.json", content, "export", settings)
    print(text)


if __name__ == "__main__":
    cli.run(export)
