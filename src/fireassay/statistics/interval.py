"""A number with its confidence interval, and how to get one from independent units."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fireassay.statistics.units import Units


class Interval(NamedTuple):
    """An estimate with its confidence interval; NaN ends where there is too little to say."""

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def jackknife(
    statistic: Callable[[NDArray[np.bool_]], float],
    frame: ArrayLike,
    units: Units,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """The interval of a statistic of rows (N,), such as a correlation over atoms, from leaving out one unit at a time.

    statistic: its value for the rows that are kept (N,); frame (N,): the frame of each row; units: those of the frames.
    The estimate plus and minus Student's t, with one degree of freedom less than units, times the jackknife's standard
    error (Tukey; Efron & Tibshirani, An Introduction to the Bootstrap, chapter 11), within `bounds`. NaN ends with too
    few units, or where the statistic cannot be had without one of them.
    """
    unit = units.of_frame[np.asarray(frame)]
    value = statistic(np.ones(len(unit), dtype=bool))
    present = np.unique(unit)
    n = len(present)
    if not units.enough or n < 2:
        return Interval(value, float("nan"), float("nan"))
    without = np.array([statistic(unit != k) for k in present])
    error = float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))
    reach = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    return Interval(value, float(max(value - reach, bounds[0])), float(min(value + reach, bounds[1])))


def standard_error(low: float, high: float, units: int, confidence: float = 0.95) -> float:
    """The standard error behind a Student's interval over so many units."""
    return (high - low) / 2 / float(stats.t.ppf((1 + confidence) / 2, units - 1))


def two_sided(difference: float, error: float, freedom: float) -> float:
    """Student's two-sided p of a difference of zero, given its standard error."""
    if error == 0:
        return 0.0 if difference else 1.0
    return 2 * float(stats.t.sf(abs(difference) / error, freedom))
