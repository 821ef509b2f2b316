"""Tables of the paper's analyses: as in report/tables."""
