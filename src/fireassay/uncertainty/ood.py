"""Out of domain: is an atom farther from the training atoms than these are from one another?

Distances are those to the nearest training atom in descriptor space. Source: LTAU-FF, Appendix D, where the cutoff is
chosen by eye at the foot of the steep end of the sorted training distances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from fireassay.errors import InputError


def knee(distances: ArrayLike) -> float:
    """The distance at which the sorted curve turns steep, in the unit of `distances` (N,).

    It is the point of the curve farthest below the straight line from its first to its last point (Satopää et al.,
    Finding a "kneedle" in a haystack, 2011); for a curve that never turns, the largest distance.
    """
    ordered = np.sort(np.asarray(distances, dtype=np.float64))
    if ordered.ndim != 1 or not len(ordered) or not np.isfinite(ordered).all():
        raise InputError(f"a knee needs finite distances (N,), got shape {np.shape(distances)}")
    rise = ordered[-1] - ordered[0]
    if len(ordered) < 3 or rise <= 0:
        return float(ordered[-1])
    sag = np.linspace(0.0, 1.0, len(ordered)) - (ordered - ordered[0]) / rise
    return float(ordered[np.argmax(sag)]) if sag.max() > 1e-9 else float(ordered[-1])


def auroc(score: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a positive has a higher score than a negative, ties counting half; NaN without both kinds.

    score (N,): distance or predicted error; positive (N,) bool: the true error is above a threshold. It is the area
    under the receiver operating characteristic (Mann & Whitney).
    """
    values, large = np.asarray(score, dtype=np.float64), np.asarray(positive, dtype=bool)
    if values.shape != large.shape:
        raise InputError(f"scores {values.shape} and labels {large.shape} must have one shape")
    n_large, n_small = int(large.sum()), int((~large).sum())
    if not n_large or not n_small:
        return float("nan")
    ranks = rankdata(values)
    return float((ranks[large].sum() - n_large * (n_large + 1) / 2) / (n_large * n_small))


def recall(flagged: ArrayLike, positive: ArrayLike) -> float:
    """Share of the large errors (positive, (N,) bool) that are flagged; NaN when there are none."""
    flags, large = np.asarray(flagged, dtype=bool), np.asarray(positive, dtype=bool)
    if flags.shape != large.shape:
        raise InputError(f"flags {flags.shape} and labels {large.shape} must have one shape")
    return float(flags[large].mean()) if large.any() else float("nan")
