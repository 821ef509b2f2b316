"""Compensation: what the removed neurons did, given back to what is left. One file a scheme.

Each has `evidence(path, widths)`, a function from a layer's number to what of the calibration it is fitted on, and
`compensate(down, keep, evidence) -> Compensated` with down float32 [d, n] and keep bool [n]. To add one, add a file,
and say in rules/compact.smk (EVIDENCE) which artefact it reads.
"""

from dataclasses import dataclass

import numpy as np

TOKENS_A_COLUMN = 10
"""With fewer the fit is warned of: a trial on a 0.5B model with 5 raised perplexity on other text."""


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
    attention: np.ndarray | None = None  # float32 [d, h], attention's output projection; a scheme with it has ATTENTION
