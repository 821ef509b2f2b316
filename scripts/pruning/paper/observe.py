"""Looking, not measuring: what figures show of single tokens. No score is made of it, so it has a pass of its own."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from pruning.calibration.columns import TOKEN_CLASSES, token_class_columns
from pruning.calibration.gradients import STAGE as STAGE
from pruning.calibration.gradients import Pass, counted_only
from pruning.calibration.prepare import Batch, Measurement, sampled_positions
from pruning.core import artifacts
from pruning.models import families
from pruning.paper import chosen
from pruning.paper.token_classes import classes_of, vocabulary_classes

KEYS = ("layer", "unit", "token_class")


class Observation(Pass):
    """Splits sums by the class of the token they come from, and keeps the activations of some tokens in one layer.

    vocabulary: class of each token id, int8 [V] (token_classes.py).
    keep: sample -> positions whose activations at `layer` are kept.
    objectives: whose gradients are split by class as well; a backward pass each.
    """

    def __init__(
        self, model: nn.Module, vocabulary: Tensor, layer: int, keep: Mapping[int, list[int]], objectives: Sequence[str]
    ):
        super().__init__(model, objectives, "ffn")
        self.vocabulary, self.layer, self.keep = vocabulary, layer, keep
        self.sums: list[dict[str, Tensor]] = [{} for _ in self.layers]  # [classes, n]
        self.tokens = torch.zeros(len(TOKEN_CLASSES), dtype=torch.float64)
        self.kept: list[dict] = []
        """Of each token: sample, position, token id, activation (float32 [n])."""

    def begin(self, batch: Batch) -> None:
        classes = classes_of(batch.ids.cpu(), self.vocabulary).long()
        one_hot = nn.functional.one_hot(classes, len(TOKEN_CLASSES)) * batch.counted.cpu().unsqueeze(-1)
        self.tokens += one_hot.sum((0, 1))
        self.one_hot = one_hot.transpose(1, 2).float()  # [B, classes, T]

    def take_activation(self, index: int, a: Tensor, counted: Tensor, routed: None) -> None:
        if index == self.layer:
            self._keep(a)
        a = counted_only(a, counted)
        self._add(index, {"act_abs_sum": a.abs(), "act_sq_sum": a.square()})

    def take_gradient(self, index: int, a: Tensor, g: Tensor, counted: Tensor, routed: None) -> None:
        self._add(index, {f"{self.objective}_abs_sum": (a.float() * g).abs()})

    def _add(self, index: int, measures: Mapping[str, Tensor]) -> None:
        """Split measures [B, T, n] by the tokens' classes: [B, classes, n] a sample."""
        parts = {name: self.one_hot.to(value.device) @ value for name, value in measures.items()}
        self.add(self.sums[index], parts, f"token classes of layer {index}")

    def _keep(self, a: Tensor) -> None:
        for row, sample in enumerate(self.batch.samples.tolist()):
            for position in self.keep.get(sample, ()):
                token = int(self.batch.ids[row, position])
                values = a[row, position].float().cpu().numpy()
                self.kept.append({"sample": sample, "position": position, "token": token, "activation": values})

    def class_frame(self) -> pd.DataFrame:
        """One row per neuron and token class, float64 columns of columns.py."""
        frames = []
        for index, sums in enumerate(self.sums):
            width = next(iter(sums.values())).shape[1]
            rows = {
                "layer": index,
                "unit": np.repeat(np.arange(width), len(TOKEN_CLASSES)),
                "token_class": np.tile(TOKEN_CLASSES, width),
                "n_tokens": np.tile(self.tokens.numpy(), width),
            }
            frames.append(pd.DataFrame({**rows, **{name: v.T.flatten().cpu().numpy() for name, v in sums.items()}}))
        return pd.concat(frames, ignore_index=True)[[*KEYS, *token_class_columns(self.objectives)]]


def measure(job: Measurement) -> None:
    """Write the activations of some tokens (one row per token), then sums by class (one row per neuron and class).

    Settings besides the calibration's: `tokens`, how many activations are kept; `layer` (null: the last but one), whose
    they are; `objectives`, whose gradients are split by class. Raises InputError if there is no such layer."""
    network, settings = job.network, job.settings
    layer = chosen(settings["layer"], len(families.decoder_layers(network)))
    vocabulary = vocabulary_classes(job.tokenizer, network.get_input_embeddings().num_embeddings)
    keep = sampled_positions(job.batches, settings["tokens"], settings["seed"])
    run = Observation(network, vocabulary, layer, keep, settings["objectives"])
    with run:
        run.run(job.progress(job.batches))
    activations, classes = job.outputs
    origin = {**settings, "layer": layer}
    artifacts.write_parquet(classes, run.class_frame(), "token_classes", origin)
    artifacts.write_parquet(activations, pa.Table.from_pylist(run.kept), "activations", origin)
