"""Errors, normalised errors and correlations as flat functions of arrays.

Every comparison is `metric(predicted, reference, ...)` with arrays of one shape; an error is predicted - reference.
Values that are not finite raise InputError: a diverged prediction is a finding to be reported, not to be averaged.
A metric has the unit of its arguments unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from fireassay.errors import InputError

Array = NDArray[np.float64]
Metric = Callable[[ArrayLike, ArrayLike], float]


def _pair(predicted: ArrayLike, reference: ArrayLike, least: int = 1) -> tuple[Array, Array]:
    a, b = np.asarray(predicted, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape:
        raise InputError(f"predicted has shape {a.shape}, reference {b.shape}; they must be equal")
    if len(a.reshape(-1)) < least:
        raise InputError(f"a comparison of {a.size} values was asked for; at least {least} are needed")
    for name, values in (("predicted", a), ("reference", b)):
        bad = values.size - int(np.isfinite(values).sum())
        if bad:
            raise InputError(f"{bad} of {values.size} {name} values are not finite; leave them out or mask them")
    return a, b


def mae(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Mean absolute error over all entries."""
    a, b = _pair(predicted, reference)
    return float(np.abs(a - b).mean())


def rmse(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Root mean squared error over all entries."""
    a, b = _pair(predicted, reference)
    return float(np.sqrt(np.square(a - b).mean()))


def max_error(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Largest absolute error."""
    a, b = _pair(predicted, reference)
    return float(np.abs(a - b).max())


def mean_absolute(reference: ArrayLike) -> float:
    """Mean absolute value, the scale of Table SI 7 of the TEA Challenge 2023."""
    values = np.asarray(reference, dtype=np.float64)
    return mae(values, np.zeros_like(values))


def deviation(reference: ArrayLike) -> float:
    """Standard deviation (divisor n) over all entries, the scale of Table SI 8 of the TEA Challenge 2023."""
    values, _ = _pair(reference, reference)
    return float(values.std())


def percent(error: float, scale: float) -> float:
    """100 * error / scale in %; NaN when the scale is zero, as for a constant reference."""
    return 100.0 * error / scale if scale > 0 else float("nan")


def errors(predicted: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """`mae`, `rmse`, `max` and, in %, each by the two scales of the TEA Challenge 2023 (Tables SI 7 and SI 8).

    `mae_percent` and `max_percent` are divided by the mean absolute reference and `rmse_percent` by its standard
    deviation; `rmse_percent_of_mean` and `mae_percent_of_deviation` complete the two tables.
    """
    a, b = _pair(predicted, reference)
    found = {"mae": mae(a, b), "rmse": rmse(a, b), "max": max_error(a, b)}
    mean, spread = mean_absolute(b), deviation(b)
    return {
        **found,
        "mae_percent": percent(found["mae"], mean),
        "rmse_percent": percent(found["rmse"], spread),
        "max_percent": percent(found["max"], mean),
        "rmse_percent_of_mean": percent(found["rmse"], mean),
        "mae_percent_of_deviation": percent(found["mae"], spread),
    }


def per_group(predicted: ArrayLike, reference: ArrayLike, groups: ArrayLike, metric: Metric = mae) -> dict[Any, float]:
    """`metric` within each group: per species with atomic numbers (N,) as `groups`, per molecule with its labels.

    predicted, reference (N, ...); groups (N,). The keys are the distinct labels, ascending.
    """
    a, b = _pair(predicted, reference)
    labels = np.asarray(groups)
    if labels.shape != a.shape[:1]:
        raise InputError(f"groups has shape {labels.shape}, needs ({len(a)},), one label per row")
    return {label.item(): metric(a[labels == label], b[labels == label]) for label in np.unique(labels)}


def net_force(forces: ArrayLike, groups: ArrayLike) -> Array:
    """Sum of forces (N, 3) over the atoms of each group: (G, 3); G distinct labels of `groups` (N,), ascending.

    The groups are structures, molecules or an adsorbate and its slab; F(mol) of the TEA Challenge 2023 compares these.
    """
    values = np.asarray(forces, dtype=np.float64)
    labels, group = np.unique(np.asarray(groups), return_inverse=True)
    if values.ndim != 2 or group.shape != values.shape[:1]:
        raise InputError(f"forces {values.shape} and groups {group.shape} do not fit; needs (N, 3) and (N,)")
    total = np.zeros((len(labels), values.shape[1]))
    np.add.at(total, group, values)
    return total


def relative(energies: ArrayLike) -> Array:
    """Energies (S,) minus their mean, the relative energies of the TEA Challenge 2023: a constant offset vanishes."""
    values, _ = _pair(energies, energies)
    return values - values.mean()


class Line(NamedTuple):
    """A least-squares line y = slope * x + intercept."""

    slope: float
    intercept: float


def line(x: ArrayLike, y: ArrayLike) -> Line:
    """The least-squares line through the points (x, y). Raises InputError below two distinct x."""
    a, b = _pair(x, y, least=2)
    centred = a - a.mean()
    if not np.square(centred).sum() > 0:
        raise InputError(f"a slope needs at least two different abscissae, found {np.unique(a).tolist()}")
    slope = float(centred @ (b - b.mean()) / (centred @ centred))
    return Line(slope, float(b.mean() - slope * a.mean()))


def extrapolation_slope(temperatures: ArrayLike, force_rmse: ArrayLike) -> float:
    """Least-squares slope in eV/Å/K of the force RMSE (eV/Å) over the splits' temperatures (K).

    Source: Vita & Schwalbe-Koda, Data efficiency and extrapolation trends, section 4.1 and Fig. S3.
    """
    return line(temperatures, force_rmse).slope


class LearningCurve(NamedTuple):
    """log n = slope * log error + intercept as published, and the usual exponent d log error / d log n.

    The two are different least-squares lines of the same points; slope = 1 / exponent only for a perfect power law.
    """

    slope: float
    intercept: float
    exponent: float


def learning_curve(n_frames: ArrayLike, force_rmse: ArrayLike) -> LearningCurve:
    """Fits force RMSE (eV/Å) against the number of training frames in natural logarithms.

    Source: Vita & Schwalbe-Koda, Data efficiency and extrapolation trends, section 4.5.
    """
    n, error = _pair(n_frames, force_rmse, least=2)
    if not (n > 0).all() or not (error > 0).all():
        raise InputError("a learning curve needs positive numbers of frames and positive errors")
    published = line(np.log(error), np.log(n))
    return LearningCurve(published.slope, published.intercept, line(np.log(n), np.log(error)).slope)


class EnergyZero(NamedTuple):
    """Per-element energies in eV to be added to a prediction, so that its zero is that of the reference."""

    shift: dict[int, float]
    rank: int
    condition: float

    def of(self, compositions: Sequence[Mapping[int, int]]) -> Array:
        """The shift (S,) in eV of structures with these numbers of atoms per element."""
        return np.array([sum(count * self.shift[z] for z, count in c.items()) for c in compositions])


def fit_energy_zero(
    predicted: ArrayLike, reference: ArrayLike, compositions: Sequence[Mapping[int, int]]
) -> EnergyZero:
    """The least-squares shift per element that takes predicted energies (S,) to reference energies (S,), both in eV.

    compositions: per structure the number of atoms of each element. When the compositions do not determine every
    shift (one molecule only, say) `rank` is below the number of elements and the shift of least norm is returned: sums
    over the compositions seen are right, single shifts are not meaningful. `condition` is the ratio of the largest to
    the smallest singular value that is not zero.
    """
    a, b = _pair(predicted, reference)
    if a.shape != (len(compositions),):
        raise InputError(f"{len(compositions)} compositions for energies of shape {a.shape}; needs one per energy")
    elements = sorted({z for c in compositions for z in c})
    counts = np.array([[c.get(z, 0) for z in elements] for c in compositions], dtype=np.float64)
    shift, _, rank, singular = np.linalg.lstsq(counts, b - a, rcond=None)
    condition = float(singular[0] / singular[rank - 1])
    return EnergyZero(dict(zip(elements, shift.tolist(), strict=True)), int(rank), condition)


def pearson(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Pearson correlation over all entries; NaN when either side is constant."""
    a, b = _pair(predicted, reference, least=2)
    return _correlation(a.reshape(-1), b.reshape(-1))


def spearman(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Spearman rank correlation over all entries, ties ranked by their mean; NaN when either side is constant."""
    a, b = _pair(predicted, reference, least=2)
    return _correlation(rankdata(a.reshape(-1)), rankdata(b.reshape(-1)))


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")


def _distributions(predicted: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    """Both as shares that sum to 1. Raises InputError for negative values or a sum of zero."""
    a, b = _pair(predicted, reference)
    if (a < 0).any() or (b < 0).any() or not a.sum() > 0 or not b.sum() > 0:
        raise InputError("a comparison of distributions needs values >= 0 on both sides, and some above 0")
    return a / a.sum(), b / b.sum()


def wright_factor(predicted: ArrayLike, reference: ArrayLike) -> float:
    """WF = 100 Σ (g - g_ref)² / Σ g_ref² in %, of two radial distribution functions on one grid.

    As published (EGraFFBench, eq. 2), without a square root; below 9 % passes for a bulk system. 0 when equal,
    unbounded. Large for a peak that is shifted by its own width, however little that is.
    """
    a, b = _pair(predicted, reference)
    return percent(float(np.square(a - b).sum()), float(np.square(b).sum()))


def r_chi(predicted: ArrayLike, reference: ArrayLike) -> float:
    """R_χ = 100 sqrt(Σ (g - g_ref)² / Σ g_ref²) in %, as in Wright, J. Non-Cryst. Solids 159, 264 (1993).

    Wright's limit of 9 % was stated for this one; it is the root of `wright_factor` / 100.
    """
    return 100 * float(np.sqrt(wright_factor(predicted, reference) / 100))


def jensen_shannon(predicted: ArrayLike, reference: ArrayLike) -> float:
    """JSD = KL(p|m)/2 + KL(q|m)/2 with m = (p + q)/2, in bits: 0 when equal, 1 when nothing overlaps.

    Both are normalised to sum 1 on their common grid. Its root is a distance.
    """
    p, q = _distributions(predicted, reference)
    m = 0.5 * (p + q)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / m), 0.0) + np.where(q > 0, q * np.log2(q / m), 0.0)
    return float(np.clip(0.5 * terms.sum(), 0.0, 1.0))


def hellinger(predicted: ArrayLike, reference: ArrayLike) -> float:
    """Hellinger's distance sqrt(Σ (√p - √q)² / 2) of two distributions on one grid: 0 when equal, 1 without overlap."""
    p, q = _distributions(predicted, reference)
    return float(np.sqrt(0.5 * np.square(np.sqrt(p) - np.sqrt(q)).sum()))


def wasserstein(predicted: ArrayLike, reference: ArrayLike, width: float, period: bool = False) -> float:
    """Wasserstein's distance W1 in units of `width`, the distance of two bins: the mean way that probability moves.

    It stays monotonic when peaks no longer overlap, where the others saturate. With `period` the last bin is beside the
    first, as for dihedral angles (Rabin, Delon, Gousseau, J. Math. Imaging Vis. 41, 147, 2011).
    """
    p, q = _distributions(predicted, reference)
    difference = np.cumsum(p - q)
    if period:
        difference = difference - np.median(difference)
    return float(np.abs(difference).sum() * width)


def energy_violation(predicted: ArrayLike, reference: ArrayLike) -> Array:
    """EV = (Ê - E)² / (Ê² + E²) of each energy (T,): EGraFFBench, eq. 4. It depends on the zero of energy."""
    a, b = _pair(predicted, reference)
    return np.square(a - b) / np.maximum(np.square(a) + np.square(b), 1e-300)


def force_violation(predicted: ArrayLike, reference: ArrayLike) -> Array:
    """FV = |F̂ - F| / (|F̂| + |F|) of each frame, over all components of forces (T, N, 3): EGraFFBench, eq. 5.

    At most 1; two unrelated sets of forces of one size have 1/√2.
    """
    a, b = _pair(predicted, reference)
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    norms = np.linalg.norm(a, axis=1) + np.linalg.norm(b, axis=1)
    return np.linalg.norm(a - b, axis=1) / np.maximum(norms, 1e-300)


def geometric_mean(values: ArrayLike) -> float:
    """exp of the mean logarithm of values above zero; a zero counts as 1e-300."""
    values = np.asarray(values, dtype=np.float64)
    if not values.size or not np.isfinite(values).all() or (values < 0).any():
        raise InputError("a geometric mean needs finite values, none of them negative")
    return float(np.exp(np.log(np.maximum(values, 1e-300)).mean()))
