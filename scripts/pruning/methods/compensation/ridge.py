"""Ridge compensation: the kept columns of down_proj are refitted so that they also carry what the removed ones did.

Least squares on the dense model's activations a, shrunk towards the present weights W_k (k kept, r removed):

    min over W' of Σ_t ‖W a - W' a_k‖² + λ ‖W' - W_k‖²
    gives W' = W_k + D, D = W_r S[r,k] (S[k,k] + λ I)^-1, S = Σ_t a aᵀ

so that nothing changes where nothing is removed. λ is chosen on held-out calibration text; all sums in float64.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from pruning.calibration import second_moments
from pruning.methods.compensation import LAMBDAS, Compensated, too_few


def evidence(path: Path, widths: Sequence[int]) -> Callable[[int], dict[str, Any]]:
    """A layer's `fit` and `held_out` [n, n], with the token counts `tokens_fit` and `tokens_held_out`.

    `path`: the manifest second_moments.json, beside the directory second_moments/ with a file a layer."""
    return second_moments.read(path, widths)


def compensate(down: np.ndarray, keep: np.ndarray, evidence: Mapping[str, Any]) -> Compensated:
    """Refitted on all tokens with the λ whose fit on the one part has the least error on the held-out part."""
    fit, held_out, tokens = evidence["fit"], evidence["held_out"], evidence["tokens_fit"]
    errors = dict(zip(LAMBDAS, relative_errors(down, keep, changes(down, keep, fit, LAMBDAS), held_out), strict=True))
    chosen = min(errors, key=errors.get)  # the strongest of equals
    [change] = changes(down, keep, fit + held_out, [chosen])
    record = {
        "lambda": "inf" if chosen == math.inf else chosen,
        "held_out_error": errors[chosen],
        "held_out_error_uncompensated": errors[math.inf],
        **too_few(tokens, keep),
    }
    return Compensated((down[:, keep] + change).astype(np.float32), None, record)


def changes(down: np.ndarray, keep: np.ndarray, moments: np.ndarray, lambdas: Iterable[float]) -> Iterator[np.ndarray]:
    """D [d, k] in float64 for each relative λ; zeros where λ is infinite. moments: S, [n, n]."""
    inner = moments[np.ix_(keep, keep)].astype(np.float64)
    outer = down[:, ~keep].astype(np.float64) @ moments[np.ix_(~keep, keep)]
    diagonal = inner.diagonal().copy()
    for relative in lambdas:
        if relative == math.inf:
            yield np.zeros_like(outer)
            continue
        np.fill_diagonal(inner, diagonal + relative * diagonal.mean())
        yield cho_solve(cho_factor(inner), outer.T).T


def relative_errors(
    down: np.ndarray, keep: np.ndarray, every_change: Iterable[np.ndarray], moments: np.ndarray
) -> Iterator[float]:
    """sqrt(Σ_t ‖W a - W' a_k‖² / Σ_t ‖W a‖²) over the tokens of the moments S, for each change D.

    W a - W' a_k = W_r a_r - D a_k, thus the sum is tr(W_r S[r,r] W_rᵀ) - 2 tr(D S[k,r] W_rᵀ) + tr(D S[k,k] Dᵀ)."""
    removed = down[:, ~keep].astype(np.float64)
    inner = moments[np.ix_(keep, keep)].astype(np.float64)
    outer = removed @ moments[np.ix_(~keep, keep)]
    whole = squared_norm(down.astype(np.float64), moments)
    uncompensated = squared_norm(removed, moments[np.ix_(~keep, ~keep)])
    for change in every_change:
        error = uncompensated - 2 * np.vdot(change, outer) + squared_norm(change, inner)
        yield math.sqrt(max(error, 0) / whole)  # rounding can take an error of nothing below 0


def squared_norm(weight: np.ndarray, moments: np.ndarray) -> float:
    """Σ_t ‖W a‖² = tr(W S Wᵀ)."""
    return float(np.vdot(weight @ moments, weight))
