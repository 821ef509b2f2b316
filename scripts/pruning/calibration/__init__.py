"""Measuring a model on calibration text: one pass for all statistics, and passes of other kinds."""
