"""The calibration pass: a forward pass, and a backward pass per objective to the activations, give every statistic.

All weights are frozen. Gradients flow only through activations, from the first layer's down_proj input on; each
layer's product a * g is reduced the moment its gradient arrives, so no two layers' gradients are held at once.
Sums within a sample are float32, sums over samples float64 (see columns.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pruning.calibration.columns import LAYER_COLUMNS, expert_columns, neuron_columns
from pruning.calibration.prepare import Batch, Measurement, blank, require_finite, shard_of
from pruning.core import artifacts, layer_files
from pruning.core.errors import InputError
from pruning.models import families, head, rehearsal, structures
from pruning.models.checkpointing import checkpoint_gradients
from pruning.models.structures.experts import Routed


def objective_values(
    names: Sequence[str], hidden: Tensor, normed: Tensor, losses: Callable[[], Tensor], mask: Tensor
) -> dict[str, Tensor]:
    """Each objective of core/objectives.py that is named, one value per sample [B].

    hidden [B, T, d] before the final norm, normed [B, T, d] after it; losses gives each token's cross-entropy
    [B, T - 1], and is called for `ce` alone. mask [B, T]: tokens that the objectives average over."""
    position = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * position).argmax(1, keepdim=True) == position
    functions = {
        "energy": lambda: energy(hidden, mask),
        "energy_post": lambda: energy(normed, mask),
        "energy_last": lambda: energy(hidden, last),
        "energy_rest": lambda: energy(hidden, mask & (position > 0)),
        "ce": lambda: cross_entropy(losses(), mask),
    }
    return {name: functions[name]() for name in names}


def energy(hidden: Tensor, mask: Tensor) -> Tensor:
    """E(x) = 1/2 mean_t ||h_L(x, t)||^2 [B], hidden [B, T, d], mean over the tokens of `mask` [B, T]."""
    squared = hidden.float().square().sum(-1)
    mask = mask.to(squared.device)  # the last GPU's, where the model is spread over several
    return 0.5 * (squared * mask).sum(1) / mask.sum(1)


def cross_entropy(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean next-token cross-entropy [B] in nats over the tokens of `mask` that have a predecessor; losses [B, T - 1],
    each token's."""
    predicted = mask[:, 1:].to(losses.device)
    return (losses * predicted).sum(1) / predicted.sum(1)


class Pass:
    """Forward and backward passes over micro-batches; use as a context manager, which attaches and removes the hooks.

    What is taken from them, subclasses say: `begin`, `take_activation`, `take_gradient`, `take_outputs`, `take_layer`.

    objectives: names of core/objectives.py; one backward pass each, none at all where empty. structure: whose sites are
    looked at; what their units put out is called a. None: the model's main one.
    """

    def __init__(self, model: nn.Module, objectives: Sequence[str] = ("energy", "ce"), structure: str | None = None):
        self.model, self.objectives = model, objectives
        self.structure = structures.STRUCTURES[structure or families.of(model).main]
        self.sites = self.structure.sites(model)
        self.layers = families.pruned_layers(model)

    def begin(self, batch: Batch) -> None:
        """Before a micro-batch, which is on the model's first device."""

    def take_activation(self, index: int, a: Tensor, counted: Tensor, routed: Routed | None) -> None:
        """A layer's activations a [B, T, n], or of experts [rows, n] with what `routed` says of them; counted [B, T] on
        their device."""

    def take_gradient(self, index: int, a: Tensor, g: Tensor, counted: Tensor, routed: Routed | None) -> None:
        """The gradient g in float32 of `self.objective` with respect to them."""

    def take_outputs(self, index: int, out: Tensor, counted: Tensor, routed: Routed) -> None:
        """What experts add to a layer's FFN output, [rows, d]."""

    def take_layer(self, index: int, before: Tensor, after: Tensor) -> None:
        """A decoder layer's input and output, [B, T, d] in float32."""

    def __enter__(self) -> Self:
        self.hooks = [families.final_norm(self.model).register_forward_pre_hook(self._at_norm)]
        for index, (layer, site) in enumerate(zip(self.layers, self.sites, strict=True)):
            self.hooks.append(self.structure.watch(site, partial(self._look, index), partial(self._after, index)))
            self.hooks.append(layer.register_forward_hook(partial(self._after_layer, index)))
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()

    def run(self, batches: Iterable[Batch]) -> None:
        """Raises InputError at the first NaN or Inf, naming layer and sample."""
        device = self.model.get_input_embeddings().weight.device
        for batch in batches:
            self.batch = Batch(batch.samples, *(t.to(device) for t in (batch.ids, batch.counted, batch.objective)))
            self.measured: set[str] = set()
            self.begin(self.batch)
            self._forward_and_backward(self.batch)

    def add(self, sums: dict[str, Tensor], parts: Mapping[str, Tensor], where: str) -> None:
        """Add parts [B, ...], summed over samples, to float64 sums."""
        for name, value in parts.items():
            self.check_finite(value, where)
            total = value.sum(0, dtype=torch.float64)
            sums[name] = sums[name] + total if name in sums else total

    def check_finite(self, value: Tensor, where: str) -> None:
        """Raises InputError, naming the sample, at a NaN or Inf in value [B, ...], or where their sum has one."""
        if not torch.isfinite(value.sum()):
            for sample, own in zip(self.batch.samples.tolist(), value, strict=True):
                require_finite(own, f"{where} at calibration sample {sample}")
            require_finite(value, f"{where} at calibration sample (sum overflows)")

    def _forward_and_backward(self, batch: Batch) -> None:
        with torch.set_grad_enabled(bool(self.objectives)):
            normed = head.hidden_states(self.model, batch.ids, batch.counted.long())
            losses = partial(head.token_losses, self.model, normed, batch.ids)
            values = objective_values(self.objectives, self.before_norm, normed, losses, batch.objective)
            for number, (self.objective, value) in enumerate(values.items(), start=1):
                self.check_finite(value, f"the objective {self.objective}")
                value.sum().backward(retain_graph=number < len(values))
                self.first.grad = None

    def _at_norm(self, _, args: tuple) -> None:
        self.before_norm = args[0]

    def _look(self, index: int, a: Tensor, routed: Routed | None = None) -> None:
        if self.objectives and not a.requires_grad:  # the first layer's: where the graph begins
            a.requires_grad_(True)
            self.first = a
        if self._seen(f"down {index}"):
            return
        values, counted = a.detach(), self.batch.counted.to(a.device)
        self.take_activation(index, values, counted, routed)
        if self.objectives:
            a.register_hook(lambda g: self.take_gradient(index, values, g.float(), counted, routed))

    def _after(self, index: int, out: Tensor, routed: Routed) -> None:
        if not self._seen(f"out {index}"):
            self.take_outputs(index, out.detach().float(), self.batch.counted.to(out.device), routed)

    def _after_layer(self, index: int, _, args: tuple, output) -> None:
        if not self._seen(f"layer {index}"):
            after = output[0] if isinstance(output, tuple) else output
            self.take_layer(index, args[0].detach().float(), after.detach().float())

    def _seen(self, place: str) -> bool:
        """True the second time a place is reached in one batch: a gradient checkpoint's recomputation."""
        seen = place in self.measured
        self.measured.add(place)
        return seen


class Calibration(Pass):
    """Accumulates every statistic of columns.py over micro-batches."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sums: list[dict[str, Tensor]] = [{} for _ in self.layers]  # [n]
        self.angular = [0.0 for _ in self.layers]
        self.tokens = self.samples = 0

    def begin(self, batch: Batch) -> None:
        self.tokens += int(batch.counted.sum())
        self.samples += len(batch.samples)

    def take_activation(self, index: int, a: Tensor, counted: Tensor, routed: Routed | None) -> None:
        a, summed = a.float() if routed else counted_only(a, counted), _summed(counted, routed)
        absolute = summed(a.abs())
        parts = {"act_sum": summed(a), "act_abs_sum": absolute, "act_sq_sum": summed(a.square())}
        parts["act_mean_abs_sq_sum"] = (absolute / counted.sum(1, keepdim=True)).square()
        self.add(self.sums[index], parts, f"activations of layer {index}")

    def take_gradient(self, index: int, a: Tensor, g: Tensor, counted: Tensor, routed: Routed | None) -> None:
        p, summed = a.float() * g, _summed(counted, routed)
        net, absolute = summed(p), summed(p.abs())
        parts = {"net_abs_sum": net.abs(), "net_sq_sum": net.square(), "abs_sum": absolute}
        parts |= {"sq_sum": summed(p.square()), "grad_sq_sum": summed(g.square())}
        parts["share_sum"] = absolute / absolute.sum(1, keepdim=True).clamp_min(torch.finfo(absolute.dtype).tiny)
        if routed:
            parts["expert_sq_sum"] = summed(p.sum(1, keepdim=True).square())
        named = {f"{self.objective}_{name}": part for name, part in parts.items()}
        self.add(self.sums[index], named, f"gradients of layer {index} (objective {self.objective})")

    def take_outputs(self, index: int, out: Tensor, counted: Tensor, routed: Routed) -> None:
        norms = out.norm(dim=1, keepdim=True)
        parts = {"routed_tokens": torch.ones_like(norms), "routed_norm_sum": norms}
        summed = {name: routed.summed(part, counted) for name, part in parts.items()}
        self.add(self.sums[index], summed, f"outputs of layer {index}'s experts")

    def take_layer(self, index: int, before: Tensor, after: Tensor) -> None:
        """CFSP's coarse measure: the angular distance between a decoder layer's input and output."""
        cosine = nn.functional.cosine_similarity(before.to(after.device), after, dim=-1).clamp(-1, 1)
        counted = self.batch.counted.to(cosine.device)
        self.angular[index] += (cosine.arccos() / torch.pi)[counted].sum(dtype=torch.float64).item()

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(one row per neuron, one row per layer), float64 columns of columns.py."""
        counts = {"n_tokens": float(self.tokens), "n_samples": float(self.samples)}
        neurons = []
        for index, (site, sums) in enumerate(zip(self.sites, self.sums, strict=True)):
            if sums:
                number = self.structure.channels(site)
                own = [name for name in expert_columns(self.objectives) if name in sums]
                columns = {name: total.cpu().numpy() for name, total in sums.items()}
                columns |= {name: np.repeat(columns[name], number // len(columns[name])) for name in own}
                rows = {"layer": index, "unit": range(number), **counts, **columns}
                neurons.append(pd.DataFrame(rows)[["layer", "unit", *neuron_columns(self.objectives), *own]])
        layers = {"layer": range(len(self.layers)), "n_tokens": float(self.tokens), "angular_sum": self.angular}
        return pd.concat(neurons, ignore_index=True), pd.DataFrame(layers)[["layer", *LAYER_COLUMNS]]


def _summed(counted: Tensor, routed: Routed | None) -> Callable[[Tensor], Tensor]:
    """Return a function from values [B, T, n], or [rows, n] of experts' tokens, to sums over each sample's, [B, n]."""
    return partial(routed.summed, counted=counted) if routed else lambda values: values.sum(1)


def counted_only(a: Tensor, counted: Tensor) -> Tensor:
    """a [B, T, n] in float32, zero where a token is padding."""
    return (a if counted.all() else a * counted.unsqueeze(-1)).float()


def statistics(
    model: nn.Module, batches: Iterable[Batch], objectives: Sequence[str], structure: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the statistics of columns.py: one row per neuron (or channel of another structure than the main one), one
    per layer.

    Raises InputError at a NaN or Inf, and for a model without such units."""
    with Calibration(model, objectives, structure) as run:
        run.run(batches)
    return run.frames()


def measure(job: Measurement) -> None:
    """Write the statistics of a shard: one row per neuron, and one row per layer; or those of another structure, one
    row per channel of what its units put out, whose columns have the same names.

    Raises InputError if there are more shards than micro-batches."""
    settings, batches = job.settings, job.batches
    if (shards := settings.get("shards", 1)) > len(batches):
        raise InputError(f"calibration: {shards} shards for {len(batches)} micro-batches: lower `shards`")
    own = job.progress(shard_of(batches, settings.get("shard", 0), shards))
    frames = statistics(job.network, own, settings["objectives"], settings.get("structure"))
    kinds = (layer_files.kind_of("statistics", job.structure), "layers")  # of another structure no layers
    for path, frame, kind in zip(job.outputs, frames, kinds, strict=False):
        artifacts.write_parquet(path, frame, kind, settings)


def taken(network: nn.Module, settings: Mapping[str, Any]) -> rehearsal.Taken:
    """What a micro-batch takes."""
    if settings["gradient_checkpointing"]:
        checkpoint_gradients(network)

    def work() -> None:
        with Calibration(network, settings["objectives"]) as run:
            run.run(blank(settings))

    return rehearsal.rehearsed(network, work)


STAGE = rehearsal.Stage("calibration", "calibrations", taken, {"gradient_checkpointing": True, "micro_batch": 1})
