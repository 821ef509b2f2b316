"""Singular value spectra of a layer's retained activations (the paper's Figure 1), and the rank measures they give.

Activations are those of the dense model, tokens x neurons, restricted to the columns of the kept neurons and not
centred. `values` are singular values, descending; energy is their square. A spectrum without energy (no neuron kept,
or none that is ever active) has every rank 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruning.core import artifacts, names
from pruning.methods import allocation
from pruning.methods.masks import rows as rows_of
from pruning.report.files import Files

# Rounding of a cumulative sum that stops just short of a share it reaches.
TOLERANCE = 1e-12
CURVE_POINTS = 400


def cumulative_energy(values: NDArray) -> NDArray[np.float64]:
    """Share of the squared Frobenius norm in the first 1, 2, ... directions, same shape as `values`."""
    energy = np.cumsum(np.square(values))
    return energy / energy[-1] if len(energy) and energy[-1] > 0 else np.zeros(len(energy))


def effective_rank(values: NDArray) -> float:
    """exp of the Shannon entropy of the singular values, normalised to sum 1: a real number from 1 to their count.

    Source: Roy and Vetterli (2007), "The effective rank: a measure of effective dimensionality"."""
    positive = values[values > 0]
    p = positive / positive.sum()
    return float(np.exp(-np.sum(p * np.log(p)))) if len(p) else 0.0


def stable_rank(values: NDArray) -> float:
    """Squared Frobenius norm over squared spectral norm.

    Source: Rudelson and Vershynin (2007), "Sampling from large matrices"; they call it numerical rank."""
    return float(np.sum(np.square(values / values[0]))) if len(values) and values[0] > 0 else 0.0


def energy_rank(values: NDArray, share: float) -> int:
    """Least number of directions that hold this share, in (0, 1], of the energy."""
    cumulative = cumulative_energy(values)
    return int(np.argmax(cumulative >= share - TOLERANCE)) + 1 if np.any(cumulative) else 0


def ranks(values: NDArray) -> dict[str, float]:
    """The measures of one spectrum that the summary holds."""
    return {
        "effective_rank": effective_rank(values),
        "stable_rank": stable_rank(values),
        "energy_90": energy_rank(values, 0.9),
        "energy_99": energy_rank(values, 0.99),
    }


def curve(values: NDArray, energy: NDArray) -> pd.DataFrame:
    """The spectrum to draw: index (from 1), singular_value, energy; at most CURVE_POINTS indices, thinned evenly in the
    logarithm, first and last among them."""
    index = np.arange(1, len(values) + 1)
    if len(index) > CURVE_POINTS:
        index = np.unique(np.geomspace(1, len(index), CURVE_POINTS).round().astype(int))
    return pd.DataFrame({"index": index, "singular_value": values[index - 1], "energy": energy[index - 1]})


def measure(activations: NDArray, choices: Sequence[NDArray]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Curve and ranks of activations [tokens, neurons], float64, restricted to each choice of neurons, all of one
    width; the mean over the choices, value by value."""
    spectra = [np.linalg.svd(activations[:, choice], compute_uv=False) for choice in choices]
    energy = np.mean([cumulative_energy(values) for values in spectra], axis=0)
    summary = pd.DataFrame([ranks(values) for values in spectra]).mean().to_dict()
    return curve(np.mean(spectra, axis=0), energy), summary


def random_choices(neurons: int, width: int, draws: int, seed: int) -> list[NDArray]:
    """`draws` random sets of `width` of a layer's neurons: what chance keeps."""
    return [np.random.default_rng((seed, draw)).choice(neurons, width, replace=False) for draw in range(draws)]


def write(files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write the spectrum (one row per method, width rule and index) and a summary (one per method and width rule).

    `width_rule` tells two comparisons apart: `own`, the neurons that the method's mask keeps (`dense`: all), whose
    number differs under global allocation; and `equal`, each method's best-scored neurons of the layer, as many as
    uniform allocation keeps (`dense`: the mean over `draws` random choices, what chance gives).

    Files: `activations`, of whose layer it is; `scores` and `masks` of the methods. Settings: `model`, `calib`,
    `methods`, `sparsity` (whole per cent), `draws` and `seed`."""
    path = files.one("activations")
    a = artifacts.read_table(path, "activations")["activation"]
    layer = artifacts.read_provenance(path)["settings"]["layer"]
    a = a.combine_chunks().flatten().to_numpy().reshape(len(a), -1).astype(np.float64)
    tokens, neurons = a.shape
    width = allocation.kept(neurons, settings["sparsity"])

    def of_layer(own: Path, kind: str, column: str) -> np.ndarray:
        frame = rows_of(own, kind)
        return frame.loc[frame["layer"] == layer, column].to_numpy()

    draws = random_choices(neurons, width, settings["draws"], settings["seed"])
    choices = {("dense", "own"): [np.arange(neurons)], ("dense", "equal"): draws}
    paths = files.all("scores"), files.all("masks")
    for method, scores, mask in zip(settings["methods"], *paths, strict=True):
        choices[method, "own"] = [of_layer(mask, "mask", "keep").nonzero()[0]]
        choices[method, "equal"] = [allocation.ranking(of_layer(scores, "scores", "score"))[:width]]
    curves, summaries = [], []
    shared = {"model": settings["model"], "calib": settings["calib"], "layer": layer}
    shared["sparsity"] = names.share(settings["sparsity"])
    for (method, rule), sets in choices.items():
        own, found = measure(a, sets)
        row = {**shared, "method": method, "width_rule": rule, "width": len(sets[0]), "tokens": tokens}
        curves.append(pd.DataFrame({**row, **own}, index=own.index))
        summaries.append({**row, **found})
    summary = pd.DataFrame(summaries)
    for output, frame in zip(outputs, (pd.concat(curves), summary), strict=True):
        artifacts.write_csv(output, frame, settings)
    print(summary.drop(columns=list(shared)).to_string(index=False))
