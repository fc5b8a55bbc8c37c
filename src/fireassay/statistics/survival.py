"""How long do trajectories last, who lasts longer, and is it more than chance?

S(t) is the share of trajectories alive after t. Sources: Kaplan & Meier, J. Am. Stat. Assoc. 53, 457 (1958); Mantel,
Cancer Chemother. Rep. 50, 163 (1966); Kalbfleisch & Prentice, The Statistical Analysis of Failure Time Data (1980);
Royston & Parmar, BMC Med. Res. Methodol. 13, 152 (2013) for the restricted mean; Andersen, Hansen & Klein, Lifetime
Data Anal. 10, 335 (2004) for pseudo-observations.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fireassay.errors import InputError
from fireassay.statistics.interval import Interval

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

EXACT: Final = 20_000  # divisions into two groups that are looked at one by one, or drawn
LEVELS: Final = 256  # of the grid of scores on which the sums of more divisions are counted
COARSEST: Final = 16  # levels below which they are not
COST: Final = 300_000_000  # additions to count them
FAR: Final = 1e-3  # share of drawn divisions below which the normal law is asked
ROUNDING: Final = 1e-9  # of a product of survival shares


class KaplanMeier(NamedTuple):
    """The survival curve: after `time` (K,) the share `survival` is alive, until the next; band `lower` to `upper`."""

    time: Array
    survival: Array
    lower: Array
    upper: Array

    @property
    def median(self) -> float | None:
        """The first time at which no more than half survive; None when more do to the end."""
        below = np.flatnonzero(self.survival <= 0.5 + ROUNDING)
        return float(self.time[below[0]]) if len(below) else None

    def at(self, time: ArrayLike) -> Array:
        """S at times (N,), right-continuous."""
        return self.survival[np.searchsorted(self.time, np.asarray(time, dtype=np.float64), side="right") - 1]

    def mean(self, horizon: float) -> float:
        """The restricted mean: the area under S up to `horizon`, the mean lifetime with survivors ending there."""
        steps = np.append(self.time[self.time < horizon], horizon)
        return float(np.diff(steps) @ self.survival[: len(steps) - 1])


def kaplan_meier(time: ArrayLike, failed: ArrayLike, confidence: float = 0.95) -> KaplanMeier:
    """Kaplan-Meier estimate from times (R,) and whether each ended in failure (R,) or was censored.

    S(t) = Π (1 - d_i/n_i) over the failure times t_i <= t, with d_i failures among n_i at risk; someone censored at a
    failure time is still at risk then. The band is Greenwood's variance on the log(-log S) scale: S^exp(±z σ),
    σ² = Σ d/(n (n - d)) / (log S)². It stays within [0, 1]; once all have failed the lower end is 0 and the upper end
    stays where it was.

    Raises InputError when there is no time, one is negative or not finite, or the lengths differ.
    """
    times, ended = _checked(time, failed)
    events, at_risk, died = _table(times, ended)
    survival = np.cumprod(1 - died / at_risk)
    some = survival > ROUNDING
    variance = np.cumsum(died[some] / (at_risk[some] * (at_risk[some] - died[some])))
    logarithm = np.log(survival[some])
    spread = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(variance) / np.abs(logarithm)
    lower, upper = np.zeros(len(events)), np.zeros(len(events))
    lower[some], upper[some] = survival[some] ** np.exp(spread), survival[some] ** np.exp(-spread)
    survival[~some] = 0.0
    if not some.all():
        upper[~some] = upper[some][-1] if some.any() else 1.0
    columns = [np.concatenate([[1.0], values]) for values in (survival, lower, upper)]
    steps = np.concatenate([[0.0], events])
    if events.size and events[0] == 0:  # someone failed at once
        steps, columns = steps[1:], [values[1:] for values in columns]
    if times.max() > steps[-1]:  # the curve goes on to the last observation
        steps = np.append(steps, times.max())
        columns = [np.append(values, values[-1]) for values in columns]
    return KaplanMeier(steps, *columns)


def share_alive(alive: int, trajectories: int, confidence: float = 0.95) -> Interval:
    """The share that survives with Wilson's interval (J. Am. Stat. Assoc. 22, 209, 1927)."""
    found = stats.binomtest(alive, trajectories).proportion_ci(confidence, method="wilson")
    return Interval(alive / trajectories, float(found.low), float(found.high))


class LogRank(NamedTuple):
    """The log-rank test of equal survival, seen from the first group.

    `observed` and `expected` failures of the first group under equal survival: fewer than expected, and it lives
    longer. `z` is (observed - expected) / sqrt(variance); `p` is two-sided, from all permutations of the group
    labels where it is `exact`, which holds for any number of trajectories and any ties, or else from some at random.
    """

    observed: float
    expected: float
    z: float
    p: float
    exact: bool


def log_rank(first: ArrayLike, first_failed: ArrayLike, second: ArrayLike, second_failed: ArrayLike) -> LogRank:
    """The log-rank test of two groups of trajectories that were watched for equally long.

    observed - expected is Σ (δ_i - Λ(t_i)) over the first group, with δ_i = 1 for a failure and Λ the Nelson-Aalen
    estimate of both groups together; so permuting the labels permutes fixed scores.
    """
    (a, a_failed), (b, b_failed) = _checked(first, first_failed), _checked(second, second_failed)
    times, failed = np.concatenate([a, b]), np.concatenate([a_failed, b_failed])
    events, at_risk, died = _table(times, failed)
    if not len(events):
        return LogRank(0.0, 0.0, 0.0, 1.0, True)
    hazard = np.concatenate([[0.0], np.cumsum(died / at_risk)])
    scores = failed - hazard[np.searchsorted(events, times, side="right")]
    own = (a[None, :] >= events[:, None]).sum(1)
    many = at_risk > 1
    share = own[many] / at_risk[many]
    left = (at_risk[many] - died[many]) / (at_risk[many] - 1)
    variance = float((died[many] * share * (1 - share) * left).sum())
    difference = float(scores[: len(a)].sum())
    p, exact = _permuted(scores, len(a))
    observed = float(a_failed.sum())
    z = difference / np.sqrt(variance) if variance > 0 else 0.0
    return LogRank(observed, observed - difference, z, p, exact)


def _permuted(scores: Array, n: int, seed: int = 0) -> tuple[float, bool]:
    """The share of divisions into n and the rest with a |sum| of scores of at least the given one; whether of all.

    Of all divisions where they can be counted: one by one, or by their sums, with scores rounded to a grid, which makes
    a slightly other test that holds as exactly. Otherwise of `EXACT` drawn at random, and where next to none of these
    is as far out, the normal law of so many scores.
    """
    size = len(scores)
    if comb(size, n) <= EXACT:
        rows = np.array(list(combinations(range(size), n)))
        return _share(scores[rows].sum(1), None, scores, n), True
    few = min(n, size - n)
    levels = min(LEVELS, COST // (size * few**2))
    if levels >= COARSEST:
        low, high = float(scores.min()), float(scores.max())
        grid = np.rint((scores - low) / max(high - low, 1e-300) * levels)
        ways = _ways(grid.astype(np.int64), few)
        chosen = grid if few == n else grid[::-1]  # the rest stands first, and is the smaller group
        return _share(np.arange(len(ways), dtype=np.float64), ways, chosen, few), True
    drawn = np.random.default_rng(seed).random((EXACT, size)).argpartition(n - 1, axis=1)[:, :n]
    share = _share(np.append(scores[drawn].sum(1), scores[:n].sum()), None, scores, n)
    if share < FAR:
        spread = np.sqrt(n * (size - n) / size) * scores.std(ddof=1)
        share = min(share, 2 * float(stats.norm.sf(abs(scores[:n].sum() - n * scores.mean()) / spread)))
    return share, False


def _share(sums: Array, weights: Array | None, scores: Array, n: int) -> float:
    """The weighted share of `sums` that are as far from their mean as that of the first n scores."""
    mean = float(scores.sum()) * n / len(scores)
    far = np.abs(sums - mean) >= abs(float(scores[:n].sum()) - mean) - ROUNDING
    return float(far.mean()) if weights is None else float(weights[far].sum() / weights.sum())


def _ways(scores: NDArray[np.int64], n: int) -> Array:
    """In how many ways n of the scores, whole numbers from 0 on, add up to each sum."""
    ways = np.zeros((n + 1, n * int(scores.max(initial=0)) + 1))
    ways[0, 0] = 1.0
    for score in scores.tolist():
        ways[1:, score:] += ways[:-1, : ways.shape[1] - score].copy()
    return ways[n]


def restricted_mean_difference(
    first: ArrayLike, first_failed: ArrayLike, second: ArrayLike, second_failed: ArrayLike, confidence: float = 0.95
) -> Interval:
    """Restricted mean survival time of the first group minus that of the second, in the unit of the times.

    The horizon is the shorter of the two observations. Welch's interval on jackknife pseudo-observations, which are the
    lifetimes themselves where nobody is censored before the horizon. NaN ends with fewer than two in a group.
    """
    groups = [_checked(first, first_failed), _checked(second, second_failed)]
    horizon = float(min(times.max() for times, _ in groups))
    parts = [_pseudo(times, failed, horizon) for times, failed in groups]
    value = float(parts[0].mean() - parts[1].mean())
    if min(map(len, parts)) < 2:
        return Interval(value, float("nan"), float("nan"))
    squares = [float(part.var(ddof=1)) / len(part) for part in parts]
    spread = sum(squares)
    if spread == 0:
        return Interval(value, value, value)
    freedom = spread**2 / sum(s**2 / (len(part) - 1) for s, part in zip(squares, parts, strict=True))
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * spread**0.5
    return Interval(value, value - reach, value + reach)


def _pseudo(times: Array, failed: Flags, horizon: float) -> Array:
    capped = np.minimum(times, horizon)
    if (failed | (times >= horizon)).all():
        return capped
    whole, n = kaplan_meier(times, failed).mean(horizon), len(times)
    if n < 2:
        return np.array([whole])
    rows = np.arange(n)
    without = np.array([kaplan_meier(times[rows != k], failed[rows != k]).mean(horizon) for k in rows])
    return n * whole - (n - 1) * without


class SurvivalComparison(NamedTuple):
    """Two groups of trajectories compared; differences are first minus second.

    `early` and `late` say who has more survivors where the curves cross, beyond their pointwise noise: None where they
    do not cross.
    """

    test: LogRank
    mean_difference: Interval
    early: Literal["first", "second"] | None
    late: Literal["first", "second"] | None

    @property
    def p(self) -> float:
        """That of the test, to be corrected for the number of comparisons."""
        return self.test.p

    @property
    def cross(self) -> bool:
        """Whether the curves cross beyond noise."""
        return self.early is not None

    def longer(self, significance: float, p: float | None = None) -> Literal["first", "second"] | None:
        """Who lives longer beyond chance; None when that is not decided. `p` is the corrected p value.

        The direction is that of observed minus expected failures, and the restricted mean must agree; where the curves
        cross, its interval must exclude zero as well.
        """
        if not (self.p if p is None else p) < significance:
            return None
        who: Literal["first", "second"] = "first" if self.test.observed < self.test.expected else "second"
        sign = 1 if who == "first" else -1
        value, low, high = self.mean_difference
        if sign * value <= 0 or (self.cross and not min(sign * low, sign * high) > 0):
            return None
        return who


def compare_survival(
    first: ArrayLike,
    first_failed: ArrayLike,
    second: ArrayLike,
    second_failed: ArrayLike,
    confidence: float = 0.95,
) -> SurvivalComparison:
    """Everything that is to be said of two groups of trajectories that were watched for equally long."""
    groups = _checked(first, first_failed), _checked(second, second_failed)
    data = (*groups[0], *groups[1])
    early, late = _crossing(*data, confidence=confidence)
    return SurvivalComparison(log_rank(*data), restricted_mean_difference(*data, confidence=confidence), early, late)


Who = Literal["first", "second"]


def _crossing(a: Array, a_failed: Flags, b: Array, b_failed: Flags, confidence: float) -> tuple[Who | None, Who | None]:
    """Who is ahead first and who later, where each is so at some time by more than the pointwise noise of S_a - S_b."""
    one, two = kaplan_meier(a, a_failed), kaplan_meier(b, b_failed)
    times = np.union1d(one.time, two.time)
    times = times[times <= min(a.max(), b.max())]
    difference = one.at(times) - two.at(times)
    noise = np.sqrt(_variance(a, a_failed, times) + _variance(b, b_failed, times))
    clear = np.abs(difference) > stats.norm.ppf((1 + confidence) / 2) * noise + ROUNDING
    signs = np.sign(difference[clear])
    if len(set(signs.tolist())) < 2:
        return None, None
    return ("first", "second") if signs[0] > 0 else ("second", "first")


def _variance(times: Array, failed: Flags, at: Array) -> Array:
    """The variance of S at times (N,). Where all or none have failed it is that of one more half failure (Agresti)."""
    events, at_risk, died = _table(times, failed)
    n = len(times)
    survival = np.concatenate([[1.0], np.cumprod(1 - died / at_risk)])[np.searchsorted(events, at, side="right")]
    shrunk = (n * survival + 0.5) / (n + 1)
    return shrunk * (1 - shrunk) / n


def _checked(time: ArrayLike, failed: ArrayLike) -> tuple[Array, Flags]:
    times, ended = np.asarray(time, dtype=np.float64), np.asarray(failed, dtype=bool)
    if times.ndim != 1 or times.shape != ended.shape or not len(times):
        raise InputError(f"{times.shape} times with {ended.shape} failures; needs as many of both, at least one")
    if not (np.isfinite(times) & (times >= 0)).all():
        raise InputError("times to failure must be finite and not negative")
    return times, ended


def _table(times: Array, failed: Flags) -> tuple[Array, Array, Array]:
    """Failure times (K,), how many were at risk and how many failed at each."""
    events = np.unique(times[failed])
    at_risk = len(times) - np.searchsorted(np.sort(times), events, side="left")
    ended = np.sort(times[failed])
    died = np.searchsorted(ended, events, side="right") - np.searchsorted(ended, events, side="left")
    return events, at_risk.astype(np.float64), died.astype(np.float64)
