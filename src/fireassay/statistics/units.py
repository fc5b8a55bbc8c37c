"""Which frames are independent: the units that are counted, and resampled, when numbers of frames are compared.

Neighbouring frames of one trajectory tell the same story twice; an interval that counts them as independent is too
narrow. Where frames carry group labels, of walkers or molecules, the groups are the units. Otherwise units are blocks
of consecutive frames, several times as long as the frames' own decorrelation length. Sources: Flyvbjerg & Petersen, J.
Chem. Phys. 91, 461 (1989), for blocks; Sokal, Functional Integration (1997), for the length; Cameron, Gelbach & Miller,
Rev. Econ. Stat. 90, 414 (2008), for few groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]

LEAST = 5  # units below which nothing is decided
FEWEST = 20  # frames without groups, of which nobody can tell how much they depend on each other when there are fewer
MOST = 30  # blocks: more would add little power, fewer leave less of the correlation between them
COARSER = (10, LEAST)  # blocks of several blocks, with which a decision has to hold as well
BLOCK = 5.0  # decorrelation lengths of a block
WINDOW = 5.0  # Sokal's c: lags up to so many decorrelation lengths are added up
SUSPICION = 0.5  # p value of equal group means below which few groups are taken to differ


class Units(NamedTuple):
    """The unit of each of S frames, 0 to `count` - 1, and what a unit is, for prose: frame, group, block of 12 frames.

    `coarser` are fewer units made of several of these each, for what correlation may be left between them.
    """

    of_frame: NDArray[np.int64]  # (S,)
    count: int
    kind: str
    coarser: tuple[int, ...] = ()

    @property
    def enough(self) -> bool:
        """Whether something can be decided on so many."""
        return self.count >= LEAST

    def __str__(self) -> str:
        head, _, rest = self.kind.partition(" ")
        return f"{self.count} {head}{'' if self.count == 1 else 's'}{f' {rest}' if rest else ''}"


def units_of(series: ArrayLike, groups: Sequence[int] | NDArray[np.integer] | None = None) -> Units:
    """The independent units among S frames in their order.

    series (S,) or (S, Q): what is to be averaged over frames, such as the difference of squared errors; its correlation
    decides how long a block must be, the longest over Q. groups (S,): a number for each group label, negative without
    one. Groups are the units where all frames have one and there are at least `LEAST` of them, or where there are fewer
    and their means differ. Else frames are put in the order of their groups and cut into blocks.
    """
    values = np.asarray(series, dtype=np.float64)
    values = values.reshape(len(values), -1)
    n = len(values)
    labels = np.full(n, -1) if groups is None else np.asarray(groups, dtype=np.int64)
    names, of_group = np.unique(labels, return_inverse=True)
    if n and (labels >= 0).all() and len(names) >= LEAST:
        return Units(of_group.astype(np.int64), len(names), "group")
    order = np.argsort(labels, kind="stable")
    blocks = _blocks(values[order], order)
    if len(names) > 1 and any(_differ(column, of_group, blocks) for column in values.T):
        return Units(of_group.astype(np.int64), len(names), "group")
    return blocks


def _blocks(values: Array, order: NDArray[np.int64]) -> Units:
    """Blocks of consecutive frames of values (S, Q), which are in that order."""
    n = len(values)
    length = max((decorrelation_length(column) for column in values.T), default=1.0)
    size = max(1.0 if length < 1.05 else BLOCK * length, n / MOST if n >= MOST else 1.0)
    count = max(int(n / size + 1e-9), 1 if n else 0)
    if n < FEWEST:
        count = min(count, LEAST - 1)
    of_frame = np.empty(n, dtype=np.int64)
    of_frame[order] = np.arange(n) * count // max(n, 1)
    longest = -(-n // count) if count else 0
    kind = "frame" if longest <= 1 else f"block of {longest} frames"
    return Units(of_frame, count, kind, tuple(k for k in COARSER if k < count))


def _differ(values: Array, of_group: NDArray[np.int64], blocks: Units) -> bool:
    """Whether the means of groups differ by more than the blocks within them let expect, with little proof needed."""
    both = np.unique(np.stack([of_group, blocks.of_frame]), axis=1, return_inverse=True)
    parts, inside = both[0][0], both[1].reshape(-1)
    means = np.bincount(inside, values) / np.bincount(inside)
    samples = [means[parts == group] for group in np.unique(parts)]
    if min(map(len, samples)) < 2:
        return True
    with np.errstate(invalid="ignore", divide="ignore"):
        p = float(stats.f_oneway(*samples).pvalue) if np.ptp(means) > 0 else 1.0
    return not p > SUSPICION


def decorrelation_length(series: ArrayLike) -> float:
    """The integrated autocorrelation time of a series (n,), in frames: 1 for independent ones.

    τ = 1 + 2 Σ_{k=1}^{M} ρ(k) with the first M that is at least `WINDOW` τ (Sokal), and, where neighbours are alike by
    more than one standard error, at least (1 + ρ(1)) / (1 - ρ(1)), that of an autoregressive series with such
    neighbours: in a short series the sum cannot see how long it goes on. ρ(k) has the divisor n - k and is raised by
    what the mean takes from it, the series' own being used: τ / n for the sum, (1 + 3 ρ) / n for neighbours.
    """
    x = np.asarray(series, dtype=np.float64)
    finite = np.isfinite(x)
    n = len(x)
    if n < 4 or not finite.any():
        return 1.0
    x = np.where(finite, x, x[finite].mean())
    x = x - x.mean()
    if not np.abs(x).max() > 0:
        return 1.0
    power = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    correlation = np.fft.irfft(power)[: n - 1] / (n - np.arange(n - 1))
    rho = correlation / correlation[0]
    sums = 1 + 2 * np.cumsum(rho[1:])
    lags = np.arange(1, len(sums) + 1)
    enough = np.flatnonzero((lags >= WINDOW * np.maximum(sums, 1.0)) | (lags >= n // 2))
    window = int(lags[enough[0]]) if len(enough) else int(lags[-1])
    tau = float(sums[window - 1]) * (1 + (2 * window + 1) / n)
    neighbours = float(rho[1])
    if neighbours > 1 / np.sqrt(n):
        raised = min(neighbours + (1 + 3 * neighbours) / n, 1 - 1 / n)
        tau = max(tau, (1 + raised) / (1 - raised))
    return max(tau, 1.0)
