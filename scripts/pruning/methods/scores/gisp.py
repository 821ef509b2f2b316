"""The order in which neurons are removed in many iterations of a first-order score (calibration/gisp.py)."""

from pruning.methods.scores.rounds import score

__all__ = ["REQUIRES", "score"]

REQUIRES = ("gisp",)
