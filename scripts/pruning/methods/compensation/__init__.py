"""Compensation: what the removed neurons did, given back to what is left. One file a scheme.

Each has `evidence(path, widths)`, a function from a layer's number to what of the calibration it is fitted on, and
`compensate(down, keep, evidence) -> Compensated` with down float32 [d, n] and keep bool [n]. `REQUIRES` names the one
kind of artefact it is fitted on (requirements.py); `REFITS` the structures of whose sites it refits the weights;
`CORRECTIVE = True` says that they are fitted to the dense model's residual stream (methods/refit.py), `TRAINS = True`
that all matrices of a layer change, `BIAS = True` that down_proj gets a bias. To add one, add a file.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

TOKENS_A_COLUMN = 10  # With fewer the fit is warned of: a trial on a 0.5B model with 5 raised perplexity on other text


def too_few(tokens: int, keep: np.ndarray) -> dict[str, str]:
    """A warning for the record where a mask's columns are fitted on too few tokens; else empty."""
    if tokens >= TOKENS_A_COLUMN * keep.sum():
        return {}
    return {
        "warning": f"compensate: ridge: {tokens} calibration tokens to fit {keep.sum()} columns, fewer than "
        f"{TOKENS_A_COLUMN} a column: raise `samples`"
    }


@dataclass(frozen=True)
class Compensated:
    """down_proj of a compact layer of k neurons."""

    weight: np.ndarray  # float32 [d, k]
    bias: np.ndarray | None  # float32 [d], to be added to down_proj's bias; None adds none
    record: dict  # what the manifest says of it; a text under `warning` goes to the log too
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Structure (of REFITS) -> the weight at whose input its units are measured, float32 [d, channels]."""
    trained: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name within the layer of every other matrix (of a scheme that TRAINS) -> what it is then, float32."""


def plugin(scheme: str) -> ModuleType:
    return importlib.import_module(f"pruning.methods.compensation.{scheme}")


def requires(scheme: str) -> tuple[str, ...]:
    """Return the kind of artefact that a scheme is fitted on; none for `none`."""
    return () if scheme == "none" else plugin(scheme).REQUIRES


def refits(scheme: str) -> tuple[str, ...]:
    """Return the structures of whose sites a scheme refits the weights; none for `none`."""
    return () if scheme == "none" else getattr(plugin(scheme), "REFITS", ())


def trains(scheme: str) -> bool:
    """Return whether a scheme changes all matrices of a layer."""
    return scheme != "none" and hasattr(plugin(scheme), "TRAINS")


def corrective(scheme: str) -> bool:
    """Return whether a scheme is for models alone that add what layers put out to the residual stream as it is."""
    return scheme != "none" and hasattr(plugin(scheme), "CORRECTIVE")
