"""Ridge compensation on what the pruned model itself sees: each layer is refitted after those before it, towards the
dense FFN's output (methods/refit.py).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruning.core import layer_files
from pruning.methods.compensation import Compensated, too_few

REQUIRES = ("refit",)
REFITS = ("ffn",)


def evidence(path: Path, widths: Sequence[int]) -> Callable[[int], dict[str, Any]]:
    """Return a layer's refitted `down` [d, k], and others [d, channels] by layer_files.label_of, with its `record` and
    the counts of tokens.

    path: the manifest of what methods/refit.py wrote for this very mask; `widths`, the dense model's, are not its."""
    tensors, content = layer_files.read(path, "refit")
    return lambda layer: {**tensors(layer), "record": content["records"][layer]}


def compensate(down: np.ndarray, keep: np.ndarray, evidence: Mapping[str, Any]) -> Compensated:
    """What was refitted, as it is; warns where a layer was trained on fewer tokens than it has weights."""
    from pruning.models.structures import STRUCTURES  # torch is slow, and every start of snakemake reads REQUIRES

    record = {**evidence["record"]["down"], **too_few(evidence["tokens_fit"], keep)}
    labels = {name: layer_files.label_of(name) for name in STRUCTURES if name not in REFITS}
    others = {name: label for name, label in labels.items() if label in evidence}
    record |= {label: evidence["record"][label] for label in others.values()}
    trained = {name: weight for name, weight in evidence.items() if name.endswith(".weight")}
    refitted = {name: evidence[label] for name, label in others.items()}
    if trained:
        record["layer"] = evidence["record"]["layer"]
        matrices, tokens = (evidence["down"], *refitted.values(), *trained.values()), evidence["tokens_fit"]
        weights = sum(weight.size for weight in matrices)
        if tokens < weights:
            record["warning"] = f"compensate: ridge_block: {tokens} calibration tokens to train {weights} weights of a "
            record["warning"] += "layer: raise `samples`; what held-out samples do not confirm is not taken"
    return Compensated(evidence["down"], None, record, refitted, trained)
