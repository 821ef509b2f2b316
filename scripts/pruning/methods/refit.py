"""Refit of down_proj in a model that is pruned layer by layer, on what it then sees: inputs and errors of the layers
before are the pruned model's own.

    min over W' of Σ_t ‖y - W' a_k‖² + λ ‖W' - W_k‖²
    gives W' = W_k + D, D = B (A + λ I)⁻¹, A = Σ a_k a_kᵀ, B = Σ (y - W_k a_k) a_kᵀ

with a_k the kept neurons' activations in the model whose earlier layers are already cut and refitted. `sequential`: y
is the dense FFN's output, W a. `corrective`: y is what takes the residual stream to the dense model's, so that a layer
makes up for those before it (as in OBC's sequential correction, Frantar & Alistarh 2022, arXiv 2208.11580).
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor, nn

from pruning.calibration import layerwise
from pruning.calibration.prepare import Batch
from pruning.calibration.second_moments import parts
from pruning.core.errors import InputError
from pruning.methods.compensation import LAMBDAS
from pruning.models import families
from pruning.models.structures import ffn


def refit(
    model: nn.Module, batches: Sequence[Batch], keeps: Sequence[np.ndarray], corrective: bool, progress: Callable = iter
) -> Iterator[tuple[np.ndarray, dict]]:
    """(W' float32 [d, k], record) of one layer after the other; the model, dense at first, is cut as it goes.

    record: `lambda`, `held_out_error` and `held_out_error_uncompensated`, both Σ‖y - W' a_k‖² over Σ‖y‖², square root.
    Raises InputError as layerwise.check does, and for `corrective` where a layer does not add its FFN's output to the
    residual stream as it is (Gemma's and OLMo's norms after the FFN, Granite's multiplier)."""
    layerwise.check(model)
    if corrective and not adds(model, batches[0]):
        raise InputError(
            f"compensate: ridge_corrective: {type(model).__name__} changes an FFN's output before it adds it to the "
            "residual stream; use `compensate: ridge_sequential`"
        )
    family, layers, sites = families.of(model), families.decoder_layers(model), ffn.sites(model)
    dense: list[Tensor | None] = [None] * len(batches)  # hidden states [B, T, d] before the layer, on the CPU
    pruned: list[Tensor | None] = [None] * len(batches)
    for index in progress(range(len(layers))):
        layer, site, targets = layers[index], sites[index], []
        for number, batch in enumerate(batches):
            found: list[Tensor] = []
            dense[number] = layerwise.run(
                model, layer, site, batch, dense[number], lambda _, y, found=found: found.append(y.cpu())
            )
            targets.append(dense[number] if corrective else found[0])
        ffn.shrink(layer, index, keeps, family)
        sums = Sums(int(keeps[index].sum()), site.out_features, site.weight)
        for number, batch in enumerate(batches):
            found = []
            after = layerwise.run(
                model, layer, site, batch, pruned[number], lambda a, y, found=found: found.extend((a.cpu(), y.cpu()))
            )
            a, y = found
            for part, rows in parts(batch).items():
                sums.add(part, a[rows], (targets[number] - (after if corrective else y))[rows], targets[number][rows])
        change, record = sums.solve()
        weight = site.weight.float().cpu().numpy() + change.astype(np.float32)
        with torch.no_grad():
            site.weight.copy_(torch.from_numpy(weight))
        for number, batch in enumerate(batches):
            pruned[number] = layerwise.run(model, layer, site, batch, pruned[number])
        if not all(bool(torch.isfinite(hidden).all()) for hidden in pruned):
            raise InputError(f"NaN or Inf after layer {index}: check the weights, or use a wider dtype")
        yield weight, record


class Sums:
    """A and B of both parts of the tokens, and the squares that errors are made of, on the weights' device."""

    def __init__(self, width: int, outputs: int, like: Tensor):
        wide = torch.float32 if like.device.type == "cuda" else torch.float64
        new = {"device": like.device, "dtype": wide}
        self.inner = {part: torch.zeros(width, width, **new) for part in ("fit", "held_out")}
        self.outer = {part: torch.zeros(outputs, width, **new) for part in ("fit", "held_out")}
        self.squares = dict.fromkeys(("fit", "held_out"), 0.0)
        self.whole = dict.fromkeys(("fit", "held_out"), 0.0)

    def add(self, part: str, a: Tensor, missing: Tensor, target: Tensor) -> None:
        """a [tokens, k], what is missing of the target with the present weights, and the target, [tokens, d]."""
        device = self.inner[part].device
        a, missing = a.to(device).float(), missing.to(device).float()
        self.inner[part] += a.T @ a
        self.outer[part] += missing.T @ a
        self.squares[part] += float(missing.square().sum())
        self.whole[part] += float(target.float().square().sum())

    def solve(self) -> tuple[np.ndarray, dict]:
        """D [d, k] in float64, of all tokens, with the λ whose fit on the one part errs least on the other."""
        inner = {part: total.double().cpu().numpy() for part, total in self.inner.items()}
        outer = {part: total.double().cpu().numpy() for part, total in self.outer.items()}
        errors = {}
        for relative in LAMBDAS:
            change = changed(inner["fit"], outer["fit"], relative)
            error = self.squares["held_out"] - 2 * np.vdot(change, outer["held_out"])
            error += np.vdot(change @ inner["held_out"], change)
            errors[relative] = math.sqrt(max(float(error), 0) / max(self.whole["held_out"], 1e-30))
        chosen = min(errors, key=errors.get)  # the strongest of equals
        record = {
            "lambda": "inf" if chosen == math.inf else chosen,
            "held_out_error": errors[chosen],
            "held_out_error_uncompensated": math.sqrt(self.squares["held_out"] / max(self.whole["held_out"], 1e-30)),
        }
        return changed(inner["fit"] + inner["held_out"], outer["fit"] + outer["held_out"], chosen), record


def changed(inner: np.ndarray, outer: np.ndarray, relative: float) -> np.ndarray:
    """D = B (A + λ I)⁻¹ [d, k], λ in units of A's mean diagonal; A [k, k], B [d, k] in float64."""
    if relative == math.inf:
        return np.zeros_like(outer)
    penalty = relative * inner.diagonal().mean() + 1e-30
    return cho_solve(cho_factor(inner + penalty * np.eye(len(inner))), outer.T).T


def adds(model: nn.Module, batch: Batch) -> bool:
    """Whether the first layer's output changes by what its FFN's output does."""
    layer, site, found = families.decoder_layers(model)[0], ffn.sites(model)[0], []
    after = layerwise.run(model, layer, site, batch, None, lambda _, y: found.append(y.cpu()))
    silent = site.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
    try:
        without = layerwise.run(model, layer, site, batch, None)
    finally:
        silent.remove()
    added, output = (after - without)[batch.counted].float(), found[0][batch.counted].float()
    return bool((added - output).norm() < 0.05 * output.norm())
