"""The tests behind the verdict against textbook numbers and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from fireassay.report.statistics import frame_sums, log_rank, rmse_difference, thinned, wilson

# Remission times in weeks of leukaemia patients (Freireich et al. 1963, as printed in Cox and Oakes, Analysis of
# Survival Data, table 1.1); the log-rank statistic is 16.79 on one degree of freedom.
_6MP = [6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]
_6MP_FAILED = [True] * 9 + [False] * 12
_PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def test_log_rank_of_the_leukaemia_trial() -> None:
    first, failed = np.array(_6MP, dtype=float), np.array(_6MP_FAILED)
    second = np.array(_PLACEBO, dtype=float)
    p = log_rank(first, failed, second, np.ones(21, dtype=bool))
    assert p == pytest.approx(4.17e-5, rel=5e-3)  # of a chi-square of 16.79


def test_log_rank_without_any_failure_decides_nothing() -> None:
    alive = np.zeros(5, dtype=bool)
    assert log_rank(np.full(5, 6.0), alive, np.full(5, 6.0), alive) == 1.0


def test_wilson_interval_of_ten_out_of_ten() -> None:
    low, high = wilson(10, 10)
    assert low == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6)  # closed form when all succeed
    assert high == 1.0


def test_frame_sums_by_hand() -> None:
    sums, count = frame_sums(np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 3]]), np.array([0, 0, 1]))
    assert sums.tolist() == [5.0, 9.0]
    assert count.tolist() == [6, 3]


def test_bootstrap_interval_covers_the_truth_at_its_level() -> None:
    rng = np.random.default_rng(0)
    truth = np.sqrt(1.3) - 1.0
    hits = 0
    for trial in range(200):
        a, b = 1.3 * rng.chisquare(9, 80), rng.chisquare(9, 80)
        difference = rmse_difference(a, b, np.full(80, 9), resamples=400, seed=trial)
        hits += difference.low <= truth <= difference.high
    assert 0.90 <= hits / 200 <= 0.985


def test_bootstrap_is_paired_and_signed() -> None:
    b = np.random.default_rng(1).chisquare(9, 50)
    worse = rmse_difference(1.21 * b, b, np.full(50, 9))
    assert worse.decided
    assert worse.value == pytest.approx(0.1 * np.sqrt(b.sum() / 450))
    assert worse.high - worse.low < 0.03  # unpaired, the interval would be several times as wide
    assert not rmse_difference(b, b, np.full(50, 9)).decided


def test_thinning_keeps_the_worst() -> None:
    badness = np.arange(1000.0)
    kept = thinned(badness, 100)
    assert len(np.unique(kept)) == 100
    assert set(range(990, 1000)) <= set(kept.tolist())
    assert thinned(badness[:50], 100).tolist() == list(range(50))
