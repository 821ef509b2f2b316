"""Refits in a model that is pruned layer by layer, on what it then sees: what comes out of the layers before a layer is
the pruned model's own.

    min over W' of Σ_t ‖y - W' x‖² + λ ‖W' - W‖²                (least_squares.py, with e = y - W x)

with sums over tokens t, those of the answer counting more where the calibration tells them apart
(CONTEXT_TOKEN_WEIGHT), and those of a large norm less (MAX_NORM_RATIO). x are the kept neurons' activations, W the kept
columns of down_proj. `sequential`: y is the dense FFN's output. `corrective`: y is what takes the residual stream to
the dense model's, so that a layer makes up for those before it (as in OBC's sequential correction, Frantar & Alistarh
2022, arXiv 2208.11580). What else a corrective scheme refits (its REFITS; of `attention` the output projection of
attention) is refitted before the FFN in the same way, x being what the units of that structure put out. A scheme that
TRAINS goes on from there with all matrices of the layer (training.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pruning.calibration import footprint, layerwise
from pruning.calibration.gram import Gram, add, wide_zeros
from pruning.calibration.prepare import Batch, Measurement
from pruning.calibration.second_moments import PARTS, parts, token_counts
from pruning.core import layer_files, memory
from pruning.core.errors import InputError
from pruning.core.layer_files import label_of
from pruning.methods import compensation, least_squares, masks, training
from pruning.models import families
from pruning.models.structures import STRUCTURES, ffn
from pruning.models.structures.base import Keeps

CONTEXT_TOKEN_WEIGHT = 0.25
"""What a token counts that the objectives do not look at (`token_mask: answer`), against one that they do: the later
layers' attention needs those as well."""
MAX_NORM_RATIO = 10.0
"""A token whose residual stream is larger than so many times the median (mean squares) counts as if it were so large:
all that follows reads the stream through a norm, and in plain squares the first token of a model like Qwen2.5, which is
thousands of times as large as the others, would be all that is fitted."""


STAGE = footprint.REFIT


def measure(job: Measurement) -> None:
    """Write a manifest with token counts and `records`, and one file per layer of what is left of one pruned variant,
    fitted on what it sees itself. Layers that are fitted are kept for a run after a kill. Settings: with the `scheme`,
    and where that trains `training`, how. Evidence: the `mask`."""
    keeps, manifest = masks.read(job.evidence["mask"], job.model), job.outputs[0]
    widths, records = masks.counts(keeps)[masks.NEURONS], []
    content = {**token_counts(job.batches), "layers": len(widths), "widths": widths, "records": records}
    unfinished = job.unfinished(job.evidence["mask"])
    progress, known = partial(job.progress, desc="layers"), partial(layer_files.kept, unfinished)
    scheme, plan = job.settings["scheme"], job.settings.get("training")
    for layer, (weights, record) in enumerate(refit(job.network, job.batches, keeps, scheme, progress, known, plan)):
        records.append(record)
        layer_files.keep(unfinished, layer, weights, record)
        weights.clear()  # the loop holds on to the dict while the next layer's are made
    layer_files.write_kept(manifest, "refit", job.settings, content, unfinished)


NOT_FINITE = "NaN or Inf after layer {}: check the weights, or use a wider dtype"


def refit(
    model: nn.Module,
    batches: Sequence[Batch],
    keeps: Keeps,
    scheme: str,
    progress: Callable = iter,
    known: Callable[[int], tuple[dict[str, Tensor], dict[str, Any]] | None] = lambda _: None,
    plan: Mapping[str, Any] | None = None,
) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Yield (float32 weights, record) of one layer after the other: `down` [d, k] and those of other structures
    [d, channels] by layer_files.label_of, and where the scheme TRAINS all other matrices by their names. scheme: a
    file of methods/compensation, without its `ridge_`.

    The model, dense at first, is cut and refitted as it goes. known: gives what an earlier run has yielded of a layer,
    which is then taken as it is. plan: of a scheme that TRAINS, its `epochs`, and its `rates`, which the first layer
    tries; each other takes that of the layer before, or the last of them where it did not gain. record: of each weight
    `lambda`, `held_out_error` and `held_out_error_uncompensated`, both the root of Σ‖y - W' x‖² over Σ‖y‖²; of a layer
    that is trained what training.trained says, as `layer`. Raises InputError as layerwise.check does, and for a
    corrective scheme as families.check_plain_residual does."""
    layerwise.check(model)
    compensate = f"ridge_{scheme}"
    if corrective := compensation.corrective(compensate):
        where = f"compensate: {compensate}"
        families.check_plain_residual(model.config.to_dict(), where, "`compensate: ridge_sequential`")
    family, layers, sites = families.of(model), families.decoder_layers(model), ffn.sites(model)
    own = reversed(compensation.refits(compensate))  # FFN neurons, the first of them, at the end
    modules = {label_of(name): STRUCTURES[name].site(family) for name in own}
    labels = {f"{site}.weight": label for label, site in modules.items()}
    dense: list[Tensor | None] = [None] * len(batches)  # hidden states [B, T, d] before the layer, on the CPU
    pruned: list[Tensor | None] = [None] * len(batches)
    rates = plan["rates"] if plan else ()
    for index in progress(range(len(layers))):
        layer, down, outputs = layers[index], sites[index], []
        for number, batch in enumerate(batches):
            found: list[Tensor] = []
            dense[number] = layerwise.run(model, layer, batch, dense[number], {down: _keeping(found)})
            outputs.append(found[1])
        counts = weights_of(dense, batches)
        inputs, streams = [], []  # of down_proj, and what its output is added to, which spare a CPU a run of the layer
        spared = corrective and not plan and down.weight.device.type == "cpu"
        for structure, own_keeps in keeps.items():
            STRUCTURES[structure].shrink(layer, index, own_keeps, family)
        weights, records = known(index) or ({}, {})
        done = set(weights)
        layer.load_state_dict({name: weights[name] for name in done - modules.keys()}, strict=False)
        for label, site in modules.items():
            module = layer.get_submodule(site)
            later = [] if module is down else [layer.get_submodule(family.ffn)]
            fits, spares = label not in done, spared and module is down
            sums = {part: Running(module) for part in PARTS}
            for number, batch in enumerate(batches if fits or spares else ()):
                own: list[Tensor] = []
                with layerwise.idle(later, layerwise.nothing):
                    after = layerwise.run(model, layer, batch, pruned[number], {module: _keeping(own)})
                x, y = own
                if spares:
                    inputs.append(x)
                    streams.append(after.float() - y.float())
                if not fits:
                    continue
                if not corrective:
                    target, present = outputs[number].float(), y.float()
                else:
                    target, present = dense[number].float(), after.float()
                    if module is not down:
                        target = target - outputs[number].float()
                missing, weight = target - present, counts[number]
                for part, rows in parts(batch).items():
                    sums[part].add(x[rows], missing[rows], target[rows], weight[rows])
            if fits:
                parts_of = [own.sums() for own in sums.values()]
                if not all(own.finite for own in parts_of):
                    raise InputError(NOT_FINITE.format(index))
                change, records[label] = least_squares.fitted(*parts_of)
                weights[label] = module.weight.float().cpu() + torch.from_numpy(change).float()
            with torch.no_grad():
                module.weight.copy_(weights[label])
        if plan and not done:
            fit, held = training.pieces(batches, pruned, dense, counts)
            found, records["layer"] = training.trained(model, layer, fit, held, plan["epochs"], rates, index)
            weights = {labels.get(name, name): weight for name, weight in found.items()}
        if "layer" in records:
            rates = [records["layer"]["rate"] or plan["rates"][-1]]
        for number, batch in enumerate(batches):
            if inputs:
                with torch.inference_mode():
                    pruned[number] = (streams[number] + down(inputs[number]).float()).to(inputs[number].dtype)
            else:
                pruned[number] = layerwise.run(model, layer, batch, pruned[number])
        inputs, streams, outputs = [], [], []
        memory.give_back()
        if not all(bool(torch.isfinite(hidden).all()) for hidden in pruned):
            raise InputError(NOT_FINITE.format(index))
        yield weights, records


def weights_of(hidden: Sequence[Tensor], batches: Sequence[Batch]) -> list[Tensor]:
    """How much each token counts, float32 [B, T] a batch; hidden: the dense model's residual stream, [B, T, d]."""
    sizes = [each.float().square().mean(-1) for each in hidden]
    counted = torch.cat([each[batch.counted] for each, batch in zip(sizes, batches, strict=True)])
    most = MAX_NORM_RATIO * counted.median()
    return [
        torch.where(batch.objective, 1.0, CONTEXT_TOKEN_WEIGHT) * (most / each.clamp_min(most))
        for each, batch in zip(sizes, batches, strict=True)
    ]


def _keeping(found: list[Tensor]) -> Callable[[Tensor, Tensor], None]:
    return lambda x, y: found.extend((x.cpu(), y.cpu()))


class Running:
    """Sums over some tokens (least_squares.Sums) on the weights' device: products within a micro-batch in float32, sums
    over micro-batches in float64 (float32 on a GPU; gram.py)."""

    def __init__(self, module: nn.Linear):
        device, (outputs, inputs) = module.weight.device, module.weight.shape
        self.inner, self.outer = Gram(device, inputs), wide_zeros(device, outputs, inputs)
        self.missing = self.whole = 0.0

    def add(self, x: Tensor, missing: Tensor, target: Tensor, weight: Tensor) -> None:
        """x [tokens, k], what is missing of the target with the present weights, and the target, [tokens, d]; how much
        a token counts, [tokens]."""
        if not len(x):
            return
        root = weight.sqrt()[:, None]
        x, missing, target = ((root * rows.float()).to(self.outer.device) for rows in (x, missing, target))
        self.inner.add(x)
        add(self.outer, missing.T @ x)
        self.missing += float(missing.square().sum())
        self.whole += float(target.square().sum())

    def sums(self) -> least_squares.Sums:
        inner, outer = (each.double().cpu().numpy() for each in (self.inner.whole(), self.outer))
        return least_squares.Sums(inner, outer, self.missing, self.whole)
