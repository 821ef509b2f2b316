"""Ridge compensation: the kept columns of down_proj are refitted so that they also carry what the removed ones did.

Least squares on the dense model's activations a, shrunk towards the present weights W_k (k kept, r removed):

    min over W' of Σ_t ‖W a - W' a_k‖² + λ ‖W' - W_k‖²
    gives W' = W_k + D, D = W_r S[r,k] (S[k,k] + λ I)^-1, S = Σ_t a aᵀ

so that nothing changes where nothing is removed (least_squares.py, with x = a_k and e = W_r a_r). All sums in float64.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruning.core import layer_files
from pruning.methods.compensation import Compensated, too_few
from pruning.methods.least_squares import Sums, fitted, operations, squared_norm

REQUIRES = ("second_moments",)
REFITS = ("ffn",)
PARTS = ("fit", "held_out")


def evidence(path: Path, widths: Sequence[int]) -> Callable[[int], dict[str, Any]]:
    """A layer's `fit` and `held_out` [n, n], with the token counts `tokens_fit` and `tokens_held_out`.

    `path`: the manifest second_moments.json, beside the directory second_moments/ with one file per layer."""
    return layer_files.read(path, "second_moments", widths)[0]


def compensate(down: np.ndarray, keep: np.ndarray, evidence: Mapping[str, Any]) -> Compensated:
    """Refitted on all tokens with the λ whose fit on the one part has the least error on the held-out part."""
    change, record = fitted(*(sums(down, keep, evidence[part]) for part in PARTS))
    record |= too_few(evidence["tokens_fit"], keep)
    return Compensated((down[:, keep] + change).astype(np.float32), None, record)


def strength(down: np.ndarray, order: np.ndarray, evidence: Mapping[str, Any]) -> float:
    """λ in units of S's mean diagonal, as `compensate` chooses it where the first half of the columns stays."""
    return float(compensate(down, _half(order), evidence).record["lambda"])


def nested(
    down: np.ndarray, order: np.ndarray, evidence: Mapping[str, Any], relative: float
) -> Callable[[int], np.ndarray]:
    """A function from k to down_proj refitted to its first k columns in this order, float32 [d, k], with one λ and so
    from one factorisation: with S + λ I = L Lᵀ in that order,

        W' = W (S + λ I)[:, :k] (S[:k, :k] + λ I)^-1 = (W L)[:, :k] L[:k, :k]^-1

    relative: λ in units of the mean diagonal of the first half's S."""
    from scipy.linalg import cholesky, solve_triangular  # slow, as in least_squares.py

    if relative == math.inf:
        return lambda kept: down[:, order[:kept]]
    moments = np.add(*(evidence[part] for part in PARTS), dtype=np.float64)
    penalty = relative * moments.diagonal()[_half(order)].mean() + 1e-30
    moments = moments[np.ix_(order, order)]
    moments[np.diag_indices(len(order))] += penalty
    lower = cholesky(moments, lower=True, overwrite_a=True)
    product = down[:, order].astype(np.float64) @ lower

    def refitted(kept: int) -> np.ndarray:
        solved = solve_triangular(lower[:kept, :kept], product[:, :kept].T, lower=True, trans="T")
        return solved.T.astype(np.float32)

    return refitted


def _half(order: np.ndarray) -> np.ndarray:
    """Keep of the first half of the columns in this order, rounded up, bool [n]."""
    keep = np.zeros(len(order), dtype=bool)
    keep[order[: (len(order) + 1) // 2]] = True
    return keep


def nested_operations(inputs: int, outputs: int, widths: Sequence[float], factorised: int) -> float:
    """Return about how many operations `strength` and `nested` take for a weight [outputs, inputs]: refitted to each of
    these numbers of columns, and factorised so many times."""
    factor = inputs**3 / 3 + outputs * inputs**2
    return operations(inputs, outputs, inputs / 2) + factorised * factor + outputs * sum(kept**2 for kept in widths)


def sums(down: np.ndarray, keep: np.ndarray, moments: np.ndarray) -> Sums:
    """Of the tokens of the moments S [n, n]."""
    removed = down[:, ~keep].astype(np.float64)
    return Sums(
        inner=moments[np.ix_(keep, keep)].astype(np.float64),
        outer=removed @ moments[np.ix_(~keep, keep)],
        missing=squared_norm(removed, moments[np.ix_(~keep, ~keep)]),
        whole=squared_norm(down.astype(np.float64), moments),
    )
