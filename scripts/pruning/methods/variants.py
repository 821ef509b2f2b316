"""A variant of a model, from what it is made of: a model directory, or the dense one and a mask; a LoRA adapter on it;
the values of a GGUF file of it.

The model that is cut in memory is the one that scripts/compact.py writes: the same weights, thus the same answers. It
spares a 7B model's grid some terabytes of writing and reading.
"""

import importlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.core import artifacts, chain
from pruning.core.errors import InputError
from pruning.methods.compact import Pruning
from pruning.models import loading
from pruning.models.checkpoint import Checkpoint, read_config
from pruning.models.pruned import from_pruned
from pruning.models.structures import STRUCTURES, listed


@dataclass(frozen=True)
class Parts:
    """A variant, by what it is made of."""

    model: Path  # A model directory
    manifest: Path  # Its manifest.json
    mask: Path | None = None  # What to cut out, if the model is the dense one; None where it is what it shall be
    compensate: str = "none"  # The scheme of the mask's method
    evidence: Path | None = None  # What the scheme is fitted on
    adapter: Path | None = None  # Directory of a LoRA adapter
    gguf: Path | None = None  # GGUF file of all this; its values take the place of the weights

    @classmethod
    def of(cls, given: Mapping[str, str | Path]) -> "Parts":
        """From the same by name, as on a command line."""
        return cls(**{name: value if name == "compensate" else Path(value) for name, value in given.items()})

    @property
    def pruning(self) -> Pruning:
        """What is made of the mask. Raises InputError as Pruning.read does."""
        return Pruning.read(self.model, self.mask, self.compensate, self.evidence)

    def load(self, dtype: str, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load it as loading.load does. Raises InputError as that does, and if the mask is another model's, or the GGUF
        file."""
        if self.gguf is not None:
            network, tokenizer = replace(self, gguf=None).load(dtype, device)
            record = self.gguf.with_suffix(".json")
            chain.check_files(self.gguf.parent, record, artifacts.read_json(record, "gguf"))
            importlib.import_module("pruning.models.dequantised").put(network, self.gguf)
            return network, tokenizer
        if self.mask is None:
            return loading.load(self.model, dtype, device, self.adapter)
        network, tokenizer = loading.load(self.model, dtype, device)
        self.pruning.apply(network)
        return (loading.merged(network, self.adapter) if self.adapter else network), tokenizer

    @contextmanager
    def written(self, dtype: str) -> Iterator[Path]:
        """Give a directory of the same model, for what loads one by itself: a temporary one, where there is none
        (TMPDIR says where it lies). Raises InputError as `load` does, and for the values of a GGUF file."""
        if self.gguf is not None:
            raise InputError(f"{self.gguf}: its values are put into the model in memory: set the model's `backend: hf`")
        artifacts.check_model(self.model)
        with tempfile.TemporaryDirectory(prefix="variant-") as scratch:
            directory = self.model
            if self.mask is not None:
                directory = Path(scratch, "cut")
                directory.mkdir()
                self.pruning.write(directory)
            if self.adapter is not None:
                merged = Path(scratch, "merged")
                merged.mkdir()
                from_pruned(directory, self.adapter, merged, dtype)
                directory = merged
            yield directory

    def identity(self) -> list[Any]:
        """Return what the weights are, JSON-like: equal for equal weights alone."""
        adapters = self.adapter and sorted(self.adapter.glob("adapter_*"))
        own = [artifacts.file_hash(self.manifest), adapters and [artifacts.file_hash(path) for path in adapters]]
        own += [artifacts.file_hash(self.gguf)] if self.gguf else []
        if self.mask is None:
            return own
        origins = [artifacts.file_hash(path) for path in (self.mask, self.evidence) if path]
        return [*own, self.compensate, origins]

    def outline(self) -> tuple[tuple[tuple[str, tuple[int, ...]], ...], bool, int]:
        """Return what its speed depends on: the units of each layer, FFN neurons and those of structures of which any
        are cut, whether down_proj has a bias, and how many tokens there are."""
        base, pruning = Checkpoint(self.model), self.mask and self.pruning
        units = {**listed(read_config(self.model)), base.main.name: base.widths, **(pruning.units if pruning else {})}
        biased = base.name(0, "down", "bias") in base.file_of or (pruning is not None and pruning.biased)
        own = tuple((name, tuple(units[name])) for name in STRUCTURES if name in units)
        return own, biased, base.config["vocab_size"]

    def stored(self) -> int:
        """Return the bytes of its weights on disk; where it is cut in memory, what they take there by the dense model's
        files."""
        base = Checkpoint(self.model)
        size = sum(file.stat().st_size for file in base.files)
        return size if self.mask is None else round(size * self.pruned()["parameters_kept"] / base.parameters)

    def pruned(self) -> dict[str, Any]:
        """Return how much is removed, against the model before any pruning: `achieved_sparsity` (Pruning.achieved),
        `parameters` it had and `parameters_kept`."""
        if self.mask is None:
            content = artifacts.read_json(self.manifest, "base" if self.manifest.parent == self.model else "compact")
            if "achieved_sparsity" in content:
                return {key: content[key] for key in ("achieved_sparsity", "parameters", "parameters_kept")}
            original, kept = content["original"], content["parameters"]
            whole = sum(original["widths"])
            achieved = 1 - (sum(content["widths"]) - content.get("groups_removed", 0.0)) / whole
        else:
            original, pruning = artifacts.read_json(self.manifest, "base")["original"], self.pruning
            kept, achieved = pruning.parameters(), pruning.achieved(original["widths"])
        return {"achieved_sparsity": achieved, "parameters": original["parameters"], "parameters_kept": kept}
