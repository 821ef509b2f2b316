"""Tables of the paper's analyses: as in report/tables."""

from pruning.report.tables import write

__all__ = ["write"]
