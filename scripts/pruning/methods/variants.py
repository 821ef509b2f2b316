"""A variant of a model, from what it is made of: a model directory, or the dense one and a mask; a LoRA adapter on it.

The model that is cut in memory is the one that scripts/compact.py writes: the same weights, thus the same answers. It
spares a 7B model's grid some terabytes of writing and reading.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.core import artifacts
from pruning.methods import compact, masks
from pruning.models import loading
from pruning.models.checkpoint import Checkpoint, read_config
from pruning.models.pruned import from_pruned
from pruning.models.structures import kv_groups


@dataclass(frozen=True)
class Parts:
    model: Path
    """A model directory."""
    manifest: Path
    """Its manifest.json."""
    mask: Path | None = None
    """What to cut out, if the model is the dense one; None where it is what it shall be."""
    compensate: str = "none"
    """The scheme of the mask's method."""
    evidence: Path | None = None
    """What the scheme is fitted on."""
    adapter: Path | None = None
    """Directory of a LoRA adapter."""


def load(parts: Parts, dtype: str, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As loading.load does. Raises InputError as that does, and if the mask is another model's."""
    if parts.mask is None:
        return loading.load(parts.model, dtype, device, parts.adapter)
    network, tokenizer = loading.load(parts.model, dtype, device)
    base = Checkpoint(parts.model)
    keeps = compact.keeps_of(parts.mask, base)
    compensate = compact.compensation(parts.compensate, parts.evidence, base, keeps)
    compact.cut(network, base, keeps, compensate, masks.groups_of(parts.mask))
    return (loading.merged(network, parts.adapter) if parts.adapter else network), tokenizer


@contextmanager
def written(parts: Parts, dtype: str) -> Iterator[Path]:
    """A directory of the same model, for what loads one by itself: a temporary one, where there is none (TMPDIR says
    where it lies). Raises InputError as `load` does."""
    artifacts.check_model(parts.model)
    with tempfile.TemporaryDirectory(prefix="variant-") as scratch:
        directory = parts.model
        if parts.mask is not None:
            base, cut = Checkpoint(parts.model), Path(scratch, "cut")
            keeps = compact.keeps_of(parts.mask, base)
            cut.mkdir()
            compensate = compact.compensation(parts.compensate, parts.evidence, base, keeps)
            attention, groups = compact.refits_attention(parts.compensate), masks.groups_of(parts.mask)
            compact.write_compact(base, directory := cut, keeps, compensate, attention=attention, groups=groups)
        if parts.adapter is not None:
            merged = Path(scratch, "merged")
            merged.mkdir()
            from_pruned(directory, parts.adapter, merged, dtype)
            directory = merged
        yield directory


def identity(parts: Parts) -> list[Any]:
    """What the weights are, JSON-like: equal for equal weights alone."""
    adapter = [artifacts.file_hash(path) for path in sorted(parts.adapter.glob("adapter_*"))] if parts.adapter else None
    own = [artifacts.file_hash(parts.manifest), adapter]
    if parts.mask is None:
        return own
    origins = [artifacts.file_hash(path) for path in (parts.mask, parts.evidence) if path]
    return [*own, parts.compensate, origins]


def outline(parts: Parts) -> tuple[tuple[int, ...], bool, tuple[int, ...]]:
    """What a variant's speed depends on: the FFN width of each layer, whether down_proj has a bias, and, where any are
    cut, the key-value groups of each layer."""
    base = Checkpoint(parts.model)
    groups = kv_groups.listed(read_config(parts.model))
    if parts.mask is not None and (cut := masks.groups_of(parts.mask)):
        groups = [int(keep.sum()) for keep in cut]
    biased = base.name(0, "down", "bias") in base.file_of or (parts.mask is not None and parts.compensate == "bias")
    widths = base.widths if parts.mask is None else [int(keep.sum()) for keep in compact.keeps_of(parts.mask, base)]
    return tuple(widths), biased, tuple(groups)


def stored(parts: Parts) -> int:
    """Bytes of its weights on disk; where it is cut in memory, what they take there by the dense model's files."""
    base = Checkpoint(parts.model)
    size = sum(file.stat().st_size for file in base.files)
    return size if parts.mask is None else round(size * pruned(parts)["parameters_kept"] / base.parameters)


def pruned(parts: Parts) -> dict[str, Any]:
    """How much is gone, against the model before any pruning: `achieved_sparsity` (compact.achieved), `parameters` it
    had and `parameters_kept`."""
    if parts.mask is None:
        content = artifacts.read_json(parts.manifest, "base" if parts.manifest.parent == parts.model else "compact")
        if "achieved_sparsity" in content:
            return {key: content[key] for key in ("achieved_sparsity", "parameters", "parameters_kept")}
        original, kept = content["original"], content["parameters"]
        whole = sum(original["widths"])
        achieved = 1 - (sum(content["widths"]) - content.get("groups_removed", 0.0)) / whole
    else:
        original, base = artifacts.read_json(parts.manifest, "base")["original"], Checkpoint(parts.model)
        keeps = compact.keeps_of(parts.mask, base)
        widths, groups = [int(keep.sum()) for keep in keeps], masks.groups_of(parts.mask)
        kept = compact.parameters(base, widths, biased=parts.compensate == "bias", groups=groups)
        achieved = compact.achieved(base, original["widths"], widths, groups)
    return {"achieved_sparsity": achieved, "parameters": original["parameters"], "parameters_kept": kept}
