import numpy as np
import pytest

from pruning.analysis.overlap import expected_iou, iou


def test_iou_by_hand():
    a = np.array([1, 1, 0, 0], bool)
    assert iou(a, np.array([1, 0, 1, 0], bool)) == pytest.approx(1 / 3)
    assert iou(a, a) == 1 and iou(a, ~a) == 0 and iou(~a & a, a & ~a) == 1


def test_chance_is_what_random_masks_give():
    rng = np.random.default_rng(0)
    masks = rng.random((2, 200_000)) < np.array([[0.6], [0.3]])
    assert iou(*masks) == pytest.approx(expected_iou(0.6, 0.3), abs=0.005)
