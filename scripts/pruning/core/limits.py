"""How much a statistic needs before it can say anything: for the configuration, which refuses less, and the stages."""

import math

# With fewer the blocks of `significance.paired_perplexity` are too few or too short (docs/explanation/statistics.md).
LEAST_WINDOWS = 40
MOST_CUT_OFF = 0.05  # share of the dense model's answers; with more of them accuracy measures brevity as well


def least_resamples(confidence: float, comparisons: int) -> int:
    """Bootstrap resamples with which one of `comparisons` can be significant after Holm's adjustment.

    A two-sided bootstrap p is at least 2 / (resamples + 1); Holm multiplies the smallest by `comparisons`."""
    return math.ceil(2 * comparisons / (1 - confidence) - 1 - 1e-9)  # 1e-9: 1 - 0.95 is not quite 0.05
