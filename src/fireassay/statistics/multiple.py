"""Many comparisons at once: the more are made, the more has to be asked of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p: ArrayLike, comparisons: int | None = None) -> NDArray[np.float64]:
    """p values (M,) corrected for their number, in the same order (Holm, Scand. J. Stat. 6, 65, 1979).

    `comparisons` is how many could have been asked for, where p are only some of them, perhaps chosen by the data: the
    others count as well, whatever theirs would have been.

    The chance of any false decision at p < α is at most α, however the comparisons depend on each other. NaN is a
    comparison that could not be made: it counts for nothing and stays NaN.
    """
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    family = max(comparisons or 0, len(order))
    steps = values[order] * (family - np.arange(len(order)))
    corrected = np.full(len(values), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def simultaneous(confidence: float, comparisons: int) -> float:
    """The confidence level of each of so many intervals that all hold together with `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / max(comparisons, 1)
