"""Figures of the paper's analyses: as in report/figures."""

from pruning.report.figures import write

__all__ = ["write"]
