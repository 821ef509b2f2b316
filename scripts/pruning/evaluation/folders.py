"""A model's folder to take away, in the layout that stock tools read; they try it before it counts as written."""

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pruning.evaluation import runtimes
from pruning.evaluation.runtimes import Expected
from pruning.models import loading, multimodal, put_back, vocabulary
from pruning.models.pruned import from_pruned
from pruning.models.structures import STRUCTURES
from pruning.models.structures.base import Keeps

# What stock tools read; a base folder may hold other things.
WANTED = (
    *("config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json", "modeling_pruned.py"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.jinja"),
    "chat_template.json",
)
SAID = (
    *("original", "achieved_sparsity", "widths", "counted"),
    *STRUCTURES,
    *("vocabulary", "parameters", "parameters_kept"),
)
"""What of the compact model's manifest is said of the folder as well."""


def write(folder: Path, model: Path, adapter: Path | None, dtype: str) -> tuple[Expected, dict[str, dict[str, Any]]]:
    """Write weights, a LoRA adapter merged, and tokenizer into an empty folder, for anyone to read. Return what our own
    loader computes, and what RUNTIMES find. model: directory of the compact model.

    Raises InputError as loading.load and runtimes.check do."""
    ours, tokenizer = loading.load(model, dtype, "cpu", adapter)
    wanted = runtimes.expected(ours, tokenizer, dtype)
    del ours
    from_pruned(model, adapter, folder, dtype)
    for file in folder.iterdir():
        if any(fnmatch(file.name, pattern) for pattern in WANTED):
            file.chmod(0o644)
        else:
            file.unlink()
    return wanted, runtimes.check(folder, wanted)


def with_the_rest(folder: Path, base: Path, wanted: Expected) -> dict[str, dict[str, Any]]:
    """Put the pruned text part of a multimodal model back into the rest of it, in a folder of its own, and try that.
    Return what was found; nothing where the dense model at `base` is none."""
    if not (base / multimodal.FOLDER).is_dir():
        return {}
    put_back.put_back(folder, base, folder / multimodal.FOLDER)
    return {"transformers, with the rest": runtimes.in_whole(folder / multimodal.FOLDER, wanted)}


def beside_masked(base: Path, keeps: Keeps, model: Path, wanted: Expected, cut: bool) -> dict[str, dict[str, Any]]:
    """Compare with the dense model at `base` whose removed units are silenced; cut: whether the vocabulary of the
    compact model was pruned. Raises InputError as runtimes.masked does."""
    dense, _ = loading.load(base, wanted.dtype, "cpu")
    if cut:
        vocabulary.shrink(dense, vocabulary.kept_of(base, model))
    return {"the dense model, masked": {"max_difference": runtimes.masked(dense, keeps, wanted)}}


def others(made: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return what structures beside the main one are called -> their units, by the compact model's manifest."""
    return {each.title: made[name] for name, each in STRUCTURES.items() if name in made}
