"""Comparisons on dependent frames: how often chance decides, what is decided, and on how many units it rests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fireassay.statistics.interval import jackknife
from fireassay.statistics.multiple import holm, simultaneous
from fireassay.statistics.paired import compare_errors
from fireassay.statistics.units import FEWEST, LEAST, decorrelation_length, units_of

VALUES = 81  # force components of a frame


def autoregressive(rng, n: int, phi: float) -> np.ndarray:
    """A stationary series of unit variance whose neighbours correlate by phi; decorrelation (1 + phi) / (1 - phi)."""
    x = np.empty(n)
    x[0] = rng.normal()
    for k in range(1, n):
        x[k] = phi * x[k - 1] + np.sqrt(1 - phi**2) * rng.normal()
    return x


def squares(rng, n, phi, walkers, walker_sd, ratio=1.0, tail=4):
    """Sums of squared errors per frame of two potentials of equal quality (up to `ratio`), and the walkers' numbers."""
    walker = np.repeat(np.arange(walkers), -(-n // walkers))[:n]

    def scale(sd):
        parts = [autoregressive(rng, int((walker == w).sum()), phi) + sd * rng.normal() for w in range(walkers)]
        return np.exp(0.3 * np.concatenate(parts))

    common = scale(0.0)
    found = []
    for factor in (1.0, ratio):
        size = (common * scale(walker_sd) * factor)[:, None]
        found.append(np.square(size * rng.standard_t(tail, (n, VALUES))).sum(1))
    return (*found, walker)


def decided(n, phi, walkers, labelled, walker_sd, repeats=300, ratio=1.0, significance=0.05) -> tuple[float, float]:
    """How often the first, and the second, is called better."""
    rng = np.random.default_rng(hash((n, walkers, labelled)) % 2**32)
    found = []
    for _ in range(repeats):
        a, b, walker = squares(rng, n, phi, walkers, walker_sd, ratio)
        found.append(compare_errors(a, b, np.full(n, VALUES), walker if labelled else None).better(significance))
    return found.count("first") / repeats, found.count("second") / repeats


@pytest.mark.parametrize("n", [2, 3, 6, 19, 30, 100, 300])
@pytest.mark.parametrize("phi", [0.0, 0.8])
@pytest.mark.parametrize(
    ("walkers", "labelled", "walker_sd"), [(1, False, 0.0), (2, True, 1.0), (5, True, 1.0), (10, True, 1.0)]
)
def test_equal_potentials_are_told_apart_as_rarely_as_promised(n, phi, walkers, labelled, walker_sd):
    if n < 2 * walkers:
        pytest.skip("fewer than two frames of a walker")
    assert sum(decided(n, phi, walkers, labelled, walker_sd)) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize("phi", [0.0, 0.95])
def test_walkers_that_nobody_labelled_are_not_taken_for_independent_frames(phi):
    assert sum(decided(300, phi, 5, False, 1.0)) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_the_plain_bootstrap_would_not_do():
    """What the tests above guard against: frames of five walkers, taken as independent, decide far too often."""
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(100):
        a, b, _ = squares(rng, 300, 0.8, 5, 1.0)
        wrong += stats.ttest_1samp(a - b, 0).pvalue < 0.05
    assert wrong > 30


def test_a_real_difference_is_found():
    first, second = decided(300, 0.0, 1, False, 0.0, ratio=1.2)
    assert first > 0.85
    assert second == 0
    assert decided(300, 0.0, 5, True, 0.2, ratio=1.3)[0] > 0.8
    assert decided(300, 0.0, 1, False, 0.0, ratio=1.5, significance=0.05 / 7)[0] > 0.9


def test_twenty_equal_rivals_on_five_splits_and_two_quantities():
    rng, false = np.random.default_rng(6), 0
    for _ in range(20):
        p = []
        for _ in range(10):  # splits and quantities
            errors = [squares(rng, 60, 0.0, 1, 0.0)[0] for _ in range(20)]
            pairs = [(a, b) for k, a in enumerate(errors) for b in errors[:k]]
            p += [compare_errors(a, b, np.full(60, VALUES)).p for a, b in pairs[:40]]
        false += bool((holm(p) < 0.05).any())
    assert false <= 3


def test_two_frames_decide_nothing():
    found = compare_errors([1.0, 1.1], [2.0, 2.1], [81, 81])
    assert found.better(0.05) is None
    assert np.isnan(found.p)
    assert found.difference.value == pytest.approx(np.sqrt(2.1 / 162) - np.sqrt(4.1 / 162))
    assert not found.units.enough


def test_who_alone_diverges_has_lost():
    rng = np.random.default_rng(0)
    a, b, _ = squares(rng, 100, 0.0, 1, 0.0, ratio=3.0)
    a[7] = np.inf
    found = compare_errors(a, b, np.full(100, VALUES))
    assert found.diverged == (1, 0)
    assert found.better(0.05) == "second"
    assert found.difference.high < 0  # on the frames that are left it is the better one
    b[8] = np.nan
    both = compare_errors(a, b, np.full(100, VALUES))
    assert both.diverged == (1, 1)
    assert both.better(0.05) is None
    nothing = compare_errors([np.inf] * 30, [1.0] * 30, [81] * 30)
    assert nothing.better(0.05) == "second"
    assert np.isnan(nothing.difference.value)


def test_frames_without_labels_do_not_count():
    rng = np.random.default_rng(1)
    a, b, _ = squares(rng, 60, 0.0, 1, 0.0, ratio=2.0)
    count = np.where(np.arange(60) % 2, VALUES, 0)
    a[0] = np.inf  # not judged
    found = compare_errors(a, b, count)
    assert found.diverged == (0, 0)
    assert len(found.units.of_frame) == 30
    rmse = [np.sqrt(x[1::2].sum() / (30 * VALUES)) for x in (a, b)]
    assert found.difference.value == pytest.approx(rmse[0] - rmse[1])


def test_the_interval_is_students_for_independent_frames():
    """For few frames of equal size that do not depend on each other, by scipy."""
    rng = np.random.default_rng(11)
    a, b = rng.chisquare(81, (2, 7)) * np.array([[1.0], [1.5]])
    groups = np.arange(7)
    found = compare_errors(a, b, np.full(7, 81), groups, confidence=0.9)
    theirs = stats.ttest_1samp((a - b) / 81, 0.0)
    total = np.sqrt(a.sum() / 567) + np.sqrt(b.sum() / 567)
    low, high = theirs.confidence_interval(0.9)
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.difference.high - found.difference.low == pytest.approx((high - low) / total)
    assert str(found.units) == "7 groups"


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.8, 0.95])
def test_the_decorrelation_length_is_that_of_the_process(phi):
    rng = np.random.default_rng(2)
    found = np.mean([decorrelation_length(autoregressive(rng, 3000, phi)) for _ in range(10)])
    assert found == pytest.approx((1 + phi) / (1 - phi), rel=0.25)


def test_the_decorrelation_length_of_odd_series():
    assert decorrelation_length([1.0, 2.0]) == 1.0
    assert decorrelation_length(np.ones(50)) == 1.0
    assert decorrelation_length([np.nan] * 50) == 1.0
    assert decorrelation_length(np.tile([1.0, -1.0], 50)) == 1.0
    assert decorrelation_length(np.repeat([1.0, -1.0, 1.0, -1.0], 25)) > 10


def test_units_say_what_they_are():
    rng = np.random.default_rng(3)
    free = rng.normal(size=300)
    free_units = units_of(free)
    assert free_units.count == 30
    assert free_units.kind == "block of 10 frames"
    assert str(units_of(free, np.arange(300) // 30)) == "10 groups"
    few = units_of(free[: FEWEST - 1])
    assert few.count < LEAST
    assert not few.enough
    slow = units_of(autoregressive(rng, 300, 0.9))
    assert slow.count < 10
    assert "block of" in slow.kind


def test_few_groups_that_differ_are_the_units_and_alike_ones_are_not():
    rng = np.random.default_rng(4)
    groups = np.arange(120) % 2  # interleaved
    apart = rng.normal(size=120) + 3.0 * groups
    assert str(units_of(apart, groups)) == "2 groups"
    alike = rng.normal(size=120)
    for group in (0, 1):
        alike[groups == group] -= alike[groups == group].mean()
    assert units_of(alike, groups).count > LEAST


@given(st.integers(1, 120), st.integers(1, 8), st.integers(0, 2**31))
def test_every_frame_has_one_unit_and_every_unit_a_frame(n, n_groups, seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(-1, n_groups, n)
    for labels in (None, groups):
        units = units_of(rng.normal(size=(n, 2)), labels)
        assert units.of_frame.shape == (n,)
        assert set(units.of_frame.tolist()) == set(range(units.count))


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, np.nan]), [0.03, 0.06, 0.06, np.nan])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert holm([]).shape == (0,)
    assert simultaneous(0.95, 5) == pytest.approx(0.99)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_raises_every_p_and_keeps_their_order(p):
    corrected = holm(p)
    assert (corrected >= np.array(p) - 1e-15).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()
    assert (corrected <= 1).all()


def test_a_jackknife_interval_covers_as_often_as_it_says():
    rng, covered = np.random.default_rng(7), 0
    for _ in range(200):
        walker = np.repeat(np.arange(8), 20)
        x = rng.normal(size=8)[walker] + rng.normal(size=160)
        units = units_of(x, walker)
        found = jackknife(lambda kept, x=x: float(x[kept].mean()), np.arange(160), units)
        covered += found.low <= 0 <= found.high
    assert 0.9 <= covered / 200 <= 0.99


def test_a_jackknife_of_the_mean_is_students():
    x = np.random.default_rng(8).normal(size=9)
    found = jackknife(lambda kept: float(x[kept].mean()), np.arange(9), units_of(x, np.arange(9)), 0.9)
    theirs = stats.ttest_1samp(x, 0.0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    few = jackknife(lambda kept: float(x[:4][kept].mean()), np.arange(4), units_of(x[:4], np.arange(4)))
    assert np.isnan(few.low)
