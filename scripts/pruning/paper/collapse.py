"""Collapse point: the sparsity at which a method's accuracy has fallen halfway from the dense model's to chance.

The accuracy at sparsity s is taken to be  chance + (dense - chance) / (1 + exp((s - s0) / w)):  s0 is the collapse
point and w the width of the fall (9/10 to 1/10 of it take 4.4 w). Between measured sparsities, and more so before the
first, a point leans on this form: its interval covers the choice of items only. All are fractions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit

from pruning.analysis import comparison
from pruning.core import artifacts, names, significance
from pruning.core.names import DENSE, Variant
from pruning.report.files import Files

# s0, and s0 / w: at least 3 makes the curve start near the dense accuracy, at most 50 keeps the fall from being a step.
BOUNDS = [(0.005, 1.2), (3.0, 50.0)]
START = np.stack(np.meshgrid(np.linspace(0.05, 1.2, 47), np.geomspace(3.0, 50.0, 8)), -1).reshape(-1, 2)
COMPARED = ["delta", "delta_low", "delta_high", "p_value", "p_cluster"]
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
    draws: NDArray = field(repr=False, compare=False)
    """[resamples, 2]: between which sparsities the point of each resample lies; the same if the data say where."""
    left_out: NDArray | None = field(repr=False, compare=False)  # [clusters, 2]: the same without each cluster in turn


def accuracy(sparsity: ArrayLike, s0: float, width: float, dense: float, chance: float) -> NDArray[np.float64]:
    """The curve that is fitted."""
    return chance + (dense - chance) * expit((s0 - np.asarray(sparsity, dtype=float)) / width)


def collapse(
    outcomes: ArrayLike,
    dense: ArrayLike,
    sparsities: ArrayLike,
    chance: float,
    confidence: float,
    resamples: int,
    seed: int,
    clusters: ArrayLike | None = None,
) -> Collapse:
    """Collapse point of one method with a percentile bootstrap interval over items.

    Args: `outcomes` of shape (sparsities, items) and `dense` of shape (items,), 0 or 1: the same items everywhere,
    hence each resample is of whole items. Resamples whose dense accuracy is not above chance are left out. Where no
    measured sparsity lies within the fall (5 to 95% of it), the data say only between which two it happens: the point
    is then put midway and the interval reaches from the one (0 before the first) to the other. `clusters` of shape
    (items,), equal labels in a cluster, is for `compare` alone.
    Source: Efron and Tibshirani (1993), "An introduction to the bootstrap", chapter 13.
    """
    outcomes, dense = np.asarray(outcomes, dtype=float), np.asarray(dense, dtype=float)
    sparsities = np.asarray(sparsities, dtype=float)
    if dense.mean() <= chance:
        none = np.empty((0, 2))
        return Collapse(np.nan, np.nan, np.nan, np.nan, False, none, none)
    s0, width = fit(sparsities, outcomes.mean(1), dense.mean(), chance)
    n = len(dense)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n
    draws = _bounds(outcomes, dense, sparsities, chance, weights)
    left_out = None if clusters is None else _bounds(outcomes, dense, sparsities, chance, _without_each(clusters))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = _quantiles(draws[:, 0], draws[:, 1], tails)
    start, end = _between(s0, width, sparsities)
    if start < s0 < end <= sparsities[-1]:
        s0 = (start + end) / 2
    low, high = min(low, start), max(high, end)
    found = {"low": float(low), "high": _known(high), "draws": draws, "left_out": left_out}
    if s0 > sparsities[-1]:
        return Collapse(point=np.nan, width=np.nan, censored=True, **found)
    return Collapse(point=float(s0), width=width, censored=False, **found)


def compare(ours: Collapse, reference: Collapse, confidence: float) -> dict[str, float]:
    """Difference of two methods' collapse points on the same items, tested: {delta, delta_low, delta_high, p_value,
    p_cluster}, in sparsity, positive where ours collapses later.

    Both must come of `collapse` with the same items, clusters, resamples and seed. p_value is the two-sided bootstrap p
    of the order, over items: twice the smaller share of resamples in which one method does not for certain collapse
    later, or earlier, with one added to both, so that it is never 0. p_cluster (NaN without clusters) is of a t-test
    over clusters, the error being the delete-one-cluster jackknife's. Where data say only between which sparsities a
    point lies, neither order is for certain unless these do not overlap. NaN: beyond what was measured.
    Source: Davison and Hinkley (1997), "Bootstrap methods and their application", section 4.4; Shao and Tu (1995),
    "The jackknife and bootstrap", section 2.3.
    """
    a, b = (found.draws[~np.isnan(found.draws[:, 0])] for found in (ours, reference))
    if not len(a) or len(a) != len(b):
        return dict.fromkeys(COMPARED, np.nan)
    low, high = _quantiles(a[:, 0] - b[:, 1], a[:, 1] - b[:, 0], [(1 - confidence) / 2, (1 + confidence) / 2])
    not_later, not_earlier = int(np.sum(a[:, 0] <= b[:, 1])), int(np.sum(a[:, 1] >= b[:, 0]))
    p = min(1.0, 2 * (1 + min(not_later, not_earlier)) / (1 + len(a)))
    found = {"delta": ours.point - reference.point, "delta_low": _known(low), "delta_high": _known(high)}
    return found | {"p_value": p, "p_cluster": _jackknife_p(ours.left_out, reference.left_out)}


def compared(
    rows: Mapping[str, dict[str, Any]], found: Mapping[str, Collapse], reference: str, confidence: float
) -> list[dict[str, Any]]:
    """Methods' rows with `compare`'s columns added for all but the reference, and both p after Holm over these."""
    added = {method: {"reference": None, **dict.fromkeys(COMPARED, np.nan)} for method in rows}
    for method in rows:
        if method != reference:
            added[method] = {"reference": reference, **compare(found[method], found[reference], confidence)}
    holm, by_cluster = (significance.holm([new[p] for new in added.values()]) for p in ("p_value", "p_cluster"))
    return [
        {**row, **added[method], "p_holm": p, "p_cluster_holm": q}
        for (method, row), p, q in zip(rows.items(), holm, by_cluster, strict=True)
    ]


def _bounds(
    outcomes: NDArray, dense: NDArray, sparsities: NDArray, chance: float, weights: NDArray
) -> NDArray[np.float64]:
    """[rows of weights, 2]: between which sparsities the collapse point lies with the items so weighted (NaN where
    dense is not above chance)."""
    bounds = np.full((len(weights), 2), np.nan)
    for i, (at_sparsities, at_zero) in enumerate(zip(weights @ outcomes.T, weights @ dense, strict=True)):
        if at_zero > chance:
            bounds[i] = _between(*fit(sparsities, at_sparsities, at_zero, chance), sparsities)
    return bounds


def _between(s0: float, width: float, sparsities: NDArray) -> tuple[float, float]:
    """Between which sparsities the data put the fall of a fitted curve: s0 itself where they show it; the measured
    sparsities around it where none lies within the fall; beyond the last, only that it is beyond."""
    fallen = expit((sparsities - s0) / width)
    if s0 > sparsities[-1] or not ((fallen > 0.05) & (fallen < 0.95)).any():
        edges = np.array([0.0, *sparsities, np.inf])
        after = np.searchsorted(edges, s0)
        return edges[after - 1], edges[after]
    return s0, s0


def _quantiles(low: NDArray, high: NDArray, tails: Sequence[float]) -> tuple[float, float]:
    """Order statistics, no interpolation: beyond the last sparsity only "beyond" is known, not by how much."""
    low, high = (values[~np.isnan(values)] for values in (low, high))
    if not len(low):
        return np.nan, np.nan
    return tuple(np.quantile(v, t, method="inverted_cdf") for v, t in zip((low, high), tails, strict=True))


def _known(end: float) -> float:
    return float(end) if np.isfinite(end) else np.nan


def _without_each(clusters: ArrayLike) -> NDArray[np.float64]:
    """[clusters, items]: weights that leave out one cluster each."""
    codes = pd.Series(clusters).factorize()[0]
    kept = (codes != np.arange(codes.max() + 1)[:, None]).astype(float)
    return kept / np.maximum(kept.sum(1, keepdims=True), 1)


def _jackknife_p(ours: NDArray | None, reference: NDArray | None) -> float:
    """Two-sided p of the order of two points, from where they lie without each cluster in turn.

    Either order is tested from the ends that speak least for it, at the mean of the jackknife (the full sample's
    difference, to first order)."""
    if ours is None or reference is None or len(ours) < 2 or np.isnan(ours).any() or np.isnan(reference).any():
        return np.nan
    tails = []
    for gap in (ours[:, 0] - reference[:, 1], reference[:, 0] - ours[:, 1]):
        if np.isfinite(gap).all() and gap.mean() > 0:
            error = gap.std() * np.sqrt(len(gap) - 1)
            tails.append(float(stats.t.sf(gap.mean() / error, len(gap) - 1)) if error > 0 else 0.0)
    return min(1.0, 2 * min(tails, default=0.5))


def fit(sparsities: NDArray, share: NDArray, dense: float, chance: float) -> tuple[float, float]:
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


def write(files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write collapse.csv, one row per model, calibration and method (NaN: beyond the largest measured sparsity) with
    the difference from the reference's point and its tests; and accuracy.csv, the accuracies that the fits go through,
    the dense one as sparsity 0; sparsities and accuracies are fractions in both.

    Files: `samples`, a template. Settings: `models`, `calib`, `methods`, `sparsities` (whole per cent), `task`,
    `metric`, `reference` (a method), and those of `collapse`. Raises InputError for outcomes that are not whole or of
    other items."""
    task, metric, sparsities = settings["task"], settings["metric"], sorted({*settings["sparsities"]})

    def outcomes(model: str, variant: Variant) -> pd.DataFrame:
        return comparison.outcomes_of(
            files.samples(model, variant, task), f"{model}/{variant}", task, metric, "accuracy"
        )

    points, accuracies, calib = [], [], settings["calib"]
    for model in settings["models"]:
        dense, found, rows = outcomes(model, DENSE), {}, {}
        for method in settings["methods"]:
            variants = [Variant(calib, method, sparsity) for sparsity in sparsities]
            measured = {DENSE: dense, **{variant: outcomes(model, variant) for variant in variants}}
            comparison.same_items({f"{model}/{variant}": own for variant, own in measured.items()}, task)
            row, shared = {"model": model, "calib": calib, "method": method}, {"task": task, "metric": metric}
            for variant, own in measured.items():
                value = comparison.measure(own, "accuracy", settings)
                accuracies.append({**row, "sparsity": names.share(variant.sparsity), **shared, **value})
            values = np.stack([own["value"] for own in measured.values()])
            fractions, clusters = names.share(np.array(sparsities)), comparison.clusters_of(dense)
            level = (settings[key] for key in ("chance", "confidence", "resamples", "seed"))
            fit = collapse(values[1:], values[0], fractions, *level, clusters)
            row |= {**shared, **{key: accuracies[-1][key] for key in ("n", "clusters")}}
            row |= {"dense": values[0].mean(), "chance": settings["chance"]}
            row |= {"collapse": fit.point, "ci_low": fit.low, "ci_high": fit.high, "width": fit.width}
            found[method], rows[method] = fit, {**row, "censored": fit.censored}
        points += compared(rows, found, settings["reference"], settings["confidence"])
    found = pd.DataFrame(points).astype({"clusters": "Int64"})
    for path, frame in zip(outputs, (found, pd.DataFrame(accuracies).drop(columns="clusters")), strict=True):
        artifacts.write_csv(path, frame, settings)
    shown = ["model", "calib", "method", "collapse", "ci_low", "ci_high", "delta", "p_holm"]
    print(found[shown].to_string(index=False))
