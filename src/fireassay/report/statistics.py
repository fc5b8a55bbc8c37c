"""The tests behind the verdict: is a difference larger than its noise?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats


class Difference(NamedTuple):
    """A difference of two RMSEs, first minus second, with its confidence interval, in the errors' unit."""

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def frame_sums(
    error: NDArray[np.float64], structure: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Per frame the sum of squared errors and the number of values, (S,) each; error (N,) or (N, 3), structure (N,)."""
    rows = np.asarray(error, dtype=np.float64).reshape(len(structure), -1)
    sums = np.bincount(structure, (rows**2).sum(1)).astype(np.float64)
    return sums, (np.bincount(structure) * rows.shape[1]).astype(np.int64)


def rmse_difference(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    count: NDArray[np.int64],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """RMSE of the first minus that of the second on the same frames, by a paired bootstrap over frames.

    first, second and count (S,): sums of squared errors per frame and the number of values in them. Percentile
    interval (Efron and Tibshirani, An Introduction to the Bootstrap, 13.3); frames are taken as independent.
    """
    weights = np.random.default_rng(seed).multinomial(len(count), np.full(len(count), 1 / len(count)), size=resamples)
    total = weights @ count
    spread = np.sqrt(weights @ first / total) - np.sqrt(weights @ second / total)
    low, high = np.quantile(spread, [(1 - confidence) / 2, (1 + confidence) / 2])
    value = np.sqrt(first.sum() / count.sum()) - np.sqrt(second.sum() / count.sum())
    return Difference(float(value), float(low), float(high))


def log_rank(
    first: NDArray[np.float64],
    first_failed: NDArray[np.bool_],
    second: NDArray[np.float64],
    second_failed: NDArray[np.bool_],
) -> float:
    """The two-sided p value of the log-rank test for equal survival (Mantel 1966); 1 when nothing failed."""
    if not (first_failed.any() or second_failed.any()):
        return 1.0
    one = stats.CensoredData(uncensored=first[first_failed], right=first[~first_failed])
    two = stats.CensoredData(uncensored=second[second_failed], right=second[~second_failed])
    with np.errstate(invalid="ignore", divide="ignore"):
        p = float(stats.logrank(one, two).pvalue)
    return p if np.isfinite(p) else 1.0


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The confidence interval of a proportion (Wilson 1927)."""
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def thinned(badness: NDArray[np.float64], limit: int, seed: int = 0) -> NDArray[np.int64]:
    """Indices of at most `limit` points to draw: the tenth of them with the largest badness, the others at random."""
    if len(badness) <= limit:
        return np.arange(len(badness))
    order = np.argsort(-badness)
    worst, rest = order[: limit // 10], order[limit // 10 :]
    return np.sort(np.concatenate([worst, np.random.default_rng(seed).choice(rest, limit - len(worst), replace=False)]))
