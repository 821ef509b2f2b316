"""Adapters: one file a data source whose records are not in the fields that lm-eval's own tasks read.

Each has `adapt(record) -> record`; a dataset names it in the config as `adapter`. To add one, add a file here, and a
golden test of the prompt that lm-eval renders from it.
"""
