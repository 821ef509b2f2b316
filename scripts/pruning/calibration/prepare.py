"""Calibration text cut into micro-batches: what every measuring pass begins with.

The micro-batch is the unit of sharding: a shard owns whole ones, so the same numbers go through the same kernels
whatever the shard count, and masks do not depend on it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.core import artifacts, layer_files
from pruning.core.errors import InputError
from pruning.data import text
from pruning.data.text import Sequences
from pruning.models import loading, offload, rehearsal, tokenizers
from pruning.models.checkpointing import checkpoint_gradients
from pruning.models.structures import STRUCTURES


@dataclass(frozen=True)
class Batch:
    """One micro-batch, padded on the right to its longest sample."""

    samples: torch.Tensor  # int64 [B], sample numbers in the whole calibration set
    ids: torch.Tensor  # int64 [B, T]
    counted: torch.Tensor  # bool [B, T], real tokens (not padding): what activations are summed over
    objective: torch.Tensor  # bool [B, T], tokens that the objectives average over


@dataclass
class Measurement:
    """What scripts/measure.py hands to the `measure` of a module, and where that writes its artefacts."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batches: list[Batch]
    model: Path  # Directory of the dense model, which the network is
    data: Path  # Parquet of the text
    settings: dict[str, Any]
    outputs: list[Path]
    evidence: dict[str, Path]  # What else it is made of, by kind
    memory: int | None = None  # Bytes that the process may use on a CPU; None: no bound

    @property
    def structure(self) -> str:
        """What is measured (models/structures/): FFN neurons, unless the settings name another."""
        return self.settings.get("structure", "ffn")

    @property
    def progress(self) -> Callable:
        """A progress bar around what is iterated over: the micro-batches, unless `desc` says otherwise."""
        return partial(tqdm, desc="micro-batches", mininterval=5)

    def unfinished(self, *made_from: Path) -> Path:
        """Where a job keeps what a run after a kill goes on from (artifacts.unfinished). made_from: what it is made of,
        beside the model and the text."""
        files = [file for file in (self.model / "manifest.json", self.data, *made_from) if file.is_file()]
        return artifacts.unfinished(self.outputs[-1], self.settings, *files)

    def write_layers(self, kind: str, layers: Iterable[dict[str, torch.Tensor]], content: Mapping[str, Any]) -> None:
        """Write matrices of the structure's sites: a manifest with `content` and the widths, and {layer}.safetensors of
        every layer."""
        widths = [site.in_features for site in STRUCTURES[self.structure].sites(self.network)]
        own = layer_files.kind_of(kind, self.structure)
        whole = {**content, "layers": len(widths), "widths": widths}
        layer_files.write(self.outputs[0], own, self.settings, layers, whole)


def loaded(
    model: Path, data: Path, settings: Mapping[str, Any], threads: int, stage: rehearsal.Stage | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[Batch]]:
    """The model, its tokenizer and the micro-batches: what every measuring stage begins with.

    Raises InputError if `stage` (None: the weights alone) does not fit into memory."""
    torch.set_num_threads(threads)
    made = batches(data, tokenizers.load(model), settings)
    if stage:
        rows, length = max((batch.ids.shape for batch in made), key=math.prod)
        own = {**settings, "micro_batch": rows, "sequence_length": length}
        rehearsal.must_fit(model, settings["dtype"], stage, own)
    network, tokenizer = dense(model, settings)
    return network, tokenizer, made


def dense(model: Path, settings: Mapping[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model as passes go through it, and its tokenizer."""
    placed = offload.device_map(model, settings["dtype"]) if settings.get("offload") else None
    network, tokenizer = loading.load(model, settings["dtype"], device_map=placed)
    if settings.get("gradient_checkpointing"):
        checkpoint_gradients(network, whole_layers=placed is not None)
    return network, tokenizer


def batches(data: Path, tokenizer, settings: Mapping[str, Any]) -> list[Batch]:
    """A calibration's micro-batches, of its settings and the parquet of its dataset's split.

    Raises InputError where there is not enough text, or none that the objectives look at."""
    sequences = text.token_samples(
        text.documents(data, settings["prompt"], settings["completion"]),
        tokenizer,
        **{key: settings[key] for key in ("samples", "sequence_length", "packing", "seed")},
    )
    return micro_batches(
        sequences, settings["micro_batch"], pad=tokenizer.pad_token_id, token_mask=settings["token_mask"]
    )


def texts(data: Path, settings: Mapping[str, Any]) -> list[str]:
    """All prompts and completions of a calibration's data. Raises InputError as text.documents does."""
    return [part for pair in text.documents(data, settings["prompt"], settings["completion"]) for part in pair]


def advice(settings: Mapping[str, Any]) -> str:
    """What to do where memory runs out; `gradient_checkpointing` is a setting of passes that go backward as well."""
    checkpointing = ", or set `gradient_checkpointing: true`" if "gradient_checkpointing" in settings else ""
    return f"`micro_batch: {settings['micro_batch']}`: lower it{checkpointing}"


def require_finite(value: torch.Tensor, where: str) -> None:
    """Raises InputError, naming the place, at a NaN or Inf. The sum tells: a comparison would take a copy's memory."""
    if not torch.isfinite(value.sum(dtype=torch.float32 if value.itemsize < 4 else None)):
        raise InputError(f"NaN or Inf in {where}: check the weights, or use a wider dtype")


def micro_batches(sequences: Sequences, size: int, *, pad: int, token_mask: str) -> list[Batch]:
    """Micro-batches of `size` samples in order. `token_mask` says which tokens the objectives average over; every real
    token counts in the sums.

    Raises InputError if a sample has no token left for the objective."""
    batches = []
    for start in range(0, len(sequences), size):
        chunk = sequences[start : start + size]
        tokens = [torch.tensor(ids) for ids, _ in chunk]
        answers = [torch.tensor(answer) if token_mask == "answer" else torch.ones(len(answer)) for _, answer in chunk]
        ids = pad_sequence(tokens, batch_first=True, padding_value=pad)
        counted = pad_sequence([torch.ones(len(own)) for own in tokens], batch_first=True).bool()
        objective = pad_sequence(answers, batch_first=True).bool()
        if len(nothing := (~objective[:, 1:].any(dim=1)).nonzero()):
            raise InputError(
                f"calibration sample {start + int(nothing[0])} has no token for the objective (token_mask: "
                f"{token_mask}); raise `sequence_length`"
            )
        batches.append(Batch(torch.arange(start, start + len(chunk)), ids, counted, objective))
    return batches


def as_batches(given: Iterable[Batch | torch.Tensor | Mapping[str, torch.Tensor]]) -> list[Batch]:
    """Micro-batches of what a program has, a batch or several: token ids int64 [B, T]; or a mapping, as tokenizers and
    data loaders give, with `input_ids` and, where there is padding, `attention_mask`, and `labels`, which are -100
    where the objectives do not look, on any device; or a Batch, as it is, on the CPU. Samples are numbered in order.

    Raises InputError where there is none, for what is none of these, or where padding stands before tokens."""
    found, samples = [], 0
    given = [given] if isinstance(given, Batch | torch.Tensor | Mapping) else given
    for each in given:
        if not isinstance(each, Batch):
            own = each if isinstance(each, Mapping) else {"input_ids": each}
            own = {name: own[name] for name in ("input_ids", "attention_mask", "labels") if name in own}
            if "input_ids" not in own or not all(isinstance(of, torch.Tensor) and of.dim() == 2 for of in own.values()):
                raise InputError(f"batch {len(found)}: give token ids as a tensor, int64 [samples, tokens]")
            ids = own["input_ids"]
            if ids.is_floating_point():
                raise InputError(f"batch {len(found)}: token ids are whole numbers, not {str(ids.dtype)[6:]}")
            for name, of in own.items():
                if of.shape != ids.shape:
                    shapes = f"{tuple(of.shape)} and {tuple(ids.shape)}"
                    raise InputError(f"batch {len(found)}: {name} and input_ids have different shapes, {shapes}")
            own = {name: of.cpu().long() for name, of in own.items()}
            ids = own["input_ids"]
            counted = own.get("attention_mask", torch.ones_like(ids)).bool()
            looked_at = counted & (own["labels"] != -100) if "labels" in own else counted
            if (counted[:, 1:] & ~counted[:, :-1]).any():
                raise InputError(f"batch {len(found)}: padding before tokens: tokenize with `padding_side='right'`")
            if not looked_at[:, 1:].any(dim=1).all():
                raise InputError(f"batch {len(found)}: a sample has no token for the objectives: give it two or more")
            each = Batch(torch.arange(samples, samples + len(ids)), ids, counted, looked_at)
        found.append(each)
        samples += len(each.samples)
    if not found:
        raise InputError("batches: there is none: give token ids, int64 [samples, tokens]")
    return found


def unit_rows(column: str, layers: Iterable[np.ndarray]) -> pd.DataFrame:
    """Return one row per unit: layer, unit, and the values of each layer's units."""
    frames = [pd.DataFrame({"layer": i, "unit": range(len(own)), column: own}) for i, own in enumerate(layers)]
    return pd.concat(frames, ignore_index=True)


def blank(settings: Mapping[str, Any]) -> list[Batch]:
    """One micro-batch of `micro_batch` samples of `sequence_length` tokens, for rehearsals."""
    length, size = settings["sequence_length"], settings["micro_batch"]
    return micro_batches([([1] * length, [True] * length)] * size, size, pad=0, token_mask="all")


def shard_of(batches: Sequence[Batch], shard: int, shards: int) -> Sequence[Batch]:
    """Contiguous whole micro-batches of shard 0 .. shards-1, as even as possible; may be empty."""
    return batches[len(batches) * shard // shards : len(batches) * (shard + 1) // shards]


def first_samples(batches: Sequence[Batch], samples: int) -> list[Batch]:
    """Whole micro-batches with so many samples, or the next more."""
    return [batch for batch in batches if int(batch.samples[0]) < samples]


def sampled_positions(batches: Sequence[Batch], tokens: int, seed: int) -> dict[int, list[int]]:
    """Which tokens' activations are kept: sample -> positions, drawn from all counted tokens of the whole set."""
    every = [
        (int(sample), int(position))
        for batch in batches
        for sample, row in zip(batch.samples, batch.counted, strict=True)
        for position in row.nonzero().flatten()
    ]
    chosen: dict[int, list[int]] = {}
    for sample, position in sorted(Random(seed).sample(every, min(tokens, len(every)))):
        chosen.setdefault(sample, []).append(position)
    return chosen
