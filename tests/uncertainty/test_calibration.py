"""Calibration metrics on distributions whose curves, areas and scores can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from fireassay.errors import InputError
from fireassay.uncertainty import calibration
from fireassay.uncertainty.histogram import Histogram, first_moments, from_cumulative, probabilities, second_moments

EDGES = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
LEVELS = np.linspace(0, 1, 101)


def uniform(n: int) -> Histogram:
    """n times the uniform distribution on [1, 5]."""
    return Histogram(EDGES, np.tile([0, 0.25, 0.25, 0.25, 0.25, 0], (n, 1)))


def test_moments_by_hand():
    h = uniform(1)
    assert h.mean()[0] == pytest.approx(3.0)
    assert h.variance()[0] == pytest.approx(16 / 12)
    assert h.cumulative()[0] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert first_moments(EDGES) == pytest.approx([0.5, 1.5, 2.5, 3.5, 4.5, 5])
    assert second_moments(EDGES)[[0, 1, 5]] == pytest.approx([1 / 3, 7 / 3, 25])
    again = from_cumulative(EDGES, h.cumulative())
    assert again.mass[0] == pytest.approx(h.mass[0])


def test_published_thresholds_are_the_first_edges_that_reach_the_level():
    # the CDF is 0, 1/4, 1/2, 3/4, 1 at the edges 1..5; the threshold of level 0.3 is the edge 3
    errors = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 4.5, 5.0, 6.0])
    found = calibration.confidence(uniform(8), errors)
    assert found == pytest.approx([-1, -1, 0, 0, 0.25, 0.75, 0.75, 1.0])
    covered = calibration.coverage([0.0, 0.25, 0.3, 1.0], found)
    assert covered == pytest.approx([2 / 8, 4 / 8, 5 / 8, 7 / 8])


def test_interpolated_confidence_is_the_cumulative_probability():
    h = Histogram(EDGES, np.tile([0.2, 0.2, 0.2, 0.2, 0.2, 0], (6, 1)))
    found = calibration.confidence(h, [0.0, 0.5, 1.0, 2.5, 5.0, 9.0], interpolate=True)
    assert found == pytest.approx([0, 0.1, 0.2, 0.5, 1, 1])
    coarse = Histogram(np.array([1.0, 5.0]), np.tile([0, 1.0, 0], (4001, 1)))
    errors = np.linspace(1, 5, 4001)
    levels = np.linspace(0, 1, 101)
    smooth = calibration.coverage(levels, calibration.confidence(coarse, errors, interpolate=True))
    assert calibration.miscalibration(levels, smooth).total < 1e-3
    rounded = calibration.coverage(levels, calibration.confidence(coarse, errors))
    assert calibration.miscalibration(levels, rounded).under > 0.48  # one bin: every error below the one edge


def test_calibrated_over_and_underconfident():
    rng = np.random.default_rng(0)
    n = 20_000
    edges = np.linspace(1, 5, 401)
    fine = Histogram(edges, np.tile(np.concatenate([[0], np.full(400, 1 / 400), [0]]), (n, 1)))
    good = calibration.miscalibration(
        LEVELS, calibration.coverage(LEVELS, calibration.confidence(fine, rng.uniform(1, 5, n)))
    )
    assert good.total < 0.01
    large = calibration.coverage(LEVELS, calibration.confidence(fine, np.full(n, 9.0)))
    assert calibration.miscalibration(LEVELS, large) == pytest.approx((0.5, 0, 0.5))
    small = calibration.coverage(LEVELS, calibration.confidence(fine, np.full(n, 0.1)))
    assert calibration.miscalibration(LEVELS, small) == pytest.approx((0, 0.5, 0.5))


def test_areas_of_a_crossing_curve_by_hand():
    # 0.25 above at the left, 0.25 below at the right, crossing in the middle: two triangles on each side
    areas = calibration.miscalibration([0, 0.25, 0.75, 1], [0, 0.5, 0.5, 1])
    assert areas.under == pytest.approx(0.25 * 0.25 / 2 + 0.25 * 0.25 / 2)
    assert areas.over == pytest.approx(areas.under)
    assert areas.total == pytest.approx(areas.over + areas.under)


def test_area_of_a_curve_of_known_shape():
    # coverage p^2: overconfident, area between x and x^2 is 1/6
    x = np.linspace(0, 1, 2001)
    assert calibration.miscalibration(x, x**2) == pytest.approx((1 / 6, 0, 1 / 6), abs=1e-6)


def test_gaussian_curve():
    rng = np.random.default_rng(1)
    errors = rng.normal(size=50_000)
    good = calibration.coverage(LEVELS, calibration.gaussian_confidence(np.ones(50_000), errors))
    assert np.abs(good - LEVELS).max() < 0.01
    half = calibration.coverage([0.9], calibration.gaussian_confidence(np.full(50_000, 0.5), errors))
    assert half[0] == pytest.approx(2 * stats.norm.cdf(0.5 * stats.norm.ppf(0.95)) - 1, abs=0.01)
    assert calibration.gaussian_confidence([0.0, 0.0], [0.0, 1.0]) == pytest.approx([0.0, 1.0])
    assert calibration.coverage([1.0], calibration.gaussian_confidence([1e-9], [1.0]))[0] == 1.0


def test_sharpness():
    assert calibration.sharpness([1.0, 7.0]) == pytest.approx(2.0)


def test_nll_by_hand():
    assert calibration.nll(uniform(2), [1.5, 4.9], floor=0.0) == pytest.approx(np.log(4.0))
    outside = calibration.nll(uniform(1), [7.0])
    assert outside == pytest.approx(-np.log(1e-4 / 6 / 5) + 2.0 / 5)
    assert np.isinf(calibration.gaussian_nll([0.0], [1.0]))
    errors = np.array([0.3, -1.2])
    assert calibration.gaussian_nll([0.5, 2.0], errors) == pytest.approx(
        -stats.norm.logpdf(errors, scale=[0.5, 2.0]).mean()
    )


@pytest.mark.parametrize("error", [0.0, 0.4, 1.0, 2.3, 5.0, 8.0])
def test_crps_against_quadrature(error):
    h = Histogram(EDGES, np.array([[0.1, 0.2, 0.0, 0.3, 0.1, 0.3]]))
    edges, values = np.concatenate([[0], EDGES]), np.concatenate([[0], h.cumulative()[0]])

    def integrand(x: float) -> float:
        cdf = np.interp(x, edges, values) if x < 5 else 1.0
        return (cdf - (x >= error)) ** 2

    numeric = integrate.quad(integrand, 0, 10, points=[*edges, error], limit=500)[0]
    assert calibration.crps(h, [error]) == pytest.approx(numeric, abs=1e-6)


def test_crps_of_a_point_is_the_distance_and_chunks_do_not_matter():
    edges = np.array([1.0, 2.0, 2.0 + 1e-9, 3.0])
    point = Histogram(edges, np.tile([0, 0, 1.0, 0, 0], (7, 1)))
    errors = np.arange(7) / 2
    assert calibration.crps(point, errors) == pytest.approx(np.abs(errors - 2).mean())
    assert calibration.crps(point, errors, chunk=2) == pytest.approx(np.abs(errors - 2).mean())


def test_gaussian_crps_against_quadrature():
    numeric = integrate.quad(lambda x: (stats.norm.cdf(x, scale=0.7) - (x >= 0.9)) ** 2, -9, 9, points=[0.9])[0]
    assert calibration.gaussian_crps([0.7], [0.9]) == pytest.approx(numeric, abs=1e-7)
    assert calibration.gaussian_crps([0.0], [-0.9]) == pytest.approx(0.9)


def test_ence_by_hand():
    # two groups: predicted 1 and true RMS 1 -> 0; predicted 4 and true RMS 2 -> 1/2
    assert calibration.ence([1, 1, 4, 4], [1, -1, 2, 2], bins=2) == pytest.approx(0.25)
    rng = np.random.default_rng(2)
    sigma = rng.uniform(0.1, 3, 40_000)
    assert calibration.ence(sigma, sigma * rng.normal(size=40_000)) < 0.03
    with pytest.raises(InputError):
        calibration.ence([1.0], [1.0, 2.0])


def test_bad_errors_are_refused():
    with pytest.raises(InputError, match="one per error"):
        calibration.confidence(uniform(2), [1.0])
    with pytest.raises(InputError, match="not negative"):
        calibration.crps(uniform(1), [-1.0])
    with pytest.raises(InputError, match="at least one"):
        calibration.coverage([0.5], [])


def test_exact_ties_of_counts_survive_rounding():
    # ten epochs, one count a bin: the CDF is 0.1, 0.2, ... only up to rounding
    edges = np.arange(1.0, 12.0)
    h = Histogram(edges, np.concatenate([[0.0], np.full(10, 1.0) / 10, [0.0]])[None])
    for step in range(1, 11):
        level = step / 10
        threshold = edges[step]
        assert calibration.coverage([level], calibration.confidence(h, [threshold]))[0] == 1.0
        assert calibration.coverage([level], calibration.confidence(h, [threshold + 1e-6]))[0] == 0.0


def test_probabilities_leave_out_atoms_without_errors():
    from fireassay.records import ErrorTrajectory

    log = ErrorTrajectory.empty(np.array([2, 1]), 0.1, 10.0, 2)
    log.add(np.array([0, 2]), np.array([0.01, 100.0]))
    log.add(np.array([0, 2]), np.array([0.5, 5.0]))
    mass, atoms = probabilities(log)
    assert atoms.tolist() == [0, 2]
    assert mass.tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    with pytest.raises(InputError, match="no errors"):
        probabilities(ErrorTrajectory.empty(np.array([2])))
