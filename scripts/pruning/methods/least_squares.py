"""The change of a linear layer's weight that compensates for what its output misses, by ridge regression.

    min over D of Σ_t ‖e - D x‖² + λ ‖D‖²   gives   D = B (A + λ I)⁻¹,   A = Σ x xᵀ,   B = Σ e xᵀ

with x what the layer sees, e what is missing of the output that is wanted of it, and sums over tokens t: so the weight
is shrunk towards the present one, and nothing changes where nothing is missing. λ is chosen on held-out text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

LAMBDAS = (math.inf, 1e2, 1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4)
"""Candidates of λ, in units of A's mean diagonal, strongest first; inf leaves the weights as they are."""


@dataclass(frozen=True)
class Sums:
    """Of some tokens, in float64."""

    inner: np.ndarray  # A [k, k]
    outer: np.ndarray  # B [d, k]
    missing: float  # Σ ‖e‖²
    whole: float  # Σ ‖y‖² of the wanted output y, what errors are relative to

    @property
    def finite(self) -> bool:
        """Whether no token made a sum NaN or infinite."""
        return bool(np.isfinite([self.inner.trace(), self.outer.sum(), self.missing, self.whole]).all())

    def error(self, change: np.ndarray) -> float:
        """sqrt(Σ ‖e - D x‖² / Σ ‖y‖²)."""
        left = self.missing - 2 * np.vdot(change, self.outer) + squared_norm(change, self.inner)
        return math.sqrt(max(left, 0) / max(self.whole, 1e-30))  # rounding can take an error of nothing below 0


def fitted(fit: Sums, held_out: Sums) -> tuple[np.ndarray, dict[str, Any]]:
    """D [d, k] of all tokens, with the λ whose fit on the one part has the least error on the other that `lowest`
    finds, and no more than no change has; and a record of both."""

    @cache
    def error(relative: float) -> float:
        return held_out.error(changed(fit.inner, fit.outer, relative))

    chosen = min(lowest(LAMBDAS, error), LAMBDAS[0], key=error)  # a valley beside the least one may be above no change
    change = changed(fit.inner + held_out.inner, fit.outer + held_out.outer, chosen)
    return change, {
        "lambda": "inf" if chosen == math.inf else chosen,
        "held_out_error": error(chosen),
        "held_out_error_uncompensated": held_out.error(np.zeros_like(change)),
    }


def lowest(candidates: Sequence[float], error: Callable[[float], float]) -> float:
    """The candidate with the least error, the first of equals, by walking downhill from the middle, one way or else the
    other: the error falls and then rises as λ grows, and each candidate costs a factorisation."""
    at = middle = (len(candidates) - 1) // 2
    for step in (1, -1):
        while 0 <= at + step < len(candidates) and (error(candidates[at + step]), step) < (error(candidates[at]), 0):
            at += step
        if at != middle:
            break
    return candidates[at]


def changed(inner: np.ndarray, outer: np.ndarray, relative: float) -> np.ndarray:
    """D [d, k], λ in units of A's mean diagonal; zeros where it is infinite, or k is 0."""
    from scipy.linalg import cho_factor, cho_solve  # slow, and planning reads the compensations

    if relative == math.inf or not len(inner):
        return np.zeros_like(outer)
    penalised = inner.copy(order="F")  # LAPACK overwrites it in this order alone; scipy copies others
    penalised[np.diag_indices(len(inner))] += relative * inner.diagonal().mean() + 1e-30
    return cho_solve(cho_factor(penalised, overwrite_a=True), outer.T).T


def operations(inputs: float, outputs: float, kept: float) -> float:
    """Return about how many operations it takes to refit the kept columns of a weight [outputs, inputs]: sums, and four
    candidates of λ, each factorised, solved and, but for the last, held against held-out tokens."""
    sums = 4 * outputs * inputs * (inputs - kept)
    return sums + 4 * (kept**3 / 3 + 2 * outputs * kept**2) + 3 * 2 * outputs * kept**2


def squared_norm(weight: np.ndarray, moments: np.ndarray) -> float:
    """Σ_t ‖W a‖² = tr(W S Wᵀ)."""
    return float(np.vdot(weight @ moments, weight))
