"""What each layer's width costs, measured: how far the model's next tokens are from the dense model's where that layer
has so many of its neurons left, or of its key-value groups,

    D(l, w) = mean over tokens t of KL(p_dense(. | before t) ‖ p_cut(. | before t))                       in nats

over the tokens that the calibration's objectives look at. `layers`: one layer is cut at a time, as in SPDY (Frantar &
Alistarh 2022, arXiv 2201.13096), whose widths are then found by dynamic programming (allocation/sensitivity.py).
`greedy`: all layers are cut in steps, each time the one whose step costs the present model least a neuron, so that what
layers do to each other is seen (allocation/greedy.py). A step hardly ever gets cheaper as the model gets worse, so what
it cost when it was last measured is taken for a bound from below: a layer is measured again only when it would be next
(accelerated greedy, Minoux 1978).

In a layer the best-scored neurons stay: removed ones are columns of zeros in down_proj, and removed groups in o_proj.
"""

import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pruning.calibration import footprint, layerwise
from pruning.calibration.prepare import Batch, Measurement, first_samples
from pruning.core import artifacts, layer_files
from pruning.core.errors import InputError
from pruning.methods import allocation, masks
from pruning.methods.allocation import levels, ranking
from pruning.methods.compensation import ridge
from pruning.models import families, head, structures
from pruning.models.checkpoint import Checkpoint

States = list[Tensor | None]  # Hidden states [B, T, d] of every micro-batch, on the CPU; None: the embeddings
Fit = Callable[[int, np.ndarray], Callable[[int], np.ndarray]]
"""Of a layer's number and its columns from best to worst: from how many stay to what is left of down_proj (or o_proj),
float32 [d, so many]."""


class Probe:
    """A model whose layers are cut, and how far its next tokens are from those of the model as it was."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        scores: Sequence[np.ndarray],
        least: Sequence[int],
        fit: Fit | None = None,
        structure: str = "ffn",
        kept: layer_files.Kept = layer_files.made,
    ):
        """scores: [units] a layer; least: its least width. fit: refits what is left. structure: whose units. kept: of
        the cuts of a layer, in the search `layers`.

        Raises InputError as layerwise.check and structures.sites do."""
        layerwise.check(model)
        self.model, self.batches, self.scores, self.least = model, batches, scores, least
        self.fit, self.kept = fit, kept
        self.sites, self.layers = structures.STRUCTURES[structure].sites(model), families.decoder_layers(model)
        self.widths = [len(own) for own in scores]
        self.layers_run = 0  # over all micro-batches
        self.start: States = [None] * len(batches)
        self.wanted = self.ends(0, self.start)

    @property
    def passes(self) -> float:
        """Forward passes over all micro-batches that were made, a part of the layers being a part of one."""
        return self.layers_run / len(self.layers)

    @torch.inference_mode()
    def weight(self, layer: int, width: int) -> Tensor:
        """down_proj [d, n] of a layer that has so many neurons left; of groups, o_proj [d, channels]."""
        site, order = self.sites[layer], ranking(self.scores[layer])
        each = site.in_features // len(order)
        order = (order[:, None] * each + np.arange(each)).ravel()
        kept = width * each
        columns = torch.from_numpy(order[:kept]).to(site.weight.device)
        cut = torch.zeros_like(site.weight)
        if self.fit is None:
            cut[:, columns] = site.weight[:, columns]
        else:
            cut[:, columns] = torch.from_numpy(self.fit(layer, order)(kept)).to(cut)
        return cut

    @torch.inference_mode()
    def divergences(self, layer: int, weights: Iterable[Tensor], states: States) -> np.ndarray:
        """D [weights], with each of these as the down_proj of a layer before which the hidden states are these."""
        own, site, ends = self.sites[layer].weight, self.sites[layer], []
        try:
            for weight in weights:
                site.weight = nn.Parameter(weight, requires_grad=False)
                ends.append(self.ends(layer, states))
                site.weight = own
        finally:
            site.weight = own
        each = zip(self.wanted, *ends, strict=True)
        apart = [head.divergences_of(self.model, end, wanted).double() for wanted, *end in each]
        found = torch.cat(apart, dim=1).mean(dim=1).cpu().numpy()
        if not np.isfinite(found).all():
            raise InputError(f"NaN or Inf with layer {layer} pruned: check the weights, or use a wider dtype")
        return found

    def cuts(self, layer: int, widths: Sequence[int], states: States) -> dict[str, Tensor]:
        """Of a layer with so many units left: `divergence` float64, and `layers_run` after it int64, [widths]."""
        found, run = np.zeros(len(widths)), np.zeros(len(widths), np.int64)
        for first in range(0, len(widths), footprint.AT_ONCE):
            some = slice(first, first + footprint.AT_ONCE)
            found[some] = self.divergences(layer, (self.weight(layer, width) for width in widths[some]), states)
            run[some] = self.layers_run
        return {"divergence": torch.from_numpy(found), "layers_run": torch.from_numpy(run)}

    @torch.inference_mode()
    def ends(self, layer: int, states: States) -> list[Tensor]:
        """What the head gets [tokens looked at, d], a micro-batch, of hidden states before a layer."""
        self.layers_run += len(self.layers) - layer
        ends = [layerwise.rest(self.model, layer, *pair) for pair in zip(self.batches, states, strict=True)]
        return [end[:, :-1][batch.objective[:, 1:]] for batch, end in zip(self.batches, ends, strict=True)]

    def after(self, layer: int, states: States) -> States:
        """Hidden states after a layer."""
        self.layers_run += 1
        pairs = zip(self.batches, states, strict=True)
        return [layerwise.run(self.model, self.layers[layer], *pair) for pair in pairs]


Row = tuple[int, int, float]  # Layer, width, divergence in nats


def layers(probe: Probe, progress: Callable = iter) -> Iterator[Row]:
    """Each layer at each of its levels, all others being whole."""
    states = probe.start
    for layer in progress(range(len(probe.layers))):
        left = levels(probe.widths[layer], probe.least[layer])
        found = probe.kept(layer, partial(probe.cuts, layer, left, states))
        for width, divergence, run in zip(
            left, found["divergence"].tolist(), found["layers_run"].tolist(), strict=True
        ):
            probe.layers_run = run
            yield layer, width, divergence
        states = probe.after(layer, states)


def greedy(probe: Probe, progress: Callable = iter, exact: bool = False) -> Iterator[Row]:
    """The layer that is cut next, what is left of it, and where the model then is; until all are at their least.

    exact: all layers are measured in every step, so that nothing is taken for a bound (benchmarks/greedy.py)."""
    left = [levels(*pair) for pair in zip(probe.widths, probe.least, strict=True)]
    widths, states, present = list(probe.widths), [probe.start], 0.0
    for layer in range(len(left) - 1):
        states.append(probe.after(layer, states[layer]))
    weights: dict[int, Tensor] = {}  # of each layer's next step
    rates = {layer: -math.inf for layer, own in enumerate(left) if own}  # nats a neuron, when last measured
    for _ in progress(range(sum(map(len, left)))):
        found: dict[int, float] = {}  # of the present model
        if exact:
            rates = dict.fromkeys(rates, -math.inf)
        while (chosen := min(rates, key=rates.get)) not in found:
            if chosen not in weights:
                weights[chosen] = probe.weight(chosen, left[chosen][0])  # of columns that are still as they were
            found[chosen] = float(probe.divergences(chosen, [weights[chosen]], states[chosen])[0])
            rates[chosen] = (found[chosen] - present) / (widths[chosen] - left[chosen][0])
        present, widths[chosen] = found[chosen], left[chosen].pop(0)
        probe.sites[chosen].weight = nn.Parameter(weights.pop(chosen), requires_grad=False)
        yield chosen, widths[chosen], present
        for layer in range(chosen, len(left) - 1):
            states[layer + 1] = probe.after(layer, states[layer])
        if not left[chosen]:
            del rates[chosen]


SEARCHES = {"layers": layers, "greedy": greedy}


STAGE = footprint.SENSITIVITY


def measure(job: Measurement) -> None:
    """Write one row per cut (layer, width, divergence, passes), in the order of the cuts; of several structures also
    which one is cut (structure).

    Settings: with `probed`, the first samples, which are looked at; `search` (a key of SEARCHES); `min_keep`, or
    `drop_layers` in its place. Evidence: `scores`, by which neurons of a layer stay; manifests of the second moments of
    structures where what is left is refitted. Cuts of a layer are kept for a run after a kill, those of `layers`."""
    settings, base, rows, passes = job.settings, Checkpoint(job.model), [], 0.0
    scores = artifacts.read_parquet(job.evidence["scores"], "scores")
    original = artifacts.read_json(job.model / "manifest.json", "base")["original"]["widths"]
    batches, search = first_samples(job.batches, settings["probed"]), settings["search"]

    def least_of(name: str) -> Sequence[int]:
        if name == masks.NEURONS:
            return allocation.least(original, base.widths, settings.get("min_keep"))
        return [0 if settings.get("drop_layers") else 1] * base.layers

    def fit_of(name: str) -> Fit | None:
        if (kind := layer_files.kind_of("second_moments", name)) not in job.evidence:
            return None
        of_layer = layer_files.read(job.evidence[kind], kind, base.channels(name))[0]
        strengths, last = {}, {}

        def fit(layer: int, order: np.ndarray) -> Callable[[int], np.ndarray]:
            if layer not in last:  # the cut after a layer's is mostly one of the same layer
                last.clear()
                own = base.matrix(layer, "down", name), order, of_layer(layer)
                strengths[layer] = strengths.get(layer) or ridge.strength(*own)
                last[layer] = ridge.nested(*own, strengths[layer])
            return last[layer]

        return fit

    structures, unfinished = masks.structures_of(scores), job.unfinished(*job.evidence.values())
    for name in structures:
        ranked = masks.by_layer(masks.of(scores, name), "score", base.layers)
        kept = partial(layer_files.kept_or_made, unfinished / name)
        probe = Probe(job.network, batches, ranked, least_of(name), fit_of(name), name, kept)
        bar = partial(job.progress, desc=f"{search}, {name}")
        rows += [(*row, passes + probe.passes, name) for row in SEARCHES[search](probe, bar)]
        passes += probe.passes
    found = pd.DataFrame(rows, columns=["layer", "width", "divergence", "passes", "structure"])
    found = found if len(structures) > 1 else found.drop(columns="structure")
    artifacts.write_parquet(job.outputs[0], found, "sensitivity", settings)
    shutil.rmtree(unfinished, ignore_errors=True)  # there is none of `greedy`
    samples = sum(len(batch.samples) for batch in batches)
    print(f"{len(found)} cuts of {base.layers} layers: {passes:.1f} forward passes over {samples} samples")
