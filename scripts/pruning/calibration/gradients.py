"""The calibration pass: one forward and one activation-gradient backward an objective give every method's statistics.

All weights are frozen. Gradients flow only through activations, from the first layer's down_proj input on; each
layer's product a * g is reduced the moment its gradient arrives, so no two layers' gradients are held at once.
Sums within a sample are float32, sums over samples float64 (see columns.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from pruning.calibration.columns import TOKEN_CLASSES
from pruning.calibration.prepare import Batch
from pruning.calibration.token_classes import classes_of
from pruning.core.errors import InputError
from pruning.models import families
from pruning.models.structures import ffn


def objective_values(
    names: Sequence[str], hidden: Tensor, normed: Tensor, logits: Tensor, ids: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """Each objective of objectives.py that is asked for, a value a sample [B].

    hidden [B, T, d] before the final norm, normed [B, T, d] after it, logits [B, T, V], read for `ce` alone.
    mask [B, T]: tokens that the objectives average over."""
    position = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * position).argmax(1, keepdim=True) == position
    functions = {
        "energy": lambda: energy(hidden, mask),
        "energy_post": lambda: energy(normed, mask),
        "energy_last": lambda: energy(hidden, last),
        "energy_rest": lambda: energy(hidden, mask & (position > 0)),
        "ce": lambda: cross_entropy(logits, ids, mask),
    }
    return {name: functions[name]() for name in names}


def energy(hidden: Tensor, mask: Tensor) -> Tensor:
    """E(x) = 1/2 mean_t ||h_L(x, t)||^2 [B], hidden [B, T, d], mean over the tokens of `mask` [B, T]."""
    squared = hidden.float().square().sum(-1)
    return 0.5 * (squared * mask).sum(1) / mask.sum(1)


def cross_entropy(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean next-token cross-entropy [B] in nats over the tokens of `mask` that have a predecessor; logits [B, T, V]."""
    losses = nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
    predicted = mask[:, 1:]
    return (losses * predicted).sum(1) / predicted.sum(1)


def activation_statistics(a: Tensor, absolute: Tensor, squared: Tensor, counted: Tensor) -> dict[str, Tensor]:
    """Per-sample sums of down_proj inputs a [B, T, n], |a| and a^2 over counted tokens; each [B, n]."""
    absolute_sum = absolute.sum(1)
    return {
        "act_sum": a.sum(1),
        "act_abs_sum": absolute_sum,
        "act_sq_sum": squared.sum(1),
        "act_mean_abs_sq_sum": (absolute_sum / counted.sum(1, keepdim=True)).square(),
    }


def gradient_statistics(p: Tensor, p_absolute: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Per-sample reductions over tokens of p = a * g, |p| and g, all [B, T, n]; each [B, n]."""
    net, absolute = p.sum(1), p_absolute.sum(1)
    return {
        "net_abs_sum": net.abs(),
        "net_sq_sum": net.square(),
        "abs_sum": absolute,
        "sq_sum": p.square().sum(1),
        "share_sum": absolute / absolute.sum(1, keepdim=True).clamp_min(torch.finfo(absolute.dtype).tiny),
        "grad_sq_sum": g.square().sum(1),
    }


class Calibration:
    """Accumulates statistics over micro-batches; use as a context manager, which attaches and removes the hooks.

    objectives: names of objectives.py; one backward pass each.
    keep: sample -> positions whose activations at `analysed_layer` are kept.
    token_classes: class of each token id, int8 [V], to split sums by (token_classes.py); None splits none.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        objectives: Sequence[str] = ("energy", "ce"),
        analysed_layer: int = 0,
        keep: Mapping[int, list[int]] | None = None,
        token_classes: Tensor | None = None,
    ):
        self.model, self.objectives = model, objectives
        self.analysed_layer, self.keep = analysed_layer, keep or {}
        self.sites = ffn.sites(model)
        self.layers = families.decoder_layers(model)
        self.vocabulary = token_classes
        self.sums: list[dict[str, Tensor]] = [{} for _ in self.layers]  # [n]
        self.class_sums: list[dict[str, Tensor]] = [{} for _ in self.layers]  # [classes, n]
        self.class_tokens = torch.zeros(len(TOKEN_CLASSES), dtype=torch.float64)
        self.angular = [0.0 for _ in self.layers]
        self.tokens = self.samples = 0
        self.kept: list[dict] = []

    def __enter__(self) -> "Calibration":
        self.hooks = [families.final_norm(self.model).register_forward_hook(self._at_norm)]
        for index, (layer, site) in enumerate(zip(self.layers, self.sites, strict=True)):
            self.hooks.append(site.register_forward_pre_hook(partial(self._before_down, index)))
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
            if self.vocabulary is not None:
                classes = classes_of(batch.ids, self.vocabulary).long()
                one_hot = nn.functional.one_hot(classes, len(TOKEN_CLASSES)) * batch.counted.unsqueeze(-1)
                self.class_tokens += one_hot.sum((0, 1))
                self.one_hot = one_hot.transpose(1, 2).float().to(device)  # [B, classes, T]
            self._forward_and_backward(self.batch)
            self.tokens += int(batch.counted.sum())
            self.samples += len(batch.samples)

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(one row a neuron, one row a layer), float64 columns of columns.py. Empty if nothing ran."""
        neurons = [
            pd.DataFrame({"layer": index, "neuron": np.arange(len(next(iter(sums.values())))), **counts, **columns})
            for index, sums in enumerate(self.sums)
            if sums
            for counts in [{"n_tokens": float(self.tokens), "n_samples": float(self.samples)}]
            for columns in [{name: value.cpu().numpy() for name, value in sums.items()}]
        ]
        layers = pd.DataFrame(
            {"layer": range(len(self.layers)), "n_tokens": float(self.tokens), "angular_sum": self.angular}
        )
        return pd.concat(neurons, ignore_index=True) if neurons else pd.DataFrame(), layers

    def class_frame(self) -> pd.DataFrame:
        """One row a neuron and token class, float64 columns of columns.py. Empty if no classes were given."""
        frames = []
        for index, sums in enumerate(self.class_sums):
            if not sums:
                continue
            width = next(iter(sums.values())).shape[1]
            rows = {
                "layer": index,
                "neuron": np.repeat(np.arange(width), len(TOKEN_CLASSES)),
                "token_class": np.tile(TOKEN_CLASSES, width),
                "n_tokens": np.tile(self.class_tokens.numpy(), width),
            }
            frames.append(pd.DataFrame({**rows, **{name: v.T.flatten().cpu().numpy() for name, v in sums.items()}}))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def _forward_and_backward(self, batch: Batch) -> None:
        with torch.enable_grad():
            # The model's own logits, with all that its family does to them; without `ce` nothing needs them.
            network = self.model if "ce" in self.objectives else families.backbone(self.model)
            logits = network(input_ids=batch.ids, attention_mask=batch.counted.long(), use_cache=False)[0]
            values = objective_values(
                self.objectives, self.before_norm, self.after_norm, logits, batch.ids, batch.objective
            )
            for number, (self.objective, value) in enumerate(values.items(), start=1):
                self._check_finite(value, f"the objective {self.objective}")
                value.sum().backward(retain_graph=number < len(values))
                self.first.grad = None

    def _at_norm(self, _, args: tuple, output: Tensor) -> None:
        self.before_norm, self.after_norm = args[0], output

    def _before_down(self, index: int, _, args: tuple) -> None:
        a = args[0]
        if not a.requires_grad:  # the first layer's: where the graph begins
            a.requires_grad_(True)
            self.first = a
        if self._seen(f"down {index}"):
            return
        counted = self.batch.counted.to(a.device)
        values = a.detach()
        masked = (values if counted.all() else values * counted.unsqueeze(-1)).float()
        absolute, squared = masked.abs(), masked.square()
        self._add(
            self.sums[index], activation_statistics(masked, absolute, squared, counted), f"activations of layer {index}"
        )
        self._add_classes(index, {"act_abs_sum": absolute, "act_sq_sum": squared})
        a.register_hook(partial(self._after_gradient, index, values))
        if index == self.analysed_layer:
            self._keep(values)

    def _after_gradient(self, index: int, values: Tensor, g: Tensor) -> None:
        g = g.float()
        p = values.float() * g
        absolute = p.abs()
        parts = {f"{self.objective}_{name}": part for name, part in gradient_statistics(p, absolute, g).items()}
        self._add(self.sums[index], parts, f"gradients of layer {index} (objective {self.objective})")
        self._add_classes(index, {f"{self.objective}_abs_sum": absolute})

    def _after_layer(self, index: int, _, args: tuple, output) -> None:
        """CFSP's coarse measure: the angular distance between a decoder layer's input and output."""
        if self._seen(f"layer {index}"):
            return
        before, after = args[0].detach().float(), (output[0] if isinstance(output, tuple) else output).detach().float()
        cosine = nn.functional.cosine_similarity(before, after, dim=-1).clamp(-1, 1)
        counted = self.batch.counted.to(cosine.device)
        self.angular[index] += (cosine.arccos() / torch.pi)[counted].sum(dtype=torch.float64).item()

    def _seen(self, place: str) -> bool:
        """True the second time a place is reached in one batch: a gradient checkpoint's recomputation."""
        seen = place in self.measured
        self.measured.add(place)
        return seen

    def _add(self, sums: dict[str, Tensor], parts: Mapping[str, Tensor], where: str) -> None:
        for name, value in parts.items():  # [B, ...]
            self._check_finite(value, where)
            total = value.sum(0, dtype=torch.float64)
            sums[name] = sums[name] + total if name in sums else total

    def _add_classes(self, index: int, measures: Mapping[str, Tensor]) -> None:
        """Split measures [B, T, n], which are finite, by the tokens' classes: [B, classes, n] a sample."""
        if self.vocabulary is not None:
            parts = {name: self.one_hot.to(value.device) @ value for name, value in measures.items()}
            self._add(self.class_sums[index], parts, f"token classes of layer {index}")

    def _check_finite(self, value: Tensor, where: str) -> None:
        """value [B, ...]."""
        if not torch.isfinite(value.sum()):
            bad = ~torch.isfinite(value.reshape(len(value), -1)).all(dim=1)
            sample = int(self.batch.samples[int(bad.nonzero()[0])]) if bad.any() else "(sum overflows)"
            raise InputError(
                f"NaN or Inf in {where} at calibration sample {sample}: check the weights, or use a wider dtype"
            )

    def _keep(self, a: Tensor) -> None:
        for row, sample in enumerate(self.batch.samples.tolist()):
            for position in self.keep.get(sample, ()):
                token = int(self.batch.ids[row, position])
                values = a[row, position].float().cpu().numpy()
                self.kept.append({"sample": sample, "position": position, "token": token, "activation": values})


def checkpoint_gradients(model: nn.Module) -> None:
    """Recompute each layer in the backward passes instead of holding its graph: less memory, one more forward a pass.

    transformers checkpoints in train mode only, which changes nothing without dropout (InputError with it)."""
    if any(module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout)) or getattr(
        model.config, "attention_dropout", 0
    ):
        raise InputError("gradient_checkpointing needs a model without dropout: set `gradient_checkpointing: false`")
    model.activation_checkpointing_enable()
    model.disable_input_require_grads()  # the graph begins at the first down_proj input, not at the embeddings
    model.train()


def activation_table(kept: Sequence[Mapping]) -> pa.Table:
    """Sampled activations, one row a token: sample, position, token id, activation (list of float32 [n])."""
    schema = pa.schema(
        [
            ("sample", pa.int64()),
            ("position", pa.int64()),
            ("token", pa.int64()),
            ("activation", pa.list_(pa.float32())),
        ]
    )
    return pa.Table.from_pylist(list(kept), schema=schema)
