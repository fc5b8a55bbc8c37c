"""Displacements, velocities and their spectra: Brownian motion, oscillators, and public packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fireassay.errors import InputError
from fireassay.observables.motion import (
    block_means,
    decorrelation_time,
    density_of_states,
    deviation_from_start,
    diffusion_of,
    diffusivity,
    mean_squared_displacement,
    squared_displacements,
    velocities_of,
    velocity_autocorrelation,
)

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "observables.npz")


def test_displacements_and_correlations_are_tidynamics():
    n = len(REFERENCE["positions"])
    ours = squared_displacements(REFERENCE["positions"], n)
    np.testing.assert_allclose(ours, REFERENCE["tidynamics_msd"], atol=1e-10)
    c = velocity_autocorrelation(REFERENCE["velocities"], lags=n)
    theirs = REFERENCE["tidynamics_acf"].mean(1)
    np.testing.assert_allclose(c, theirs / theirs[0], atol=1e-12)


def test_displacements_by_definition_far_from_the_origin():
    rng = np.random.default_rng(0)
    x = 1e4 + np.cumsum(rng.normal(size=(50, 3, 3)), axis=0)
    plain = [np.mean([((x[t + lag] - x[t]) ** 2).sum(1) for t in range(50 - lag)], axis=0) for lag in range(26)]
    np.testing.assert_allclose(squared_displacements(x), plain, atol=1e-8)
    groups = np.array([0, 1, 1])
    grouped = mean_squared_displacement(x, groups)
    np.testing.assert_allclose(grouped[:, 1], np.array(plain)[:, 1:].mean(1), atol=1e-8)


def test_brownian_motion_has_its_diffusivity():
    """Steps of variance 2 D Δt along each direction; the error bar covers the truth as often as it says."""
    rng = np.random.default_rng(3)
    d, interval, parts = 0.02, 5.0, 10
    covered = []
    for _ in range(20):
        steps = rng.normal(size=(parts, 400, 8, 3)) * np.sqrt(2 * d * interval)
        msd = np.stack([squared_displacements(np.cumsum(part, axis=0), 101).mean(1) for part in steps])
        found = diffusion_of(msd, interval, (50.0, 500.0))
        covered.append(abs(found.value - d) < 2 * found.error)
        assert found.value == pytest.approx(d, abs=6 * found.error)
        assert found.error < 0.2 * d
    assert sum(covered) >= 15
    assert found.window == (50.0, 500.0)


def test_a_straight_line_of_displacements():
    t = np.arange(50) * 2.0
    assert diffusivity(6 * 0.3 * t + 1.0, 2.0, (10.0, 80.0)) == pytest.approx(0.3)
    assert diffusivity(4 * 0.3 * t + 1.0, 2.0, (10.0, 80.0), 2) == pytest.approx(0.3)
    assert np.isnan(diffusion_of((6 * 0.3 * t)[None], 2.0, (10.0, 80.0)).error)
    with pytest.raises(InputError, match="needs two points, the displacement has 0 of its 50 there, up to 98 fs"):
        diffusivity(t, 2.0, (200.0, 300.0))
    with pytest.raises(InputError, match="60 lags of a trajectory of 50 frames"):
        squared_displacements(np.zeros((50, 1, 3)), 60)


@pytest.mark.parametrize("differences", [False, True])
def test_oscillators_appear_at_their_frequencies(differences: bool):
    """Two harmonic modes of 10 and 40 THz, the second of an atom three times as heavy and as warm as the first."""
    interval, n = 6.0, 4000
    t = np.arange(n) * interval
    omega = 2 * np.pi * np.array([10.0, 40.0]) * 1e-3
    masses = np.array([1.0, 3.0])
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (2, 3))
    modes = list(zip(omega, phases, np.sqrt(masses), strict=True))
    x = np.stack([np.sin(w * t[:, None] + p) / w / m for w, p, m in modes], 1)
    v = np.stack([np.cos(w * t[:, None] + p) / m for w, p, m in modes], 1)
    velocities = velocities_of(x, interval) if differences else v
    c = velocity_autocorrelation(velocities, masses, 1000)
    assert c[0] == 1.0
    spectrum = density_of_states(c, interval, differences)
    step = spectrum.frequency[1]
    assert spectrum.density.sum() * step == pytest.approx(1.0)
    shares = []
    for middle in (10.0, 40.0):
        near = np.abs(spectrum.frequency - middle) < 4.0
        assert spectrum.frequency[near][spectrum.density[near].argmax()] == pytest.approx(middle, abs=0.3)
        shares.append(spectrum.density[near].sum() * step)
    assert shares == pytest.approx([0.5, 0.5], abs=0.02)
    assert spectrum.frequency[-1] <= 1e3 / (2 * interval) + 1e-9


def test_deviation_from_the_start():
    x = np.zeros((3, 2, 3))
    x[1, 0] = [3, 0, 0]
    x[2] = 1.0
    assert deviation_from_start(x).tolist() == pytest.approx([0.0, 3 / np.sqrt(2), np.sqrt(3)])


def test_block_means_know_their_error():
    rng = np.random.default_rng(1)
    mean, error = block_means(rng.normal(size=5000))
    assert abs(mean) < 4 * error
    assert error == pytest.approx(1 / np.sqrt(5000), rel=0.9)
    assert np.isnan(block_means(np.ones(3))[1])


def test_decorrelation():
    time = np.arange(5) * 10.0
    assert decorrelation_time(np.array([0, 0.3, 0.71, 0.6, 0.9]), time) == 20.0
    assert decorrelation_time(np.full(5, 0.5), time) is None
