"""Tables: one file each, with `make(files, settings) -> Page`; report/catalogue.py says what it is given.

The numbers come from the analyses' files, or are computed from outcomes: by analysis/comparison.py, or, where one table
alone has them, in its file.
"""
