"""Gradients of the weights over the whole calibration set, one number a neuron, or key-value group: LLM-Pruner's
`param_first`.

The absolute value is taken of the gradient's sum over all samples, so it is no sum over samples itself: shards could
not merge, and one job holds the summed gradients G = sum_x dCE(x)/dW of whole layers, 12 n d bytes a layer in float32
(815 MB on Qwen2.5-7B). As many layers as fit are done in one pass over the text; then come the next. Gradients flow
through activations and into the weights of these layers' FFN (or attention) only: a pass stops at its lowest layer. A
weight's gradient within a micro-batch is of the weight's dtype; it is added in float32 and dropped at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import pandas as pd
import torch
from torch import Tensor, nn

from pruning.calibration.gradients import cross_entropy
from pruning.calibration.prepare import Batch, Measurement, require_finite, unit_rows
from pruning.core import artifacts, layer_files
from pruning.models import families, head
from pruning.models.structures import STRUCTURES

Weights = Mapping[tuple[str, int, int], Tensor]
"""By linear module of a layer, axis along which units have entries, and fused parts on it (Structure.modules)."""

STAGE = None  # rehearses nothing: it takes as many layers a pass as fit


def measure(job: Measurement) -> None:
    """Write the table, as many layers a pass as fit into the job's memory."""
    layers = layers_that_fit(job.network, job.memory, job.structure)
    print(f"{layers} layers a pass of {job.network.config.num_hidden_layers}")
    frame = table(job.network, job.batches, layers, job.progress, job.structure)
    kind = layer_files.kind_of("parameter_taylor", job.structure)
    artifacts.write_parquet(job.outputs[0], frame, kind, job.settings)


def table(
    model: nn.Module, batches: Sequence[Batch], layers_a_pass: int, progress: Callable = iter, structure: str = "ffn"
) -> pd.DataFrame:
    """Return one row per neuron, or key-value group: layer, unit, n_samples, ce_param_abs = sum |w sum_x dCE(x)/dw|."""
    found = parameter_taylor(model, batches, layers_a_pass, progress, structure)
    frame = unit_rows("ce_param_abs", (own.numpy() for own in found))
    frame.insert(2, "n_samples", float(sum(len(batch.samples) for batch in batches)))
    return frame


def unit_taylor(weights: Weights, gradients: Weights, units: int) -> Tensor:
    """sum |w g| over the rows and columns of each neuron or key-value group; float64 [units]."""
    totals = []
    for (name, axis, parts), weight in weights.items():
        products = (weight.float() * gradients[name, axis, parts]).abs().sum(1 - axis, dtype=torch.float64)
        totals += [part.reshape(units, len(part) // max(units, 1)).sum(1) for part in products.chunk(parts)]
    return sum(totals)


def parameter_taylor(
    model: nn.Module, batches: Sequence[Batch], layers_a_pass: int, progress: Callable = iter, structure: str = "ffn"
) -> Iterator[Tensor]:
    """sum |w G| of one layer after the other, G = sum_x dCE(x)/dw over all samples; float64 [units] on the CPU.

    `layers_a_pass` bounds the memory and changes no number. `progress` wraps the micro-batches of a pass.
    Raises InputError at a NaN or Inf, naming the sample or the layer, and for a model without such units."""
    layers, units = weights_of(model, structure), STRUCTURES[structure].counts(model)
    for start in range(0, len(layers), layers_a_pass):
        chunk = layers[start : start + layers_a_pass]
        with summed_gradients(chunk) as sums:
            for batch in progress(batches):
                backward(model, batch)
        for index, (weights, gradients) in enumerate(zip(chunk, sums, strict=True), start=start):
            found = unit_taylor(weights, gradients, units[index]).cpu()
            require_finite(found, f"weight gradients of layer {index}")
            yield found


def weights_of(model: nn.Module, structure: str) -> list[Weights]:
    """The weights that each decoder layer's units are rows and columns of."""
    places = [(name, *place) for name, place in STRUCTURES[structure].modules(families.of(model)).items()]
    return [{at: layer.get_submodule(at[0]).weight for at in places} for layer in families.decoder_layers(model)]


def backward(model: nn.Module, batch: Batch) -> None:
    """Gradients of the sum of CE(x) over a micro-batch's samples, each the mean over its objective's tokens."""
    device = model.get_input_embeddings().weight.device
    with torch.enable_grad():
        mask = batch.counted.to(device).long()
        ids = batch.ids.to(device)
        values = cross_entropy(head.token_losses(model, head.hidden_states(model, ids, mask), ids), batch.objective)
        for sample, value in zip(batch.samples.tolist(), values, strict=True):
            require_finite(value, f"the objective ce at calibration sample {sample}")
        values.sum().backward()


@contextmanager
def summed_gradients(chunk: Sequence[Weights]) -> Iterator[list[Weights]]:
    """These weights get gradients, which every backward pass adds to float32 sums of their shapes, on their devices."""
    sums = [
        {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()} for weights in chunk
    ]
    pairs = [(weights[at], totals[at]) for weights, totals in zip(chunk, sums, strict=True) for at in weights]
    with ExitStack() as stack:
        for weight, total in pairs:

            def add(parameter: nn.Parameter, total: Tensor = total) -> None:
                total.add_(parameter.grad)
                parameter.grad = None

            stack.callback(weight.requires_grad_, False)
            stack.enter_context(weight.requires_grad_(True).register_post_accumulate_grad_hook(add))
        yield sums


def layers_that_fit(model: nn.Module, memory: int | None = None, structure: str = "ffn") -> int:
    """How many layers' float32 gradients take at most half of the memory left, at least one.

    memory: bytes that the process may use, weights included; on a GPU what is free there counts instead."""
    layers = weights_of(model, structure)
    largest = max(4 * sum(weight.numel() for weight in weights.values()) for weights in layers)
    devices = {parameter.device for parameter in model.parameters()}
    if any(device.type == "cuda" for device in devices):
        left = min(torch.cuda.mem_get_info(device)[0] for device in devices if device.type == "cuda")
    elif memory is not None:
        left = memory - sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    else:
        return len(layers)
    return min(len(layers), max(1, int(left / 2 // largest)))
