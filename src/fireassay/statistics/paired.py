"""Two potentials on the same frames: whose errors are smaller, and is it more than chance?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fireassay.statistics.interval import Interval
from fireassay.statistics.units import Units, units_of

Array = NDArray[np.float64]
Who = Literal["first", "second"]


class PairedComparison(NamedTuple):
    """The RMSE of the first minus that of the second on the frames where both are finite, in the errors' unit.

    `p` is two-sided, for equal mean squares, to be corrected for the number of comparisons; NaN with fewer units than
    decide. `diverged` counts the frames on which only the first, and only the second, gave no finite prediction.
    """

    difference: Interval
    p: float
    units: Units
    diverged: tuple[int, int]

    def better(self, significance: float, p: float | None = None) -> Who | None:
        """Whose errors are smaller beyond chance; None when that is not decided. `p` is the corrected p value.

        Who alone diverges on a frame has lost, whatever the errors on the others.
        """
        if (self.diverged[0] > 0) != (self.diverged[1] > 0):
            return "second" if self.diverged[0] else "first"
        if self.diverged[0] or not (self.p if p is None else p) < significance:
            return None
        return "first" if self.difference.value < 0 else "second"


def compare_errors(
    first: ArrayLike,
    second: ArrayLike,
    count: ArrayLike,
    groups: Sequence[int] | NDArray[np.integer] | None = None,
    confidence: float = 0.95,
) -> PairedComparison:
    """Compares sums of squared errors per frame, first and second (S,), of `count` (S,) values each.

    A sum that is not finite is a frame on which the potential diverged. The test is Student's on the means over
    independent units (`units_of`) of the difference of squares, with as many degrees of freedom as units of equal size
    would have (Carter, Schnepel & Steigerwald, Rev. Econ. Stat. 99, 698, 2017), less one; the interval of the RMSEs'
    difference follows from that of the squares', d(RMSE) = d(MSE) / (RMSE_1 + RMSE_2).
    """
    a, b, c = (np.asarray(values, dtype=np.float64) for values in (first, second, count))
    used = c > 0
    lost = ~np.isfinite(a) & used, ~np.isfinite(b) & used
    diverged = int((lost[0] & ~lost[1]).sum()), int((lost[1] & ~lost[0]).sum())
    both = used & ~lost[0] & ~lost[1]
    labels = None if groups is None else np.asarray(groups)[both]
    a, b, c = a[both], b[both], c[both]
    if not len(c):
        nothing = Interval(float("nan"), float("nan"), float("nan"))
        return PairedComparison(nothing, float("nan"), Units(np.zeros(0, np.int64), 0, "frame"), diverged)
    units = units_of((a - b) / c, labels)
    rmse = np.sqrt(a.sum() / c.sum()), np.sqrt(b.sum() / c.sum())
    p, reach = _test(a - b, c, units, confidence)
    both_rmse = float(rmse[0] + rmse[1])
    value = float(rmse[0] - rmse[1])
    half = reach / both_rmse if both_rmse > 0 else 0.0
    return PairedComparison(Interval(value, value - half, value + half), p, units, diverged)


def _test(difference: Array, count: Array, units: Units, confidence: float) -> tuple[float, float]:
    """p of a mean difference of zero, and half the width of its interval: the largest over coarser units, too."""
    if not units.enough:
        return float("nan"), float("nan")
    found = [_student(difference, count, units.of_frame, units.count, confidence)]
    for fewer in units.coarser:
        found.append(_student(difference, count, units.of_frame * fewer // units.count, fewer, confidence))
    return max(p for p, _ in found), max(reach for _, reach in found)


def _student(
    difference: Array, count: Array, unit: NDArray[np.int64], n: int, confidence: float
) -> tuple[float, float]:
    total = float(count.sum())
    mean = float(difference.sum()) / total
    sums, sizes = np.bincount(unit, difference, n), np.bincount(unit, count, n)
    error = float(np.sqrt(n / (n - 1) * np.square(sums - mean * sizes).sum())) / total
    if error == 0:
        return 1.0 if mean == 0 else 0.0, 0.0
    freedom = total**2 / float(np.square(sizes).sum()) - 1
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom))
    return p, float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
