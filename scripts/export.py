"""A model to take away: weights (a recovery merged), tokenizer, card and manifest in a folder, tried in stock tools."""

import os
import tempfile
from pathlib import Path

from pruning.core import cli


def export(
    settings: cli.Settings,
    model: Path,
    manifest: Path,
    base: Path,
    mask: Path,
    output: Path,
    adapter: Path | None = None,
    measured: list[Path] | None = None,
    threads: int = 1,
) -> None:
    """model: directory of the compact model. manifest: its manifest.json. base: that of the dense model. mask: which
    neurons were kept. output: directory to write. adapter: directory of a LoRA adapter to merge. measured: results that
    are there."""
    scratch = tempfile.TemporaryDirectory()
    os.environ["HF_MODULES_CACHE"] = scratch.name  # where transformers copies a folder's own code
    os.environ["HF_HUB_OFFLINE"] = "1"

    from pruning.core import artifacts
    from pruning.evaluation import folders
    from pruning.methods import masks
    from pruning.report import card
    from pruning.report.measures import measures

    made, dense = artifacts.read_json(manifest, "compact"), base.parent
    with artifacts.atomic_directory(output) as directory:
        wanted, checks = folders.write(directory, model, adapter, settings["dtype"])
        checks |= folders.with_the_rest(directory, dense, wanted)
        if settings["method"]["compensate"] == "none" and adapter is None:
            checks |= folders.beside_masked(dense, masks.read(mask, dense), model, wanted, "vocabulary" in made)
        results = list(measures(settings, [path for path in measured or () if path.suffix == ".parquet"]))
        own_code = (directory / "modeling_pruned.py").exists()
        text = card.card(settings, made, folders.others(made), results, checks, wanted.ids.shape[1], own_code)
        (directory / "README.md").write_text(text, encoding="utf-8")
        content = {key: made[key] for key in folders.SAID if key in made} | {"checks": checks}
        content["files"] = artifacts.directory_hashes(directory)
        artifacts.write_json(directory / "manifest.json", content, "export", settings)
    print(text)


if __name__ == "__main__":
    cli.run(export)
