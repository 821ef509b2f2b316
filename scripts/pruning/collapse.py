"""Collapse point: the sparsity at which a method's accuracy has fallen halfway from the dense model's to chance.

The accuracy at sparsity s is taken to be  chance + (dense - chance) / (1 + exp((s - s0) / w)):  s0 is the collapse
point and w the width of the fall (9/10 to 1/10 of it take 4.4 w). Between measured sparsities, and more so before the
first, a point leans on this form: its interval covers the choice of items only. All are fractions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

from pruning.printing import Block, Cell, percent

# s0, and s0 / w: at least 3 makes the curve start near the dense accuracy, at most 50 keeps the fall from being a step.
BOUNDS = [(0.005, 1.2), (3.0, 50.0)]
START = np.stack(np.meshgrid(np.linspace(0.05, 1.2, 47), np.geomspace(3.0, 50.0, 8)), -1).reshape(-1, 2)
TINY = 1e-12  # keeps the likelihood finite where the curve touches 0 or 1


@dataclass(frozen=True)
class Collapse:
    """Collapse point with its interval, and the width of the fall, all in sparsity.

    An end of the interval beyond the largest measured sparsity is NaN. `censored`: the collapse point itself is beyond,
    then it and the width are NaN. Everything is NaN, and nothing censored, where dense is not above chance."""

    point: float
    low: float
    high: float
    width: float
    censored: bool


def accuracy(sparsity: ArrayLike, s0: float, width: float, dense: float, chance: float) -> NDArray[np.float64]:
    """The curve that is fitted."""
    return chance + (dense - chance) * expit((s0 - np.asarray(sparsity, dtype=float)) / width)


def fit(sparsities: ArrayLike, correct: ArrayLike, n: int, dense: float, chance: float) -> tuple[float, float]:
    """Binomial maximum-likelihood (s0, w) of the curve through `correct` of `n` items at each sparsity.

    Args: `sparsities`, `correct` of shape (sparsities,), ascending in (0, 1]; the dense accuracy is taken as known.
    Raises ValueError on fewer than two sparsities, impossible counts, or a dense accuracy not above chance."""
    sparsities, correct = np.asarray(sparsities, dtype=float), np.asarray(correct, dtype=float)
    _check_sparsities(sparsities)
    if correct.shape != sparsities.shape or n < 1 or not ((correct >= 0) & (correct <= n)).all():
        raise ValueError(f"expected {len(sparsities)} counts between 0 and n = {n}, got {correct.tolist()}")
    if not 0 <= chance < dense <= 1:
        raise ValueError(f"nothing to collapse from: dense accuracy {dense} must lie above chance, {chance}")
    return _fit(sparsities, correct / n, dense, chance)


def collapse(
    outcomes: ArrayLike,
    dense: ArrayLike,
    sparsities: ArrayLike,
    chance: float,
    confidence: float,
    resamples: int,
    seed: int,
) -> Collapse:
    """Collapse point of one method with a percentile bootstrap interval over items.

    Args: `outcomes` of shape (sparsities, items) and `dense` of shape (items,), 0 or 1: the same items everywhere,
    hence each resample is of whole items. Resamples whose dense accuracy is not above chance are left out. Where no
    measured sparsity lies within the fall (5 to 95% of it), the data say only between which two it happens: the point
    is then put midway and the interval reaches from the one (0 before the first) to the other.
    Raises ValueError on outcomes other than 0 and 1, unequal shapes, and arguments out of range.
    Source: Efron and Tibshirani (1993), "An introduction to the bootstrap", chapter 13.
    """
    outcomes, dense = np.asarray(outcomes, dtype=float), np.asarray(dense, dtype=float)
    sparsities = np.asarray(sparsities, dtype=float)
    _check_sparsities(sparsities)
    if dense.ndim != 1 or not len(dense) or outcomes.shape != (len(sparsities), len(dense)):
        raise ValueError(
            f"expected outcomes of {len(sparsities)} sparsities x items, got {outcomes.shape}, {dense.shape}"
        )
    if not (np.isin(outcomes, [0, 1]).all() and np.isin(dense, [0, 1]).all()):
        raise ValueError("outcomes must be 0 or 1")
    if not (0 < confidence < 1 and resamples > 0 and 0 <= chance < 1):
        raise ValueError(f"out of range: confidence {confidence}, resamples {resamples} or chance {chance}")
    if dense.mean() <= chance:
        return Collapse(np.nan, np.nan, np.nan, np.nan, False)
    s0, width = _fit(sparsities, outcomes.mean(1), dense.mean(), chance)
    n = len(dense)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n
    points = [
        _fit(sparsities, at_sparsities, at_zero, chance)[0]
        for at_sparsities, at_zero in zip(weights @ outcomes.T, weights @ dense, strict=True)
        if at_zero > chance
    ]
    # An order statistic, not an interpolation: beyond the last sparsity only "beyond" is known, not by how much.
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(points, tails, method="inverted_cdf") if points else (np.nan, np.nan)
    fallen = expit((sparsities - s0) / width)
    if not ((fallen > 0.05) & (fallen < 0.95)).any():
        edges = np.array([0.0, *sparsities, np.inf])
        after = np.searchsorted(edges, s0)
        low, high = min(low, edges[after - 1]), max(high, edges[after])
        s0 = edges[after - 1 : after + 1].mean()
    beyond = sparsities[-1]
    low, high = (float(end) if end <= beyond else np.nan for end in (low, high))
    if s0 > beyond:
        return Collapse(np.nan, low, high, np.nan, True)
    return Collapse(float(s0), low, high, width, False)


def layout(points: pd.DataFrame, accuracies: pd.DataFrame, settings: Mapping[str, Any]) -> list[Block]:
    """The rows of collapse.csv and accuracy.csv as tables, one a model and calibration; settings as of the stage."""
    sparsities = [f"{sparsity}%" for sparsity in sorted(settings["sparsities"])]
    chance, level = f"{100 * settings['chance']:g}", f"{100 * settings['confidence']:g}"
    blocks = []
    for (model, calib), of in points.groupby(["model", "calib"], sort=False):
        dense = Cell(*percent(of["dense"].iloc[0]), "")
        rows = [("dense", [Cell("–", ""), *[dense] * len(sparsities)])]
        measured = accuracies[(accuracies["model"] == model) & (accuracies["calib"] == calib)].set_index("method")
        for point in of.itertuples():
            values = percent(*measured.loc[point.method, "value"].iloc[1:])
            rows.append((f"`{point.method}`", [_cell(point, sparsities[-1]), *(Cell(value, "") for value in values)]))
        notes = [
            f"Collapse point: the sparsity in per cent at which accuracy has fallen halfway from dense to chance "
            f"({chance}%), from a logistic curve fitted by maximum likelihood, with a {level}% percentile bootstrap "
            f"interval over the test items. `> {sparsities[-1]}`: not reached within the sparsities measured.",
            f"Other columns: accuracy in per cent on {settings['title']} (`{settings['metric']}`, "
            f"n = {of['n'].iloc[0]:,} items, the same for all) at that sparsity, the share of FFN neurons removed; "
            "intervals are in accuracy.csv. dense is the unpruned model: one measurement, repeated.",
            "A point between measured sparsities, and more so before the first, leans on the curve's form. Where the "
            "whole fall lies between two of them, it is put midway and its interval reaches from one to the other.",
        ]
        title = f"`{model}`, calibrated on `{calib}`: {settings['title']}"
        blocks.append(Block(f"{model}-{calib}", title, [""], ["Collapse point", *sparsities], rows, notes))
    return blocks


def _cell(point: Any, last: str) -> Cell:
    """A collapse point with its interval; what lies beyond the last measured sparsity as `> 70%`."""
    if point.dense <= point.chance:
        return Cell("none", "")
    ends = point.collapse, point.ci_low, point.ci_high
    value, low, high = (f"> {last}" if np.isnan(end) else percent(end)[0] for end in ends)
    return Cell(value, "" if np.isnan(point.ci_low) else f"[{low}, {high}]")


def _fit(sparsities: NDArray, share: NDArray, dense: float, chance: float) -> tuple[float, float]:
    """(s0, w) for accuracies `share`: the best of a coarse grid, then L-BFGS-B from there in (s0, log(s0 / w))."""
    span = dense - chance

    def curve(s0: NDArray, steepness: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        z = steepness * (sparsities / s0 - 1)
        left = expit(-z)
        return z, left, np.clip(chance + span * left, TINY, 1 - TINY)

    def loss(p: NDArray) -> NDArray:
        return -(share * np.log(p) + (1 - share) * np.log1p(-p)).sum(-1)

    def objective(theta: NDArray) -> tuple[float, NDArray]:
        s0, steepness = theta[0], np.exp(theta[1])
        z, left, p = curve(s0, steepness)
        by_z = (share / p - (1 - share) / (1 - p)) * span * left * (1 - left)
        return loss(p), np.array([(by_z * -steepness * sparsities / s0**2).sum(), (by_z * z).sum()])

    best = START[loss(curve(START[:, :1], START[:, 1:])[2]).argmin()]
    found = minimize(
        objective,
        [best[0], np.log(best[1])],
        jac=True,
        method="L-BFGS-B",
        bounds=[BOUNDS[0], tuple(np.log(BOUNDS[1]))],
        options={"ftol": 1e-13, "gtol": 1e-8},
    )
    s0, steepness = float(found.x[0]), float(np.exp(found.x[1]))
    return s0, s0 / steepness


def _check_sparsities(sparsities: NDArray) -> None:
    if sparsities.ndim != 1 or len(sparsities) < 2 or not (np.diff(sparsities) > 0).all():
        raise ValueError(f"a collapse point needs two or more ascending sparsities, got {sparsities.tolist()}")
    if not (sparsities[0] > 0 and sparsities[-1] <= 1):
        raise ValueError(f"sparsities must be fractions in (0, 1], got {sparsities.tolist()}")
