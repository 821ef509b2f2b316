"""Second moments of the loss gradient at each FFN's output, G = Σ_t g gᵀ: in which directions an error there matters.

With the second moments S of down_proj's inputs they are the Kronecker factors of its Fisher information, S ⊗ G (K-FAC;
for structured pruning: van der Ouderaa et al. 2024, LLM Surgeon, arXiv 2312.17244). Those at attention's output, with
the moments of its inputs, are the factors of attention's output projection. The labels are drawn from the model
itself: then G is the curvature of the KL divergence from the dense model's answers. With the text's own labels a model
that is sure of them shows the few tokens that it gets wrong, and nothing else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruning.calibration.prepare import Batch, Measurement, blank, require_finite
from pruning.core import layer_files
from pruning.models import families, head, rehearsal, structures
from pruning.models.checkpointing import checkpoint_gradients
from pruning.models.structures import ffn


def output_gradients(
    model: nn.Module,
    batches: Sequence[Batch],
    seed: int,
    progress: Callable = iter,
    sites: Sequence[nn.Linear] | None = None,
) -> tuple[list[Tensor], int]:
    """(G of every layer, float32 [d, d] on the CPU; the number of tokens), of the cross-entropy in nats, summed over
    the objective's tokens, to labels drawn with the seed. Gradients reach all earlier tokens.

    sites: the module of each layer at whose output they are; None: the FFNs' down projections.
    Products within a micro-batch are float32, sums over them float64 (float32 on a GPU).
    Raises InputError at a NaN or Inf, naming the layer."""
    device = model.get_input_embeddings().weight.device
    sites, sums = ffn.sites(model) if sites is None else sites, []
    for site in sites:
        own = families.device(model, site)
        wide = torch.float32 if own.type == "cuda" else torch.float64
        sums.append(torch.zeros(2 * (site.out_features,), dtype=wide, device=own))
    tokens = 0
    for batch in progress(batches):
        counted = batch.counted.to(device)
        predicted = batch.objective[:, 1:].to(device)
        with torch.enable_grad(), _adding(sites, counted, sums):
            hidden = head.hidden_states(model, batch.ids.to(device), counted.long())
            require_finite(hidden, f"hidden states from calibration sample {int(batch.samples[0])} on")
            drawn = head.drawn_tokens(model, hidden.detach(), seed * 2**32 + int(batch.samples[0]))
            losses = head.token_losses(model, hidden, drawn)
            (losses * predicted.to(losses.device)).sum().backward()
        tokens += int(predicted.sum())
    for index, total in enumerate(sums):
        require_finite(total, f"gradients of layer {index}")
    return [total.float().cpu() for total in sums], tokens


@contextmanager
def _adding(sites: Sequence[nn.Linear], counted: Tensor, sums: list[Tensor]) -> Iterator[None]:
    """Backward passes add g gᵀ of the counted tokens to the sums; the graph begins at the first site's output."""

    def at_output(index: int, _, __, output: Tensor) -> None:
        if not output.requires_grad:
            output.requires_grad_(True)

        def add(gradient: Tensor) -> None:
            g = gradient[counted.to(gradient.device)].float()  # [tokens, d]
            sums[index] += g.T @ g

        output.register_hook(add)

    hooks = [site.register_forward_hook(partial(at_output, index)) for index, site in enumerate(sites)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure(job: Measurement) -> None:
    """Write a manifest, and the file {layer}.safetensors of every layer: `gradients`, G divided by the tokens."""
    sites = structures.STRUCTURES[job.structure].sites(job.network)
    sums, tokens = output_gradients(job.network, job.batches, job.settings["seed"], job.progress, sites)
    layers = [{"gradients": total / tokens} for total in sums]
    kind = layer_files.kind_of("output_gradients", job.structure)
    manifest, folder = job.outputs
    content = {"tokens": tokens, "layers": len(layers), "widths": [site.in_features for site in sites]}
    layer_files.write(folder, manifest, kind, job.settings, layers, content)


def taken(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Taken:
    """What a micro-batch takes."""
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)
    sites = structures.STRUCTURES[settings.get("structure", "ffn")].sites(network)
    return rehearsal.rehearsed(network, lambda: output_gradients(network, blank(settings), 0, sites=sites))


STAGE = rehearsal.Stage("output_gradients", "calibrations", taken, {"gradient_checkpointing": True, "micro_batch": 1})
