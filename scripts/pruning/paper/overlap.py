"""How much two masks agree (the paper's Table 4 and Figure 3)."""

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two layers' kept neurons, bool [n]; 1 where neither keeps any."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def expected_iou(keep_a: float, keep_b: float) -> float:
    """What chance gives for two independent masks that keep these fractions of a wide layer."""
    union = keep_a + keep_b - keep_a * keep_b
    return keep_a * keep_b / union if union else 1.0
