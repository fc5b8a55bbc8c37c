"""Error distributions on common bins: what an error trajectory becomes, and what LTAU predicts.

Within a bin the density is uniform, so a bin's representative is its arithmetic centre. Logarithmic bins are wide at
the top, where the geometric centre would lie below the mean. The underflow bin is uniform on [0, lowest edge]; the
overflow bin is a point at the highest edge, a lower bound: errors beyond it are not forgotten, as in the published
histograms, but their size is not known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fireassay.errors import InputError
from fireassay.records import ErrorTrajectory

Array = NDArray[np.float64]


class Histogram(NamedTuple):
    """N distributions of an error that is not negative; `edges` in its unit.

    edges (B + 1,) ascending and positive; mass (N, B + 2) probabilities, column 0 below the lowest edge and column
    B + 1 above the highest.
    """

    edges: Array
    mass: Array

    def cumulative(self) -> Array:
        """P(error <= edge), (N, B + 1)."""
        return np.clip(np.cumsum(self.mass[:, :-1], axis=1), 0.0, 1.0)

    def mean(self) -> Array:
        """Expected error (N,)."""
        return self.mass @ first_moments(self.edges)

    def mean_square(self) -> Array:
        """Expected squared error (N,)."""
        return self.mass @ second_moments(self.edges)

    def variance(self) -> Array:
        """Variance of the error (N,)."""
        return np.maximum(self.mean_square() - np.square(self.mean()), 0.0)


def _bounds(edges: Array) -> tuple[Array, Array]:
    return np.concatenate([[0.0], edges]), np.concatenate([edges, edges[-1:]])


def first_moments(edges: Array) -> Array:
    """The mean error within each of the B + 2 bins."""
    lower, upper = _bounds(edges)
    return (lower + upper) / 2


def second_moments(edges: Array) -> Array:
    """The mean squared error within each of the B + 2 bins."""
    lower, upper = _bounds(edges)
    return (lower * lower + lower * upper + upper * upper) / 3


def probabilities(errors: ErrorTrajectory) -> tuple[Array, NDArray[np.int64]]:
    """The distribution over epochs of each atom that has errors: mass (n, B + 2), and these atoms' numbers (n,).

    Atoms without a force label have no errors and are left out. Raises InputError when no atom has any.
    """
    total = errors.counts.sum(1)
    atoms = np.flatnonzero(total)
    if not len(atoms):
        raise InputError("the error trajectory holds no errors; train with the error log on, at least one epoch")
    return errors.counts[atoms] / total[atoms, None], atoms


def from_cumulative(edges: Array, cumulative: Array) -> Histogram:
    """The distributions with P(error <= edge) = `cumulative` (N, B + 1), ascending within [0, 1]."""
    return Histogram(edges, np.diff(cumulative, axis=1, prepend=0.0, append=1.0))
