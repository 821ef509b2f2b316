"""Figures of the paper's analyses: as in report/figures."""
