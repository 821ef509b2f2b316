"""Second moments of the down_proj inputs, S = Σ_t a aᵀ, a layer at a time: what ridge compensation is fitted on. Those
of what heads hand to attention's output projection are measured alike.

One forward pass in all, with the S of one layer in memory (layerwise.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pruning.calibration import layerwise
from pruning.calibration.gram import Gram
from pruning.calibration.prepare import Batch, Measurement, blank, require_finite
from pruning.core.errors import InputError
from pruning.models import families, rehearsal
from pruning.models.structures import STRUCTURES

HELD_OUT_EVERY = 5
PARTS = ("fit", "held_out")


def held_out(samples: Tensor) -> Tensor:
    """Which samples, by number, are for the choice of λ rather than for the fit: every 5th; bool of the same shape."""
    return samples % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def token_counts(batches: Sequence[Batch]) -> dict[str, int]:
    """Counted tokens of either part. Raises InputError if there are too few samples to hold one out."""
    counts = {f"tokens_{part}": sum(int(parts(batch)[part].sum()) for batch in batches) for part in PARTS}
    if not counts["tokens_held_out"]:
        raise InputError(
            f"calibration: `compensate: ridge` holds out every {HELD_OUT_EVERY}th sample: raise `samples` to "
            f"{HELD_OUT_EVERY} or more"
        )
    return counts


def second_moments(model: nn.Module, batches: Sequence[Batch], structure: str = "ffn") -> Iterator[dict[str, Tensor]]:
    """S of one layer after the other, over the counted tokens: `fit` and `held_out`, float32 [n, n] on the CPU, of what
    a structure's units put out.

    Products within a micro-batch are float32, sums over micro-batches float64 (float32 on a GPU; gram.py).
    Raises InputError if a layer's S is not finite, or if layers use each other's keys and values."""
    layerwise.check(model)
    hidden: list[Tensor | None] = [None] * len(batches)  # [B, T, d] before the layer, on the CPU; None: the embeddings
    pairs = zip(families.decoder_layers(model), STRUCTURES[structure].sites(model), strict=True)
    for index, (layer, site) in enumerate(pairs):
        device, size = families.device(model, site), site.in_features
        sums = {part: Gram(device, size) for part in PARTS}
        for number, batch in enumerate(batches):

            def accumulate(a: Tensor, _, batch: Batch = batch, sums: dict[str, Gram] = sums) -> None:
                for part, rows in parts(batch).items():
                    sums[part].add(a[rows.to(a.device)].float())

            hidden[number] = layerwise.run(model, layer, batch, hidden[number], {site: accumulate})
        for part in sums:  # no name holds on to a sum
            require_finite(sums[part].whole(), f"activations of layer {index}")
        yield {part: sums.pop(part).sums.float().cpu() for part in list(sums)}  # one wide one at a time


def parts(batch: Batch) -> dict[str, Tensor]:
    """A micro-batch's counted tokens, bool [B, T]: those to fit on, and those held out."""
    held = held_out(batch.samples)[:, None]
    return {"fit": batch.counted & ~held, "held_out": batch.counted & held}


def measure(job: Measurement) -> None:
    """Write a manifest with token counts, and the file {layer}.safetensors of every layer (`fit` and `held_out`)."""
    counts, number = token_counts(job.batches), len(families.decoder_layers(job.network))
    layers = job.progress(second_moments(job.network, job.batches, job.structure), desc="layers", total=number)
    job.write_layers("second_moments", layers, counts)


def taken(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Taken:
    """What a micro-batch takes in the first layer. A GPU's sums are in float32."""
    structure = settings.get("structure", "ffn")
    found = rehearsal.rehearsed(network, lambda: next(second_moments(network, blank(settings), structure)))
    widest = max(site.in_features for site in STRUCTURES[structure].sites(network))
    return found._replace(spared=2 * 4 * widest**2)


STAGE = rehearsal.Stage("second_moments", "calibrations", taken, {"micro_batch": 1})
