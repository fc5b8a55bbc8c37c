"""Out-of-domain detection against curves with an obvious knee, and AUROC against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from fireassay.errors import InputError
from fireassay.uncertainty.ood import auroc, knee, recall


def test_knee_of_a_hockey_stick():
    flat, steep = np.linspace(0, 0.1, 91), np.linspace(0.1, 5.0, 10)
    shuffled = np.random.default_rng(0).permutation(np.concatenate([flat, steep[1:]]))
    assert knee(shuffled) == pytest.approx(0.1)


def test_knee_of_a_curve_with_a_known_one():
    x = np.linspace(0, 1, 10_001)
    assert knee(x**3) == pytest.approx((1 / np.sqrt(3)) ** 3, rel=1e-3)  # slope 1 where 3 x^2 = 1


def test_curves_without_a_knee():
    assert knee([2.0, 2.0, 2.0]) == 2.0
    assert knee(np.linspace(0, 1, 50)) == 1.0
    assert knee(np.sqrt(np.linspace(0, 1, 50))) == 1.0
    assert knee([3.0]) == 3.0
    with pytest.raises(InputError):
        knee([np.inf, 1.0])
    with pytest.raises(InputError):
        knee([])


def test_auroc_is_the_share_of_ordered_pairs():
    score, large = np.array([0.1, 0.4, 0.35, 0.8, 0.4]), np.array([0, 0, 1, 1, 1], bool)
    pairs = [(p > n) + 0.5 * (p == n) for p in score[large] for n in score[~large]]
    assert auroc(score, large) == pytest.approx(np.mean(pairs))
    assert auroc([1, 2, 3], [False, False, True]) == 1.0
    assert auroc([1, 1, 1], [False, False, True]) == 0.5
    assert np.isnan(auroc([1, 2], [True, True]))
    with pytest.raises(InputError):
        auroc([1.0], [True, False])


def test_recall():
    assert recall([True, False, True, False], [True, True, False, False]) == 0.5
    assert np.isnan(recall([True], [False]))
    with pytest.raises(InputError):
        recall([True], [True, False])
