"""Training of what is kept of a layer, its matrices together, towards the dense model's residual stream:

    min over θ of Σ_t w_t ‖y_t - f_θ(x_t)‖² / Σ_t w_t ‖y_t‖²

x: the residual stream that the pruned layers before put out, y: the dense model's after this layer, f_θ: the layer,
w: what a token counts (refit.weights_of). From where least squares left θ, by Adam with a rate that falls as a cosine;
what had the least error on the samples held out is kept, the start where nothing was better. Least squares fits one
matrix after the other with those before it fixed; here FFN and attention are fitted together, as in RCPU (arXiv
2510.07782, which stops early as well) and in block-wise reconstruction (arXiv 2510.14444).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.calibration import layerwise
from pruning.calibration.prepare import Batch
from pruning.calibration.second_moments import held_out

STEPS = 32
"""A step takes no more than this part of all samples, those held out included: micro-batches are cut for it."""


@dataclass(frozen=True)
class Piece:
    """Some samples of a micro-batch, with a layer's input and the output that is wanted of it. What a micro-batch has
    is not copied: rows are taken as they are asked for."""

    batch: Batch
    rows: Tensor  # Which samples of it, int64 [B]
    streams: Tensor | None  # x of the whole micro-batch, [.., T, d]; None: the embeddings
    targets: Tensor  # y, as well
    weights: Tensor  # w [.., T], 0 for padding

    def cut(self) -> tuple[Batch, Tensor | None, Tensor, Tensor]:
        """Return the samples alone, with their x, y and w, as long as the longest of them."""
        length = int(self.batch.counted[self.rows].sum(1).max())  # padding is on the right
        parts = (self.batch.ids, self.batch.counted, self.batch.objective, self.streams, self.targets, self.weights)
        parts = [each if each is None else each[self.rows, :length] for each in parts]
        return Batch(self.batch.samples[self.rows], *parts[:3]), *parts[3:]


def pieces(
    batches: Sequence[Batch], streams: Sequence[Tensor | None], targets: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[list[Piece], list[Piece]]:
    """Return those to fit on, and those held out."""
    samples = sum(len(batch.samples) for batch in batches)
    found: tuple[list[Piece], list[Piece]] = ([], [])
    for batch, stream, target, weight in zip(batches, streams, targets, weights, strict=True):
        held, size = held_out(batch.samples), max(1, min(len(batch.samples), samples // STEPS))
        for into, which in zip(found, (~held, held), strict=True):
            rows = which.nonzero()[:, 0].split(size)
            into += [Piece(batch, own, stream, target, weight * batch.counted) for own in rows if len(own)]
    return found


@dataclass(frozen=True)
class Training:
    """A layer of a model, pieces to fit it on and pieces held out, and the type of the model's products."""

    model: nn.Module
    layer: nn.Module
    fit: Sequence[Piece]
    held: Sequence[Piece]
    dtype: torch.dtype

    def sums(self, piece: Piece) -> tuple[Tensor, Tensor]:
        """Return Σ w ‖y - f(x)‖² and Σ w ‖y‖² of one piece."""
        device = next(self.layer.parameters()).device
        batch, stream, target, weight = piece.cut()
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            output = layerwise.forward(self.model, self.layer, batch, stream)
        target, weight = target.to(device).float(), weight.to(device)
        return ((target - output.float()).square().sum(-1) * weight).sum(), (target.square().sum(-1) * weight).sum()

    @torch.no_grad()
    def error(self) -> float:
        """Return the root of the relative error of what is held out; infinite where it is not finite."""
        left, whole = (sum(map(float, part)) for part in zip(*map(self.sums, self.held), strict=True))
        return math.sqrt(left / max(whole, 1e-30)) if math.isfinite(left) else math.inf

    def epochs(self, matrices: Sequence[nn.Parameter], epochs: int, rate: float, seed: int) -> Iterator[float]:
        """Train the layer's matrices; yield the error after each epoch."""
        optimiser = torch.optim.Adam(matrices, lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(self.fit))
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for own in matrices:
                own.requires_grad_(True)
            for number in torch.randperm(len(self.fit), generator=generator).tolist():
                left, whole = self.sums(self.fit[number])
                (left / whole).backward()
                optimiser.step()
                schedule.step()
                optimiser.zero_grad()
            for own in matrices:
                own.requires_grad_(False)
            yield self.error()


def trained(
    model: nn.Module,
    layer: nn.Module,
    fit: Sequence[Piece],
    held: Sequence[Piece],
    epochs: int,
    rates: Sequence[float],
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train a layer in place, once from the same start for each of the rates, and leave it with the best of them. Once
    a rate has gained, the first that gains no more ends it.

    Returns (its matrices by their names in the layer, float32 on the CPU; a record: `rate` and `epoch`, 0 for the
    start, of what was kept, `held_out_error` and `held_out_error_untrained`). Beside the model one layer in float32 is
    in memory six times: weights, gradients, two moments, and copies of the start and of the best so far."""
    own = Training(model, layer, fit, held, next(layer.parameters()).dtype)
    layer.float()  # the optimiser's changes are smaller than what a narrower type can tell apart
    matrices = {name: each for name, each in layer.named_parameters() if each.dim() == 2}
    start = _copied(matrices)
    found = untrained = own.error()
    best, record = start, {"rate": 0.0, "epoch": 0}
    for rate in rates:
        layer.load_state_dict(start, strict=False)
        before = found
        for epoch, error in enumerate(own.epochs([*matrices.values()], epochs, rate, seed), 1):
            if error < found:
                found, best, record = error, _copied(matrices), {"rate": rate, "epoch": epoch}
        if found == before < untrained:
            break
    layer.load_state_dict(best, strict=False)
    layer.to(own.dtype)
    return best, {**record, "held_out_error": found, "held_out_error_untrained": untrained}


def _copied(matrices: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: own.detach().cpu().clone() for name, own in matrices.items()}
