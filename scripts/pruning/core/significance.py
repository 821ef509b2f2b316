"""Intervals and tests for measured accuracies and perplexities, by statsmodels and scipy.

Two variants of a model are always compared on the same items, in the same order: `a[i]` and `b[i]`
are their outcomes on item i. Every difference is a minus b. Every function raises ValueError on
empty, unequally long or non-finite input and on a confidence outside (0, 1).
NaN as a result means that the items are too few to say.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from statsmodels.regression.linear_model import OLS, WLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

# Indices drawn at once by the bootstrap: 2 MB, however many items there are.
DRAWS = 250_000
# Neighbouring windows a block, at least, and blocks at most: so chosen that the type-I error stays near the nominal one
# where windows are AR(1), from 40 windows on (tests/unit/test_inference.py).
BLOCK, BLOCKS = 5, 16
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
    test = mcnemar([[0, only_a], [only_b, 0]], exact=True)  # concordant items do not count
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
    interval = stats.bootstrap(
        (difference,),
        np.mean,
        vectorized=True,
        method="percentile",
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, DRAWS // len(difference)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return delta, float(interval.low), float(interval.high)


def perplexity(nll: ArrayLike, tokens: ArrayLike, confidence: float) -> tuple[float, float, float]:
    """Perplexity per token with its interval, (value, low, high): exp of the summed negative log-likelihood (nats) over
    the summed token count, and of the t interval of the mean over blocks of windows.

    Args: `nll`, `tokens` of shape (windows,): each window's summed NLL and its number of predicted tokens, windows in
    the order of the text. A single window has no interval (NaN).
    Source: as of `paired_means`.
    """
    _, low, high, _ = paired_means(nll, 0, tokens, confidence)
    return float(np.exp(_per_token(nll, tokens))), float(np.exp(low)), float(np.exp(high))


def divergence(kl: ArrayLike, tokens: ArrayLike, confidence: float) -> tuple[float, float, float]:
    """KL divergence in nats per token with its interval, (value, low, high), likewise.

    Args and source: as of `perplexity`. No divergence is below 0, nor is an end of the interval."""
    _, low, high, _ = paired_means(kl, 0, tokens, confidence)
    return float(_per_token(kl, tokens)), float(np.maximum(low, 0)), float(high)


def paired_perplexity(
    a: ArrayLike, b: ArrayLike, tokens: ArrayLike, confidence: float
) -> tuple[float, float, float, float]:
    """Difference of two perplexities on the same windows, its interval, and p: (delta, low, high, p).

    Args: `a`, `b` of shape (windows,): the two variants' summed NLL in nats, windows in the order of the text; `tokens`
    as for `perplexity`. p is that of `paired_means`, of the log of the perplexities' ratio. The interval is that
    ratio's t interval less one, times b's measured perplexity, so it excludes zero exactly where p is below
    1 - confidence.
    """
    mean, low, high, p = paired_means(a, b, tokens, confidence)
    delta, low, high = float(np.exp(_per_token(b, tokens))) * np.expm1([mean, low, high])
    return float(delta), float(low), float(high), p


def paired_means(a: ArrayLike, b: ArrayLike, tokens: ArrayLike, confidence: float) -> tuple[float, float, float, float]:
    """Difference of two means per token on the same windows, its interval, and p: (delta, low, high, p).

    Args: `a`, `b` of shape (windows,): the two variants' sums over the tokens of each window, as of NLL or divergence;
    `b` may be 0, for `a` alone. p is of a two-sided paired t-test over blocks of neighbouring windows: neighbours
    resemble each other, blocks hardly do. A block has at least BLOCK windows, and there are at most BLOCKS, of like
    size; two where there are fewer windows. NaN for a single window; p is 1 where all windows agree.
    Source: Ibragimov and Müller (2010), "t-statistic based correlation and heterogeneity robust inference".
    """
    _check_confidence(confidence)
    a, tokens = windows_of(a, tokens)
    b, _ = windows_of(np.broadcast_to(b, a.shape) if np.ndim(b) == 0 else b, tokens)
    windows = len(a)
    blocks = min(BLOCKS, max(windows // BLOCK, 2), windows)
    return _cluster_t((a - b) / tokens, tokens, np.arange(windows) * blocks // windows, confidence)


def cluster_robust(a: ArrayLike, b: ArrayLike, clusters: ArrayLike) -> tuple[float, float]:
    """Test of the mean difference of paired outcomes where items of a cluster resemble each other: (design_effect, p).

    Args: `a`, `b` of shape (items,), in any one unit; `clusters` of shape (items,): equal labels, same cluster.
    design_effect is the variance of the mean difference with clusters over that without. p is two-sided, of a t-test
    with clusters - 1 degrees of freedom: it speaks of other clusters, not of other items in these. Both are NaN for a
    single cluster; where all differences are equal the design effect is NaN, and p is 1 if they are all zero.
    Raises ValueError unless every item has a cluster.
    Source: Kish (1965), "Survey sampling" (design effect); Liang and Zeger (1986), "Longitudinal data analysis using
    generalized linear models"; statsmodels.
    """
    a, b = _paired(a, b)
    clusters = pd.Series(clusters)
    if len(clusters) != len(a) or clusters.isna().any():
        raise ValueError(f"expected a cluster for each of the {len(a)} items")
    codes, difference, one = clusters.factorize()[0], a - b, np.ones(len(a))
    p = _cluster_t(difference, one, codes, 0.5)[-1]
    independent = OLS(difference, one).fit().bse[0] if len(a) > 1 else 0.0
    if np.isnan(p) or independent == 0:
        return np.nan, p
    return float((_cluster_fit(difference, one, codes).bse[0] / independent) ** 2), p


def shown(p_value: float) -> str:
    """Return a p-value with three decimals; a dash for NaN."""
    return "–" if math.isnan(p_value) else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def holm(p_values: Sequence[float | None]) -> NDArray[np.float64]:
    """Holm's step-down adjustment of a family of p-values; None and NaN stay NaN and do not count.

    Raises ValueError on a p outside [0, 1].
    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    adjusted = np.array(p_values, dtype=float)
    present = ~np.isnan(adjusted)
    if not ((adjusted[present] >= 0) & (adjusted[present] <= 1)).all():
        raise ValueError(f"p-values outside [0, 1] among {adjusted[present].tolist()}")
    # statsmodels' multipletests does the same and collects garbage each time: most of a table's seconds.
    ascending = np.argsort(adjusted[present])
    steps = adjusted[present][ascending] * np.arange(len(ascending), 0, -1)
    adjusted[np.flatnonzero(present)[ascending]] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def _cluster_t(
    values: NDArray, weights: NDArray, clusters: NDArray, confidence: float
) -> tuple[float, float, float, float]:
    """Weighted mean, its t interval and the p of its being zero, with clusters - 1 degrees of freedom."""
    mean = float(np.average(values, weights=weights))
    if clusters.min() == clusters.max():
        return mean, np.nan, np.nan, np.nan
    fit = _cluster_fit(values, weights, clusters)
    low, high = fit.conf_int(1 - confidence)[0]
    # A mean of zero is none the less zero where the variance is zero as well, up to rounding.
    zero = abs(mean) <= 1e-12 * np.abs(values).max()
    return mean, float(low), float(high), 1.0 if zero else float(fit.pvalues[0])


def _cluster_fit(values: NDArray, weights: NDArray, clusters: NDArray) -> Any:
    """The weighted mean as a regression on a constant, its covariance robust to clusters."""
    model = WLS(values, np.ones(len(values)), weights)
    with np.errstate(divide="ignore", invalid="ignore"):  # a variance of zero
        return model.fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)


def _paired(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected two vectors of equal length, got shapes {a.shape} and {b.shape}")
    if not len(a):
        raise ValueError("no items to compute a statistic of")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("outcomes must be finite; found NaN or infinity")
    return a, b


def windows_of(values: ArrayLike, tokens: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as arrays. Raises ValueError unless each window has tokens, and a mean per token that has an exp."""
    values, tokens = _paired(values, tokens)
    if not (tokens > 0).all():
        raise ValueError("every window must predict at least one token")
    if (values / tokens).max() > LARGEST_NLL:
        raise ValueError(f"a window has over {LARGEST_NLL} nats per token: its perplexity is no number")
    return values, tokens


def _per_token(values: ArrayLike, tokens: ArrayLike) -> np.float64:
    values, tokens = windows_of(values, tokens)
    return values.sum() / tokens.sum()


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
