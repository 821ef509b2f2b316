"""Memory that each stage's work takes beside the weights, from a rehearsal of its very code (models/rehearsal.py).

What is asked of a stage are its settings alone, as the config has them; the lengths of prompts, which only the data
know, are given. All functions but `must_fit` take a network without weights and return bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pruning.calibration import layerwise
from pruning.calibration import output_gradients as curvature
from pruning.calibration import second_moments as moments
from pruning.calibration.gradients import Calibration
from pruning.calibration.prepare import Batch, micro_batches
from pruning.core.errors import InputError
from pruning.evaluation import generation, recovery
from pruning.models import head, loading, rehearsal, structures
from pruning.models.checkpointing import checkpoint_gradients
from pruning.models.structures import ffn


def calibration(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Peak:
    """settings: `micro_batch`, `sequence_length`, `objectives`, `gradient_checkpointing`."""
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)

    def work() -> None:
        with Calibration(network, settings["objectives"]) as run:
            run.run(_batches(settings))

    return rehearsal.peak(network, work)


def second_moments(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Peak:
    """settings: `micro_batch`, `sequence_length`, `structure` unless it is FFN neurons. A layer at a time, sums in
    float64 (in float32 on a GPU)."""
    sites = structures.sites(network, settings.get("structure", "ffn"))
    peak = rehearsal.peak(network, lambda: next(moments.second_moments(network, _batches(settings), sites)))
    return _more(peak, 0, spared=2 * 4 * max(site.in_features for site in sites) ** 2)


def output_gradients(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Peak:
    """settings: `micro_batch`, `sequence_length`, `gradient_checkpointing`, `structure` unless it is FFN neurons."""
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)
    sites = structures.sites(network, settings.get("structure", "ffn"))
    return rehearsal.peak(network, lambda: curvature.output_gradients(network, _batches(settings), 0, sites=sites))


def refit(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Peak:
    """settings: `micro_batch`, `sequence_length`. A layer of which nothing is removed: sums as of the second moments;
    the least squares need three more [n, n] and six [d, n] in float64, on the CPU also where there is a GPU."""
    solving, sums = _solving(network), second_moments(network, settings)
    return _more(sums, solving, spared=sums.spared + solving)


def rounds(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Peak:
    """settings: `micro_batch`, `sequence_length`, `gradient_checkpointing`. The most that one of its passes takes: the
    curvature; the second moments with what surgeon.py says of itself and a copy; the refit."""
    site = max(ffn.sites(network), key=lambda site: site.in_features)
    scoring = 8 * (6 * site.in_features**2 + 2 * site.in_features * site.out_features)
    ranked = _more(second_moments(network, settings), scoring)
    passes = [refit(network, settings), ranked, output_gradients(network, settings)]
    return _more(max(passes), 0, spared=max(passes) - max(each - each.spared for each in passes))


def sensitivity(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Peak:
    """settings: `micro_batch`, `sequence_length`, `probed` and, unless it is `greedy`, `search`. One cut of the first
    layer; besides, the hidden states that are kept, a down_proj for every cut at hand, and its fit (`refit`)."""
    sites, greedy = ffn.sites(network), settings.get("search", "greedy") == "greedy"
    site = max(sites, key=lambda site: site.in_features)

    def work() -> None:
        with torch.inference_mode():
            end = layerwise.rest(network, 0, _batches(settings)[0], None)
            end = end.to(site.weight.device)
            head.token_divergences(network, end, network, end)

    tokens = settings["probed"] * settings["sequence_length"]
    states = (len(sites) + 2 if greedy else 3) * tokens * site.out_features * site.weight.element_size()
    cuts, spared = (len(sites) if greedy else 1) * site.weight.nbytes, states + _solving(network)
    return _more(rehearsal.peak(network, work), cuts + spared, spared)


def perplexity(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Peak:
    """settings: `batch_size`, `seqlen`."""
    ids = torch.zeros(settings["batch_size"], settings["seqlen"], dtype=torch.long)

    def work() -> None:
        with torch.no_grad():
            on_device = ids.to(network.get_input_embeddings().weight.device)
            head.token_losses(network, head.hidden_states(network, on_device), on_device)

    return rehearsal.peak(network, work)


def options(network: nn.Module, batch_size: int, prompt: int, option: int) -> rehearsal.Peak:
    """Prompts of so many tokens, and options after them, with keys and values of all of them kept."""

    def work() -> None:
        cache = generation.new_cache(network)
        for tokens in (prompt, option):
            _read(network, cache, batch_size, tokens)

    return rehearsal.peak(network, work)


def answers(network: nn.Module, batch_size: int, prompt: int, answer: int, shared: int = 0) -> rehearsal.Peak:
    """Prompts of so many tokens, of which the first `shared` are common to all and computed once, and answers that are
    generated a token at a time (evaluation/generation.py)."""

    def work() -> None:
        prefix = generation.new_cache(network)
        if shared:
            _read(network, prefix, 1, shared)
        cache = generation.new_cache(network, shared)
        _read(network, cache, batch_size, prompt - shared)
        for layer in cache.layers:
            *rows, _, size = layer.keys.shape
            layer.update(layer.keys.new_empty(*rows, answer - 1, size), layer.keys.new_empty(*rows, answer - 1, size))
        _read(network, cache, batch_size, 1)

    return rehearsal.peak(network, work)


@torch.no_grad()
def _read(network: nn.Module, cache: Any, rows: int, tokens: int) -> None:
    ids = torch.zeros(rows, tokens, dtype=torch.long, device=network.get_input_embeddings().weight.device)
    network(input_ids=ids, cache=cache, use_cache=True, logits_to_keep=1)


def lora(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Peak:
    """A step of recovery, optimiser included. settings: a tuning's."""
    rows, device = settings["batch_size"], network.get_input_embeddings().weight.device

    def work() -> None:
        tuned = recovery.with_adapters(network, settings)
        if settings["gradient_checkpointing"]:
            checkpoint_gradients(network)
        trainable = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trainable, weight_decay=0.0)
        ids = torch.ones(rows, settings["sequence_length"], dtype=torch.long, device=device)
        recovery.backward(tuned, ids, ids, settings["micro_batch"])
        optimizer.step()

    return rehearsal.peak(network, work)


def _more(peak: rehearsal.Peak, others: int, spared: int | None = None) -> rehearsal.Peak:
    """With so many bytes that are no logits; spared: what a GPU is spared (None: as before)."""
    found = rehearsal.Peak(peak + others)
    found.logits, found.spared = peak.logits, peak.spared if spared is None else spared
    return found


def _solving(network: nn.Module) -> int:
    """Bytes of the least squares of the widest layer, on the CPU also where there is a GPU."""
    site = max(ffn.sites(network), key=lambda site: site.in_features)
    return 8 * (3 * site.in_features**2 + 6 * site.in_features * site.out_features)


def _batches(settings: Mapping[str, Any]) -> list[Batch]:
    """One micro-batch, with a sample that is held out of fits."""
    length, size = settings["sequence_length"], settings["micro_batch"]
    return micro_batches([([1] * length, [True] * length)] * size, size, pad=0, token_mask="all")


# Stage -> its work, where its settings are in the config, and what would make it smaller.
STAGES = {
    "calibration": (calibration, "calibrations", ({"gradient_checkpointing": True}, {"micro_batch": 1})),
    "second_moments": (second_moments, "calibrations", ({"micro_batch": 1},)),
    "output_gradients": (
        output_gradients,
        "calibrations",
        ({"gradient_checkpointing": True}, {"micro_batch": 1}),
    ),
    "refit": (refit, "calibrations", ({"micro_batch": 1},)),
    "rounds": (rounds, "calibrations", ({"gradient_checkpointing": True}, {"micro_batch": 1})),
    "sensitivity": (sensitivity, "calibrations", ({"micro_batch": 1}, {"probed": 16})),
    "perplexity": (perplexity, "tasks", ({"batch_size": 1},)),
    "recovery": (lora, "tunings", ({"gradient_checkpointing": True}, {"micro_batch": 1})),
}


def must_fit(
    directory: Path,
    dtype: str,
    stage: str,
    settings: Mapping[str, Any],
    free: list[float],
    on_gpus: bool,
    others: int = 0,
) -> None:
    """Raises InputError if the weights, bytes of `others`, and a stage's work are more than what is free
    (loading.free_memory)."""
    work, section, changes = STAGES[stage]

    def rehearsed(changed: Mapping[str, Any]) -> tuple[int, int, int]:
        """Bytes of weights, of logits, of all else."""
        network = rehearsal.model(directory, dtype)
        weights = sum(parameter.nbytes for parameter in network.parameters()) + others
        beside = work(network, {**settings, **changed})
        return weights, beside.logits, beside - beside.logits - (beside.spared if on_gpus else 0)

    parts = rehearsed({})
    if (needed := sum(parts) / 1e9) <= sum(free):
        return
    means = ""
    for change in changes:
        ((key, value),) = change.items()
        if (less := sum(rehearsed(change)) / 1e9) < 0.99 * needed:
            means += f"set `{key}: {str(value).lower()}` in `{section}` ({less:.2f} GB), "
    weights, logits, rest = (part / 1e9 for part in parts)
    raise InputError(
        f"{stage}: model {directory} needs {needed:.2f} GB in {dtype} (weights {weights:.2f}, logits {logits:.2f}, "
        f"activations and all else {rest:.2f}), {loading.lack(needed, free, on_gpus, means)}"
    )
