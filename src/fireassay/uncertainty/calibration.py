"""Is a predicted error distribution right? Calibration, sharpness and proper scores.

Two kinds of prediction are judged: histograms of an error magnitude (LTAU), and Gaussians of a signed error with a
standard deviation (ensembles). An error is covered at a confidence level when it does not exceed the threshold of that
level. Sources: LTAU-FF, section 4.1; Tran et al., Mach. Learn.: Sci. Technol. 1, 025006 (2020); Kuleshov et al., ICML
2018; Gneiting & Raftery, J. Am. Stat. Assoc. 102, 359 (2007); Levi et al., Sensors 22, 5540 (2022).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erf

from fireassay.errors import InputError
from fireassay.uncertainty.histogram import Histogram

Array = NDArray[np.float64]

DECIMALS = 12  # to which probabilities are compared: counts over epochs make exact ties with round levels


def confidence(predicted: Histogram, errors: ArrayLike, interpolate: bool = False) -> Array:
    """The level (N,) above which each true error is covered; -1 when it always is.

    By the published rule the threshold of a level is the bin edge at which the cumulative probability first reaches it:
    an error is covered at every level above the probability at the last edge that lies below it. Rounding the threshold
    up to an edge looks underconfident by half a bin, much when the predicted distribution fills few bins. With
    `interpolate` the level is the cumulative probability at the error itself, linear between the edges.
    """
    true = _checked(predicted, errors)
    cumulative, rows = predicted.cumulative(), np.arange(len(true))
    below = np.searchsorted(predicted.edges, true, side="left") - 1
    at_lower = np.where(below >= 0, cumulative[rows, np.maximum(below, 0)], 0.0)
    if not interpolate:
        return np.where(below >= 0, np.round(at_lower, DECIMALS), -1.0)
    edges = np.concatenate([[0.0], predicted.edges])
    upper = np.minimum(below + 1, len(predicted.edges) - 1)
    width = edges[upper + 1] - edges[below + 1]
    share = np.where(width > 0, (true - edges[below + 1]) / np.where(width > 0, width, 1.0), 0.0)
    found: Array = at_lower + share * (cumulative[rows, upper] - at_lower)
    found[true > predicted.edges[-1]] = 1.0
    return np.round(found, DECIMALS)


def gaussian_confidence(sigma: ArrayLike, errors: ArrayLike) -> Array:
    """The level above which an error is covered by a Gaussian interval ±z sigma: erf(|error| / (sqrt(2) sigma)).

    sigma (N,) >= 0 standard deviation, errors (N,) in its unit; below one, because the interval of level one is
    infinite.
    """
    scale, true = np.asarray(sigma, dtype=np.float64), np.abs(np.asarray(errors, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(true == 0, 0.0, true / scale)
    return np.minimum(np.asarray(erf(z / np.sqrt(2)), dtype=np.float64), np.nextafter(1.0, 0.0))


def coverage(levels: ArrayLike, confidences: ArrayLike) -> Array:
    """The calibration curve: at each of `levels` (L,) in [0, 1] the share of errors that are covered, (L,)."""
    at = np.round(np.asarray(levels, dtype=np.float64), DECIMALS)
    ordered = np.sort(np.asarray(confidences, dtype=np.float64))
    if not len(ordered):
        raise InputError("a calibration curve needs at least one error")
    return np.searchsorted(ordered, at, side="left") / len(ordered)


class Areas(NamedTuple):
    """Areas between a calibration curve and the diagonal; over + under = total."""

    over: float  # A+, the curve below the diagonal: overconfident
    under: float  # A-, the curve above the diagonal: underconfident
    total: float  # |A|


def miscalibration(levels: ArrayLike, covered: ArrayLike) -> Areas:
    """A+, A- and |A| of a calibration curve (L,) with straight lines between its points; each at most 1/2."""
    x, gap = np.asarray(levels, dtype=np.float64), np.asarray(covered, dtype=np.float64) - np.asarray(levels)
    width, a, b = np.diff(x), gap[:-1], gap[1:]
    crossing = a * b < 0
    with np.errstate(divide="ignore", invalid="ignore"):
        meets = np.where(crossing, a / (a - b), 1.0)
    above = (np.maximum(a, 0) * meets + np.maximum(b, 0) * np.where(crossing, 1 - meets, 1.0)) * width / 2
    below = (np.maximum(-a, 0) * meets + np.maximum(-b, 0) * np.where(crossing, 1 - meets, 1.0)) * width / 2
    return Areas(float(below.sum()), float(above.sum()), float(below.sum() + above.sum()))


def sharpness(variance: ArrayLike) -> float:
    """sqrt of the mean variance of the predicted error distributions, in the error's unit; smaller is sharper."""
    return float(np.sqrt(np.mean(np.asarray(variance, dtype=np.float64))))


def nll(predicted: Histogram, errors: ArrayLike, floor: float = 1e-4) -> float:
    """Mean negative log density at the true errors, natural logarithm, density per unit of the error.

    A histogram is zero somewhere, where one error would make the mean infinite; so `floor` of the probability is spread
    evenly over the bins. Above the highest edge e the overflow decays exponentially with length e.
    """
    true = _checked(predicted, errors)
    edges = predicted.edges
    column = np.searchsorted(edges, true, side="right")
    n_bins = len(edges) + 1
    mass = (1 - floor) * predicted.mass[np.arange(len(true)), column] + floor / n_bins
    width = np.concatenate([edges[:1], np.diff(edges), edges[-1:]])[column]
    tail = np.where(column == n_bins - 1, (true - edges[-1]) / edges[-1], 0.0)
    return float(np.mean(np.log(width) - np.log(mass) + tail))


def gaussian_nll(sigma: ArrayLike, errors: ArrayLike) -> float:
    """Mean negative log density of N(0, sigma^2) at signed errors (N,); infinite when a sigma is zero."""
    scale, true = np.asarray(sigma, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 0.5 * np.log(2 * np.pi) + np.log(scale) + 0.5 * np.square(true / scale)
    return float(np.mean(np.where(scale > 0, found, np.inf)))


def crps(predicted: Histogram, errors: ArrayLike, chunk: int = 20_000) -> float:
    """Mean continuous ranked probability score ∫ (F(x) - 1[x >= error])^2 dx in the error's unit; smaller is better.

    F is piecewise linear and the integral exact. For a prediction that is a point it is the absolute difference.
    """
    true = _checked(predicted, errors)
    edges = np.concatenate([[0.0], predicted.edges])
    total = 0.0
    for start in range(0, len(true), chunk):
        part = Histogram(predicted.edges, predicted.mass[start : start + chunk])
        values = np.concatenate([np.zeros((len(part.mass), 1)), part.cumulative()], axis=1)
        total += float(_crps_sum(edges, values, true[start : start + chunk]))
    return total / len(true)


def _crps_sum(edges: Array, cumulative: Array, true: Array) -> float:
    width, a, b = np.diff(edges), cumulative[:, :-1], cumulative[:, 1:]
    share = np.clip((true[:, None] - edges[:-1]) / width, 0.0, 1.0)  # of each segment that lies below the error
    at = a + share * (b - a)
    below = share * (a * a + a * at + at * at)
    above = (1 - share) * (np.square(1 - at) + (1 - at) * (1 - b) + np.square(1 - b))
    return float(((below + above) @ width / 3 + np.maximum(true - edges[-1], 0.0)).sum())


def gaussian_crps(sigma: ArrayLike, errors: ArrayLike) -> float:
    """Mean CRPS of N(0, sigma^2) at signed errors (N,), in their unit (Gneiting & Raftery, eq. 21)."""
    scale, true = np.asarray(sigma, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    z = true / np.where(scale > 0, scale, 1.0)
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    found = scale * (z * erf(z / np.sqrt(2)) + 2 * density - 1 / np.sqrt(np.pi))
    return float(np.mean(np.where(scale > 0, found, np.abs(true))))


def ence(predicted_rms: ArrayLike, errors: ArrayLike, bins: int = 10) -> float:
    """Expected normalised calibration error: mean over bins of |predicted RMS - true RMS| / predicted RMS.

    predicted_rms (N,): root of the expected squared error (sigma for a Gaussian); atoms are sorted by it and cut into
    `bins` groups of equal size. 0 is calibrated; a pure number (Levi et al., eq. 8).
    """
    predicted, true = np.asarray(predicted_rms, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    if predicted.shape != true.shape or not len(true):
        raise InputError(f"predicted errors {predicted.shape} and true errors {true.shape} must be equal and not empty")
    order = np.argsort(predicted, kind="stable")
    groups = [g for g in np.array_split(order, min(bins, len(order))) if len(g)]
    said = np.array([np.sqrt(np.square(predicted[g]).mean()) for g in groups])
    seen = np.array([np.sqrt(np.square(true[g]).mean()) for g in groups])
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.mean(np.where(said == seen, 0.0, np.abs(said - seen) / said)))


def _checked(predicted: Histogram, errors: ArrayLike) -> Array:
    true = np.asarray(errors, dtype=np.float64)
    if true.shape != predicted.mass.shape[:1] or not len(true):
        raise InputError(f"{len(predicted.mass)} distributions for errors of shape {true.shape}; needs one per error")
    if not np.isfinite(true).all() or (true < 0).any():
        raise InputError("true errors must be finite and not negative: norms, not components")
    return true
