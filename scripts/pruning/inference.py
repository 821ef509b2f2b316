"""Intervals and tests for measured accuracies and perplexities, all by statsmodels and scipy.

Two variants of a model are always compared on the same items, in the same order: `a[i]` and `b[i]`
are their outcomes on item i. Every difference is a minus b. Every function raises ValueError on
empty, unequally long or non-finite input and on a confidence outside (0, 1).
NaN as a result means that the items are too few to say.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

# Indices drawn at once by a bootstrap: 2 MB, however many items there are.
DRAWS = 250_000
# exp of more overflows a float64, and differences of infinities would pass for significant.
LARGEST_NLL = 700


def wilson(correct: int, n: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of an accuracy, as fractions (low, high).

    Args: `correct` of `n` items were answered rightly. Raises ValueError unless 0 <= correct <= n and n > 0.
    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference"; statsmodels.
    """
    _check_confidence(confidence)
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} correct of {n} items is not an accuracy")
    low, high = proportion_confint(correct, n, alpha=1 - confidence, method="wilson")
    # At 0 and n the end of the interval is exact; statsmodels is off by a rounding error.
    return 0.0 if correct == 0 else float(low), 1.0 if correct == n else float(high)


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> tuple[int, float]:
    """McNemar's exact test of two variants' outcomes, 0 or 1, on the same items.

    Args: `a`, `b` of shape (items,). Returns the number of discordant items (exactly one variant is right)
    and the two-sided p, binomial with probability 1/2; p is 1 if none is discordant.
    Raises ValueError on outcomes other than 0 and 1.
    Source: McNemar (1947), "Note on the sampling error of the difference between correlated proportions".
    """
    a, b = _paired(a, b)
    if not np.isin([a, b], [0, 1]).all():
        raise ValueError("McNemar's test compares outcomes that are 0 or 1")
    only_a, only_b = int(np.sum(a > b)), int(np.sum(a < b))
    both, neither = int(np.sum((a == b) & (a == 1))), int(np.sum((a == b) & (a == 0)))
    test = mcnemar([[both, only_a], [only_b, neither]], exact=True)
    return only_a + only_b, float(test.pvalue)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, confidence: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Mean difference of paired outcomes with its percentile bootstrap interval: (delta, low, high).

    Args: `a`, `b` of shape (items,), in any one unit. Items are resampled, `resamples` times. Where all
    differences are equal the interval is that one point; a single item has no interval (NaN).
    Source: Efron and Tibshirani (1993), "An introduction to the bootstrap", chapter 13; scipy.stats.bootstrap.
    """
    _check_confidence(confidence)
    a, b = _paired(a, b)
    difference = a - b
    delta = float(difference.mean())
    if len(difference) == 1:
        return delta, np.nan, np.nan
    low, high, _ = _bootstrap((difference,), np.mean, confidence, resamples, seed)
    return delta, low, high


def perplexity(nll: ArrayLike, tokens: ArrayLike) -> float:
    """Perplexity per token: exp of the summed negative log-likelihood (nats) over the summed token count.

    Args: `nll`, `tokens` of shape (windows,): each window's summed NLL and its number of predicted tokens.
    """
    nll, tokens = _windows(nll, tokens)
    return float(_perplexity(nll, tokens, axis=-1))


def block_bootstrap_perplexity(
    nll: ArrayLike, tokens: ArrayLike, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval (low, high) of a perplexity, resampling whole windows: neighbouring tokens depend
    on one another, windows hardly do.

    Args: as for `perplexity`. A single window has no interval (NaN).
    Source: Künsch (1989), "The jackknife and the bootstrap for general stationary observations"; scipy.stats.bootstrap.
    """
    _check_confidence(confidence)
    nll, tokens = _windows(nll, tokens)
    if len(nll) == 1:
        return np.nan, np.nan
    low, high, _ = _bootstrap((nll, tokens), _perplexity, confidence, resamples, seed)
    return low, high


def paired_perplexity(
    a: ArrayLike, b: ArrayLike, tokens: ArrayLike, confidence: float, resamples: int, seed: int
) -> tuple[float, float, float, float]:
    """Difference of two perplexities on the same windows, its percentile interval, and p: (delta, low, high, p).

    Args: `a`, `b` of shape (windows,): the two variants' summed NLL in nats; `tokens` as for `perplexity`.
    p is the two-sided bootstrap p of the difference of the mean NLL per token: twice the smaller share of
    resamples on either side of zero, with one added to count and resamples, so it is never 0. exp is
    monotone, so the perplexity's difference has the sign of the NLL's in every resample. NaN for a single window.
    Source: Davison and Hinkley (1997), "Bootstrap methods and their application", sections 4.4 and 5.
    """
    _check_confidence(confidence)
    a, b = _paired(a, b)
    (a, tokens), (b, _) = _windows(a, tokens), _windows(b, tokens)
    delta = perplexity(a, tokens) - perplexity(b, tokens)
    if len(a) == 1:
        return delta, np.nan, np.nan, np.nan

    def difference(a: NDArray, b: NDArray, tokens: NDArray, axis: int) -> NDArray:
        return _perplexity(a, tokens, axis) - _perplexity(b, tokens, axis)

    low, high, distribution = _bootstrap((a, b, tokens), difference, confidence, resamples, seed)
    smaller_tail = min(np.sum(distribution <= 0), np.sum(distribution >= 0))
    return delta, low, high, min(1.0, 2 * (1 + int(smaller_tail)) / (1 + resamples))


def holm(p_values: Sequence[float | None]) -> NDArray[np.float64]:
    """Holm's step-down adjustment of a family of p-values; None and NaN stay NaN and do not count.

    Raises ValueError on a p outside [0, 1].
    Source: Holm (1979), "A simple sequentially rejective multiple test procedure"; statsmodels.
    """
    adjusted = np.array(p_values, dtype=float)
    present = ~np.isnan(adjusted)
    if not ((adjusted[present] >= 0) & (adjusted[present] <= 1)).all():
        raise ValueError(f"p-values outside [0, 1] among {adjusted[present].tolist()}")
    adjusted[present] = multipletests(adjusted[present], method="holm")[1]
    return adjusted


def _perplexity(nll: NDArray, tokens: NDArray, axis: int) -> NDArray:
    return np.exp(nll.sum(axis=axis) / tokens.sum(axis=axis))


def _bootstrap(data, statistic, confidence: float, resamples: int, seed: int) -> tuple[float, float, NDArray]:
    """Paired percentile bootstrap: low, high and the statistic of every resample."""
    result = stats.bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, DRAWS // len(data[0])),
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high), result.bootstrap_distribution


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected two vectors of equal length, got shapes {a.shape} and {b.shape}")
    if not len(a):
        raise ValueError("no items to compute a statistic of")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("outcomes must be finite; found NaN or infinity")
    return a, b


def _windows(nll: ArrayLike, tokens: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nll, tokens = _paired(nll, tokens)
    if not (tokens > 0).all():
        raise ValueError("every window must predict at least one token")
    if (nll / tokens).max() > LARGEST_NLL:
        raise ValueError(f"a window has over {LARGEST_NLL} nats per token: its perplexity is no number")
    return nll, tokens


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
