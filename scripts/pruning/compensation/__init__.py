"""Compensation: what the removed neurons did, given back to what is left. One file a scheme.

Each has `down_bias(down, keep, statistics) -> float32 [d]`, to be added to down_proj's bias. To add one, add a file.
"""
