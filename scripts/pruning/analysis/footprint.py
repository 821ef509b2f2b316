"""Memory that each stage's work takes beside the weights, from a rehearsal of its very code (models/rehearsal.py).

What is asked of a stage are its settings alone, as the config has them; the lengths of prompts, which only the data
know, are given. All functions take a network without weights and return bytes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pruning.calibration import second_moments as moments
from pruning.calibration.gradients import Calibration
from pruning.calibration.prepare import Batch, micro_batches
from pruning.evaluation import generation, recovery
from pruning.models import head, rehearsal
from pruning.models.checkpointing import checkpoint_gradients


def calibration(network: nn.Module, settings: Mapping[str, Any]) -> int:
    """settings: `micro_batch`, `sequence_length`, `objectives`, `gradient_checkpointing`."""
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)

    def work() -> None:
        with Calibration(network, settings["objectives"]) as run:
            run.run(_batches(settings))

    return rehearsal.peak(network, work)


def second_moments(network: nn.Module, settings: Mapping[str, Any]) -> int:
    """settings: `micro_batch`, `sequence_length`. A layer at a time, sums in float64 (half of them on a GPU)."""
    return rehearsal.peak(network, lambda: next(moments.second_moments(network, _batches(settings))))


def perplexity(network: nn.Module, settings: Mapping[str, Any]) -> int:
    """settings: `batch_size`, `seqlen`."""
    ids = torch.zeros(settings["batch_size"], settings["seqlen"], dtype=torch.long)

    def work() -> None:
        with torch.no_grad():
            on_device = ids.to(network.get_input_embeddings().weight.device)
            head.token_losses(network, head.hidden_states(network, on_device), on_device)

    return rehearsal.peak(network, work)


def answers(network: nn.Module, batch_size: int, prompt: int, answer: int) -> int:
    """Prompts of so many tokens, and answers, with keys and values of all of them kept: of generation as of options."""
    device = network.get_input_embeddings().weight.device

    def work() -> None:
        with torch.no_grad():
            cache = generation.new_cache(network)
            for tokens in (prompt, answer):
                ids = torch.zeros(batch_size, tokens, dtype=torch.long, device=device)
                network(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)

    return rehearsal.peak(network, work)


def lora(network: nn.Module, settings: Mapping[str, Any]) -> int:
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


def _batches(settings: Mapping[str, Any]) -> list[Batch]:
    """One micro-batch, with a sample that is held out of fits."""
    length, size = settings["sequence_length"], settings["micro_batch"]
    return micro_batches([([1] * length, [True] * length)] * size, size, pad=0, token_mask="all")
