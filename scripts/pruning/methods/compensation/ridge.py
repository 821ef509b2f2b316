"""Ridge compensation: the kept columns of down_proj are refitted so that they also carry what the removed ones did.

Least squares on the dense model's activations a, shrunk towards the present weights W_k (k kept, r removed):

    min over W' of Σ_t ‖W a - W' a_k‖² + λ ‖W' - W_k‖²
    gives W' = W_k + D, D = W_r S[r,k] (S[k,k] + λ I)^-1, S = Σ_t a aᵀ

so that nothing changes where nothing is removed (least_squares.py, with x = a_k and e = W_r a_r). All sums in float64.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruning.methods.compensation import Compensated, too_few
from pruning.methods.least_squares import Sums, fitted, squared_norm

REQUIRES = ("second_moments",)
REFITS = ("ffn",)
PARTS = ("fit", "held_out")


def evidence(path: Path, widths: Sequence[int]) -> Callable[[int], dict[str, Any]]:
    """A layer's `fit` and `held_out` [n, n], with the token counts `tokens_fit` and `tokens_held_out`.

    `path`: the manifest second_moments.json, beside the directory second_moments/ with one file per layer."""
    from pruning.calibration import second_moments  # torch is slow, and every start of snakemake reads REQUIRES

    return second_moments.read(path, widths)


def compensate(
    down: np.ndarray, keep: np.ndarray, evidence: Mapping[str, Any], outputs: Mapping[str, float] | None = None
) -> Compensated:
    """Refitted on all tokens with the λ whose fit on the one part has the least error on the held-out part. outputs: of
    each of PARTS, Σ ‖W a‖², which is the same for all that may be kept; None: it is computed."""
    outputs = outputs or outputs_of(down, evidence)
    change, record = fitted(*(sums(down, keep, evidence[part], outputs[part]) for part in PARTS))
    record |= too_few(evidence["tokens_fit"], keep)
    return Compensated((down[:, keep] + change).astype(np.float32), None, record)


def outputs_of(down: np.ndarray, evidence: Mapping[str, Any]) -> dict[str, float]:
    """Σ ‖W a‖² of the tokens of each of PARTS."""
    return {part: squared_norm(down.astype(np.float64), evidence[part]) for part in PARTS}


def sums(down: np.ndarray, keep: np.ndarray, moments: np.ndarray, outputs: float) -> Sums:
    """Of the tokens of the moments S [n, n], whose outputs' squares have this sum."""
    removed = down[:, ~keep].astype(np.float64)
    return Sums(
        inner=moments[np.ix_(keep, keep)].astype(np.float64),
        outer=removed @ moments[np.ix_(~keep, keep)],
        missing=squared_norm(removed, moments[np.ix_(~keep, ~keep)]),
        whole=outputs,
    )
