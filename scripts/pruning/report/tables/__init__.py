"""Tables: one file each, with `make(files, settings) -> Page`; report/catalogue.py says what it is given.

Nothing here measures: the numbers come from the analyses, or are computed by pruning.analysis from outcomes.
"""
