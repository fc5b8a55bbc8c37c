"""Survival by hand, against scipy, and by simulation: who lives longer, and how often chance alone says so."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import CensoredData, ecdf

from fireassay.errors import InputError
from fireassay.statistics import survival
from fireassay.statistics.survival import (
    compare_survival,
    kaplan_meier,
    log_rank,
    restricted_mean_difference,
    share_alive,
)

END = 6000.0


def watched(lifetimes) -> tuple[np.ndarray, np.ndarray]:
    """Times and failures of trajectories with these lifetimes, watched until END."""
    lifetimes = np.asarray(lifetimes, dtype=float)
    return np.minimum(lifetimes, END), lifetimes < END


def test_kaplan_meier_by_hand():
    """Failures at 2, 3, 3, 5; censored at 3 and 8 (two).

    n at risk: t=2: 7, t=3: 6 (one of them censored at 3), t=5: 3. S(2) = 6/7; S(3) = 6/7 * 4/6 = 4/7;
    S(5) = 4/7 * 2/3 = 8/21. Greenwood: 1/(7*6) = 1/42; + 2/(6*4) = 1/12; + 1/(3*2) = 1/6.
    """
    curve = kaplan_meier([2, 3, 3, 3, 5, 8, 8], [True, True, True, False, True, False, False])
    assert curve.time.tolist() == [0, 2, 3, 5, 8]
    np.testing.assert_allclose(curve.survival, [1, 6 / 7, 4 / 7, 8 / 21, 8 / 21])
    sums = np.array([1 / 42, 1 / 42 + 1 / 12, 1 / 42 + 1 / 12 + 1 / 6])
    s = np.array([6 / 7, 4 / 7, 8 / 21])
    spread = 1.959963984540054 * np.sqrt(sums) / np.abs(np.log(s))
    np.testing.assert_allclose(curve.lower[1:4], s ** np.exp(spread))
    np.testing.assert_allclose(curve.upper[1:4], s ** np.exp(-spread))
    assert (curve.lower[0], curve.upper[0]) == (1, 1)
    assert curve.median == 5
    assert curve.mean(8.0) == pytest.approx(2 + 6 / 7 + 2 * 4 / 7 + 3 * 8 / 21)
    assert curve.at([0, 1.9, 2, 7, 9]).tolist() == pytest.approx([1, 1, 6 / 7, 8 / 21, 8 / 21])


@pytest.mark.filterwarnings("ignore:The confidence interval is undefined")
def test_kaplan_meier_equals_scipy_on_random_data():
    rng = np.random.default_rng(0)
    time = rng.integers(1, 20, 40).astype(float)
    failed = rng.random(40) < 0.6
    curve = kaplan_meier(time, failed, 0.9)
    theirs = ecdf(CensoredData(uncensored=time[failed], right=time[~failed])).sf
    interval = theirs.confidence_interval(0.9, method="log-log")
    for t, s, low, high in zip(*curve, strict=True):
        assert s == pytest.approx(theirs.evaluate(t))
        if 0 < s < 1:
            assert low == pytest.approx(interval.low.evaluate(t))
            assert high == pytest.approx(interval.high.evaluate(t))


def test_kaplan_meier_at_its_ends():
    nobody = kaplan_meier([5, 5], [False, False])
    assert (nobody.time.tolist(), nobody.survival.tolist(), nobody.median) == ([0, 5], [1, 1], None)
    everybody = kaplan_meier([1, 2], [True, True])
    assert everybody.survival.tolist() == [1, 0.5, 0]
    assert everybody.lower[-1] == 0
    assert everybody.upper[-1] == everybody.upper[-2] < 1
    assert kaplan_meier([3], [True]).survival.tolist() == [1, 0]
    at_once = kaplan_meier([0, 0, 4], [True, True, False])
    assert at_once.time.tolist() == [0, 4]
    assert at_once.survival[0] == pytest.approx(1 / 3)
    for bad in (([], []), ([1, 2], [True]), ([-1.0], [True]), ([np.nan], [True])):
        with pytest.raises(InputError):
            kaplan_meier(*bad)


@pytest.mark.parametrize("n", range(2, 121, 2))
def test_the_median_is_where_half_have_failed(n):
    """However many there are: half of them, one after the other, then the others to the end."""
    half = np.arange(1.0, n // 2 + 1)
    time = np.concatenate([half, np.full(n - n // 2, 1000.0)])
    failed = np.arange(n) < n // 2
    assert kaplan_meier(time, failed).median == n // 2
    failed[n // 2 - 1] = False
    assert kaplan_meier(time, failed).median is None


data = st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=60)


@given(data)
def test_survival_never_rises_and_does_not_depend_on_the_order(rows):
    time, failed = (np.array(column) for column in zip(*rows, strict=True))
    curve = kaplan_meier(time, failed)
    assert ((curve.survival >= 0) & (curve.survival <= 1)).all()
    assert (np.diff(curve.survival) <= 0).all()
    assert (np.diff(curve.time) > 0).all()
    assert (curve.lower <= curve.survival + 1e-12).all()
    assert (curve.upper >= curve.survival - 1e-12).all()
    order = np.random.default_rng(0).permutation(len(time))
    for one, other in zip(curve, kaplan_meier(time[order], failed[order]), strict=True):
        np.testing.assert_array_equal(one, other)
    if failed.all():
        expected = [(time > t).mean() for t in curve.time]
        np.testing.assert_allclose(curve.survival, expected, atol=1e-12)
        assert curve.mean(float(time.max())) == pytest.approx(time.mean())


@given(data, data)
def test_observed_minus_expected_is_antisymmetric(one, two):
    a, b = (tuple(np.array(column) for column in zip(*rows, strict=True)) for rows in (one, two))
    ours, theirs = log_rank(*a, *b), log_rank(*b, *a)
    assert ours.observed - ours.expected == pytest.approx(theirs.expected - theirs.observed, abs=1e-9)
    assert ours.z == pytest.approx(-theirs.z, abs=1e-9)
    assert 0 < ours.p <= 1


def test_the_log_rank_test_equals_scipys():
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = watched(rng.exponential(4000, 30)), watched(rng.exponential(6000, 25))
        theirs = stats.logrank(*(CensoredData(uncensored=t[f], right=t[~f]) for t, f in (a, b)))
        found = log_rank(*a, *b)
        assert abs(found.z) == pytest.approx(abs(theirs.statistic))
        assert found.p == pytest.approx(theirs.pvalue, abs=0.02)


def test_sums_are_counted_as_divisions_are(monkeypatch):
    """Where both ways are open they agree, but for the rounding of the scores; without rounding, exactly."""
    rng = np.random.default_rng(3)
    for n, m in ((4, 5), (6, 3), (5, 5)):
        a, b = rng.integers(1, 6, n).astype(float), rng.integers(1, 9, m).astype(float)
        data = (a, a < 5, b, b < 8)
        one_by_one = log_rank(*data)
        monkeypatch.setattr(survival, "EXACT", 0)
        by_sums = log_rank(*data)
        monkeypatch.undo()
        assert one_by_one.exact
        assert by_sums.exact
        assert by_sums.p == pytest.approx(one_by_one.p, abs=0.02)


@pytest.mark.parametrize(("n", "m"), [(10, 10), (30, 30), (30, 8), (100, 100)])
def test_the_most_extreme_of_all_divisions_has_the_p_of_one_of_them(n, m):
    """All of one group fail before the first of the other: next to nothing else is as far out."""
    a, b = np.arange(1.0, n + 1), np.arange(1000.0, 1000 + m)
    found = log_rank(a, np.ones(n, bool), b, np.ones(m, bool))
    assert found.exact
    assert comb(n + m, n) * found.p <= 40  # rounded scores tie with some that come near
    assert comb(n + m, n) * found.p >= 1


def test_with_very_many_the_tail_is_the_normal_one():
    rng = np.random.default_rng(4)
    a, b = rng.exponential(1.0, 500), rng.exponential(1.6, 500)
    found = log_rank(a, np.ones(500, bool), b, np.ones(500, bool))
    assert not found.exact
    assert 1e-14 < found.p < 1e-8
    assert abs(np.log10(found.p / (2 * stats.norm.sf(abs(found.z))))) < 1.5


def test_permutations_are_exact_where_there_are_few():
    """Three that fail at 1, 2, 3 against three at 4, 5, 6: 2 of the 20 divisions are as extreme."""
    found = log_rank([1, 2, 3], [True] * 3, [4, 5, 6], [True] * 3)
    assert found.exact
    assert found.p == pytest.approx(2 / 20)
    assert found.observed > found.expected


def test_nothing_that_failed_decides_nothing():
    found = compare_survival(*watched([7000] * 5), *watched([9000] * 8))
    assert found.p == 1.0
    assert found.longer(0.05) is None
    assert not found.cross


def test_who_lives_longer_is_not_who_has_more_left():
    """27 of 30 dead by 0.08 ps, 3 alive; 28 of 30 dead at 5 ps, 2 alive."""
    early = watched([*np.linspace(20, 80, 27), *[9000] * 3])
    late = watched([*np.linspace(4900, 5000, 28), *[9000] * 2])
    found = compare_survival(*early, *late)
    assert found.longer(0.001) == "second"
    assert found.mean_difference.high < 0
    assert compare_survival(*late, *early).longer(0.001) == "first"


def test_curves_that_cross_are_said_to_and_name_no_winner_without_proof():
    """Half fail at once and the others live on; all live until 5 ps and then fail."""
    split = watched([*[100] * 15, *[9000] * 15])
    sudden = watched(np.linspace(2900, 3100, 30))
    found = compare_survival(*split, *sudden)
    assert (found.early, found.late) == ("second", "first")
    assert found.longer(0.05) is None
    level = compare_survival(*watched(np.linspace(500, 5500, 30)), *watched(np.linspace(1500, 8000, 30)))
    assert not level.cross


def test_the_restricted_mean_by_hand():
    a, b = watched([1000, 3000, 7000]), watched([2000, 5000, 9000])
    found = restricted_mean_difference(*a, *b)
    assert found.value == pytest.approx((1000 + 3000 + 6000) / 3 - (2000 + 5000 + 6000) / 3)
    theirs = stats.ttest_ind(a[0], b[0], equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    censored = restricted_mean_difference([1, 2, 3, 4.0], [True, False, True, False], [2, 2, 4.0], [True, True, False])
    assert np.isfinite([censored.low, censored.high]).all()
    assert np.isnan(restricted_mean_difference([1.0], [True], [2.0], [True]).low)


def test_the_share_alive_has_wilsons_interval():
    found = share_alive(30, 30)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.8865, abs=1e-3)


def rate(make, repeats: int = 400, significance: float = 0.05) -> float:
    rng = np.random.default_rng(3)
    found = [compare_survival(*watched(make(rng)), *watched(make(rng))).longer(significance) for _ in range(repeats)]
    return sum(who is not None for who in found) / repeats


EQUAL = {
    "early": lambda rng: rng.exponential(300, 30),
    "late": lambda rng: rng.exponential(40_000, 30),
    "few": lambda rng: rng.exponential(5000, 5),
    "three": lambda rng: rng.exponential(2000, 3),
    "ties": lambda rng: 1000.0 * rng.integers(1, 8, 30),
    "two kinds": lambda rng: np.where(rng.random(30) < 0.5, rng.exponential(100, 30), 9000.0),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_equal_potentials_are_told_apart_as_rarely_as_promised(kind):
    assert rate(EQUAL[kind]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_unequal_potentials_are_told_apart():
    rng = np.random.default_rng(4)
    pairs = [(watched(rng.exponential(1500, 30)), watched(rng.exponential(6000, 30))) for _ in range(100)]
    found = [compare_survival(*a, *b).longer(0.05 / 7) for a, b in pairs]
    assert found.count("second") > 80
    assert found.count("first") == 0
