"""How much two masks agree (the paper's Table 4 and Figure 3)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pruning.core import artifacts, names
from pruning.methods import masks
from pruning.report.files import Files


def write(files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write one row per sparsity and layer: model, calib, first, second, sparsity, layer, iou, and the IoU that chance
    gives. Files: `first` and `second`, masks of two methods in the same order. Settings: the first four columns."""
    rows = []
    for paths in zip(files.all("first"), files.all("second"), strict=True):
        a, b = (masks.rows(path, "mask") for path in paths)
        for layer, both in a.merge(b, on=["layer", "unit"], validate="one_to_one").groupby("layer"):
            keep = both["keep_x"].to_numpy(), both["keep_y"].to_numpy()
            row = {**settings, "sparsity": names.share(int(paths[0].stem)), "layer": layer, "iou": iou(*keep)}
            rows.append(row | {"chance": expected_iou(keep[0].mean(), keep[1].mean())})
    frame = pd.DataFrame(rows)
    artifacts.write_csv(outputs[0], frame, settings)
    print(frame.groupby("sparsity")[["iou", "chance"]].mean().to_string())


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two layers' kept neurons, bool [n]; 1 where neither keeps any."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def expected_iou(keep_a: float, keep_b: float) -> float:
    """What chance gives for two independent masks that keep these fractions of a wide layer."""
    union = keep_a + keep_b - keep_a * keep_b
    return keep_a * keep_b / union if union else 1.0
