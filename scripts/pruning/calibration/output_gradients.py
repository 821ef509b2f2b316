"""Second moments of the loss gradient at each FFN's output, G = Σ_t g gᵀ: in which directions an error there matters.

With the second moments S of down_proj's inputs they are the Kronecker factors of its Fisher information, S ⊗ G (K-FAC;
for structured pruning: van der Ouderaa et al. 2024, LLM Surgeon, arXiv 2312.17244). Those at attention's output, with
the moments of its inputs, are the factors of attention's output projection. The labels are drawn from the model
itself: then G is the curvature of the KL divergence from the dense model's answers. With the text's own labels a model
that is sure of them shows the few tokens that it gets wrong, and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruning.calibration.gram import Gram
from pruning.calibration.prepare import Batch, Measurement, blank, require_finite
from pruning.models import families, head, rehearsal
from pruning.models.checkpointing import checkpoint_gradients
from pruning.models.structures import STRUCTURES


def output_gradients(
    model: nn.Module, batches: Sequence[Batch], seed: int, progress: Callable = iter, structure: str = "ffn"
) -> tuple[list[Tensor], int]:
    """(G of every layer, float32 [d, d] on the CPU; the number of tokens), of the cross-entropy in nats, summed over
    the objective's tokens, to labels drawn with the seed. Gradients reach all earlier tokens.

    structure: G is of the output of the modules that its units put something into.
    Products within a micro-batch are float32, sums over them float64 (float32 on a GPU; gram.py).
    Raises InputError at a NaN or Inf, naming the layer."""
    device = model.get_input_embeddings().weight.device
    sites, tokens = STRUCTURES[structure].sites(model), 0
    sums = [Gram(families.device(model, site), site.out_features) for site in sites]

    def at_output(total: Gram, _, __, output: Tensor) -> None:
        """A backward pass adds g gᵀ of the counted tokens; the graph begins at the first site's output."""
        if not output.requires_grad:
            output.requires_grad_(True)

        def add(gradient: Tensor) -> None:
            total.add(gradient[counted.to(gradient.device)].float())

        output.register_hook(add)

    with ExitStack() as hooks, torch.enable_grad():
        for site, total in zip(sites, sums, strict=True):
            hooks.enter_context(site.register_forward_hook(partial(at_output, total)))
        for batch in progress(batches):
            counted, predicted = batch.counted.to(device), batch.objective[:, 1:].to(device)
            hidden = head.hidden_states(model, batch.ids.to(device), counted.long())
            require_finite(hidden, f"hidden states from calibration sample {int(batch.samples[0])} on")
            drawn = head.drawn_tokens(model, hidden.detach(), seed * 2**32 + int(batch.samples[0]))
            losses = head.token_losses(model, hidden, drawn)
            (losses * predicted.to(losses.device)).sum().backward()
            tokens += int(predicted.sum())
    for index, total in enumerate(sums):
        require_finite(total.whole(), f"gradients of layer {index}")
    return [total.sums.float().cpu() for total in sums], tokens


def measure(job: Measurement) -> None:
    """Write a manifest, and the file {layer}.safetensors of every layer: `gradients`, G divided by the tokens."""
    sums, tokens = output_gradients(job.network, job.batches, job.settings["seed"], job.progress, job.structure)
    job.write_layers("output_gradients", [{"gradients": total / tokens} for total in sums], {"tokens": tokens})


def taken(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Taken:
    """What a micro-batch takes."""
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)
    structure = settings.get("structure", "ffn")
    return rehearsal.rehearsed(network, lambda: output_gradients(network, blank(settings), 0, structure=structure))


STAGE = rehearsal.Stage("output_gradients", "calibrations", taken, {"gradient_checkpointing": True, "micro_batch": 1})
