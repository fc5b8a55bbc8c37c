"""Histograms of errors, on drawn errors and bins: nothing is lost, moments and quantiles are those of the errors."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fireassay.records import ErrorTrajectory
from fireassay.uncertainty.histogram import Histogram, from_cumulative, probabilities

ERRORS = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(0, 1e4))
BINS = st.tuples(st.floats(1e-9, 1e-2), st.floats(1.1, 1e6), st.integers(1, 40))


def filled(errors: np.ndarray, bins: tuple[float, float, int]) -> ErrorTrajectory:
    """Errors (epochs, atoms) in bins of a lowest edge, a ratio of highest to lowest, and a number."""
    lowest, ratio, number = bins
    log = ErrorTrajectory.empty(np.array([errors.shape[1]]), lowest, lowest * ratio, number)
    for row in errors:
        log.add(np.arange(len(row)), row)
    return log


@given(ERRORS, BINS)
def test_every_error_is_counted_once_in_the_bin_that_holds_it(errors, bins):
    log = filled(errors, bins)
    assert (log.counts.sum(1) == len(errors)).all()
    bounds = np.concatenate([[0.0], log.edges, [np.inf]])
    for atom, row in enumerate(log.counts):
        expected = [int(((errors[:, atom] >= a) & (errors[:, atom] < b)).sum()) for a, b in zip(bounds, bounds[1:])]  # noqa: B905, RUF007
        assert row.tolist() == expected


@given(ERRORS, BINS, st.floats(0, 1e8))
def test_more_bins_change_nothing_that_was_counted(errors, bins, error):
    log = filled(errors, bins)
    inside = log.counts[:, :-1].copy()
    log.counts[:, -1] = 0  # bins are added before anything lies beyond
    log.reach(error)
    assert (np.diff(log.edges) > 0).all()
    assert error < log.edges[-1] or np.isclose(error, log.edges[-1])
    assert (log.counts[:, : inside.shape[1]] == inside).all()
    assert not log.counts[:, inside.shape[1] :].any()


@given(ERRORS, BINS)
def test_a_mean_lies_within_a_bin_of_the_errors_own(errors, bins):
    log = filled(np.minimum(errors, bins[0] * bins[1] * (1 - 1e-9)), bins)
    mass, atoms = probabilities(log)
    found = Histogram(log.edges, mass)
    np.testing.assert_allclose(mass.sum(1), 1.0)
    low = np.concatenate([[0.0], log.edges])
    high = np.concatenate([log.edges, log.edges[-1:]])
    mean = found.mean()
    assert (mean >= mass @ low - 1e-12 * high[-1]).all()
    assert (mean <= mass @ high + 1e-12 * high[-1]).all()
    own = np.minimum(errors, bins[0] * bins[1] * (1 - 1e-9))[:, atoms].mean(0)
    assert (np.abs(mean - own) <= mass @ (high - low) + 1e-9 * high[-1]).all()
    assert (found.mean_square() >= np.square(mean) - 1e-9 * high[-1] ** 2).all()


@given(ERRORS, BINS)
def test_cumulative_and_back(errors, bins):
    log = filled(errors, bins)
    mass, _ = probabilities(log)
    cumulative = Histogram(log.edges, mass).cumulative()
    assert (np.diff(cumulative, axis=1) >= 0).all()
    np.testing.assert_allclose(from_cumulative(log.edges, cumulative).mass, mass, atol=1e-12)
