"""Compensation: what the removed neurons did, given back to what is left. One file a scheme.

Each has `evidence(path, widths)`, a function from a layer's number to what of the calibration it is fitted on, and
`compensate(down, keep, evidence) -> Compensated` with down float32 [d, n] and keep bool [n]. To add one, add a file,
and say in rules/common.smk (EVIDENCE) which artefact it reads.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Compensated:
    """down_proj of a compact layer of k neurons."""

    weight: np.ndarray  # float32 [d, k]
    bias: np.ndarray | None  # float32 [d], to be added to down_proj's bias; None adds none
    record: dict  # what the manifest says of it; a text under `warning` goes to the log too
