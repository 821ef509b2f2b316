"""Measuring a model on calibration text: one pass for all statistics, and two passes of other kinds."""
