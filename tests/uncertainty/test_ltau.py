"""LTAU on descriptors whose neighbours and distributions are known."""

from __future__ import annotations

import numpy as np
import pytest

from fireassay.errors import InputError
from fireassay.records import ErrorTrajectory
from fireassay.uncertainty import calibration
from fireassay.uncertainty.ltau import LTAU

rng = np.random.default_rng(0)


def trajectory(errors: np.ndarray, **bins: float) -> ErrorTrajectory:
    """A log of errors (epochs, atoms)."""
    log = ErrorTrajectory.empty(np.array([errors.shape[1]]), **bins)  # type: ignore[arg-type]
    for epoch in errors:
        log.add(np.arange(errors.shape[1]), epoch)
    return log


def test_prediction_is_the_mean_of_the_nearest_distributions():
    points = rng.normal(size=(200, 6)).astype(np.float32)
    log = trajectory(np.exp(rng.normal(size=(30, 200))))
    query = rng.normal(size=(17, 6)).astype(np.float32)
    model = LTAU(k=4).fit(points, log)
    found = model.predict(query)
    distance = np.linalg.norm(query[:, None].astype(float) - points, axis=2)
    nearest = np.argsort(distance, axis=1)[:, :4]
    mass = log.counts / log.counts.sum(1, keepdims=True)
    np.testing.assert_allclose(found.distribution.mass, mass[nearest].mean(1))
    np.testing.assert_allclose(found.distance, distance.min(1), rtol=1e-5)  # not its square, which faiss returns
    np.testing.assert_allclose(found.expected, found.distribution.mean())
    np.testing.assert_allclose(model.expected_error(query), found.expected)
    centres = np.concatenate([[log.edges[0] / 2], (log.edges[1:] + log.edges[:-1]) / 2, log.edges[-1:]])
    np.testing.assert_allclose(found.expected, mass[nearest].mean(1) @ centres)


def test_the_published_estimator_has_a_wall():
    points = rng.normal(size=(100, 3)).astype(np.float32)
    log = trajectory(rng.uniform(0.01, 0.02, size=(5, 100)))
    model = LTAU(k=5).fit(points, log)
    far = model.predict(1e3 * np.ones((1, 3)))
    assert far.expected[0] < 0.025
    assert far.distance[0] > 1e3


def test_an_atom_is_not_its_own_neighbour_even_among_duplicates():
    points = np.repeat(rng.normal(size=(30, 4)), 2, axis=0).astype(np.float32)  # each point twice
    model = LTAU(k=3).fit(points, trajectory(np.ones((2, 60))))
    atoms = np.arange(60)
    distance, rows = model.neighbours(points, atoms)
    assert (rows != atoms[:, None]).all()
    assert distance[:, 0] == pytest.approx(np.zeros(60), abs=1e-3)
    assert (np.sort(rows[:, 0]) == atoms).all()
    with_self, _ = model.neighbours(points)
    assert (with_self[:, :2] < 1e-3).all()
    mixed, _ = model.neighbours(points[:2], np.array([0, -1]))
    np.testing.assert_allclose(mixed[1], with_self[1], atol=1e-6)


def test_atoms_without_errors_are_left_out():
    points = rng.normal(size=(50, 4)).astype(np.float32)
    log = ErrorTrajectory.empty(np.array([50]))
    log.add(np.arange(0, 50, 2), np.full(25, 0.1))
    model = LTAU(k=3).fit(points, log)
    _, rows = model.neighbours(points, np.arange(50))
    assert len(model.atoms_) == 25
    assert (model.atoms_[rows[::2]] != np.arange(0, 50, 2)[:, None]).all()


def test_standardised_descriptors_ignore_the_scale_of_a_column():
    points = rng.normal(size=(300, 3))
    points[:, 0] *= 1e4
    log = trajectory(np.exp(rng.normal(size=(4, 300))))
    query = rng.normal(size=(20, 3)) * [1e4, 1, 1]
    plain, scaled = LTAU(k=3).fit(points, log), LTAU(k=3, standardise=True).fit(points, log)
    unit = points / points.std(0)
    nearest = np.linalg.norm((query / points.std(0))[:, None] - unit, axis=2).argmin(1)
    assert (scaled.neighbours(query)[1][:, 0] == nearest).all()
    assert (plain.neighbours(query)[1][:, 0] != nearest).any()


def test_approximate_search_finds_nearly_all_neighbours():
    points = rng.normal(size=(5000, 8)).astype(np.float32)
    log = trajectory(np.exp(rng.normal(size=(2, 5000))))
    query = rng.normal(size=(200, 8)).astype(np.float32)
    exact, fast = LTAU(index="flat").fit(points, log), LTAU(index="hnsw").fit(points, log)
    a, b = exact.neighbours(query)[1], fast.neighbours(query)[1]
    hits = np.mean([len(set(x) & set(y)) / 10 for x, y in zip(a.tolist(), b.tolist(), strict=True)])
    assert hits > 0.9


def synthetic(n: int, spread: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Descriptors, local difficulty and errors that grow with the distance from the origin's cloud."""
    x = spread * generator.normal(size=(n, 2))
    hard = 0.02 * np.exp(x[:, 0])
    return x, hard, hard * np.abs(generator.normal(size=n))


def test_distance_aware_keeps_its_coverage_where_the_published_one_loses_it():
    generator = np.random.default_rng(5)
    x, hard, _ = synthetic(3000, 1.0, generator)
    log = trajectory(
        0.3 * hard * np.abs(generator.normal(size=(60, 3000)))
    )  # trained atoms: errors three times smaller
    held, _, held_errors = synthetic(1000, 1.0, generator)
    model = LTAU().fit(x, log).calibrate(held, held_errors)
    new, _, errors = synthetic(4000, 1.0, generator)
    levels = np.linspace(0, 1, 101)

    def area(estimator: str) -> calibration.Areas:
        found = model.predict(new, estimator=estimator)  # type: ignore[arg-type]
        assert found.distribution.mass.sum(1) == pytest.approx(np.ones(4000))
        confidences = calibration.confidence(found.distribution, errors)
        return calibration.miscalibration(levels, calibration.coverage(levels, confidences))

    assert area("published").over > 0.2
    assert area("distance_aware").total < 0.03


def test_distance_aware_grows_with_distance():
    generator = np.random.default_rng(6)
    x = generator.normal(size=(2000, 2))
    log = trajectory(0.01 * np.abs(generator.normal(size=(20, 2000))))
    held = 3 * generator.normal(size=(500, 2))
    model = LTAU(estimator="distance_aware", exponent=None).fit(x, log)
    with pytest.raises(InputError, match="call calibrate"):
        model.predict(held)
    distance = model.neighbours(held)[0][:, 0]
    errors = 0.05 * np.sqrt(1 + (distance / model.width_) ** 2) ** 1.5 * np.abs(generator.normal(size=500))
    model.calibrate(held, errors)
    assert model.exponent_ == pytest.approx(1.5, abs=0.15)
    assert LTAU().fit(x, log).calibrate(held, errors).exponent_ == 1.0
    line = np.stack([np.linspace(4, 40, 10), np.zeros(10)], 1)
    found = model.predict(line)
    assert (np.diff(found.expected) > 0).all()
    far = model.neighbours(line)[0][:, 0]
    truth = 0.05 * (far / model.width_) ** 1.5 * np.sqrt(2 / np.pi)
    assert found.expected == pytest.approx(truth, rel=0.3)
    assert found.distribution.mean() == pytest.approx(found.expected, rel=0.05)
    assert model.expected_error(line) == pytest.approx(found.expected)


def test_saved_and_loaded(tmp_path):
    generator = np.random.default_rng(7)
    x, hard, _ = synthetic(300, 1.0, generator)
    model = LTAU(k=5, standardise=True).fit(x, trajectory(hard * np.ones((3, 300))))
    model.calibrate(*synthetic(100, 1.0, generator)[::2])
    model.save(tmp_path / "ltau.npz")
    again = LTAU.load(tmp_path / "ltau.npz")
    query = generator.normal(size=(20, 2))
    for estimator in ("published", "distance_aware"):
        a, b = model.predict(query, estimator=estimator), again.predict(query, estimator=estimator)
        np.testing.assert_allclose(a.expected, b.expected, rtol=1e-5)
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(InputError, match="not a fitted LTAU"):
        LTAU.load(tmp_path / "other.npz")


def test_bad_input_is_named():
    log = trajectory(np.ones((2, 20)))
    with pytest.raises(InputError, match="19 descriptors for 20 atoms"):
        LTAU().fit(np.zeros((19, 3)), log)
    with pytest.raises(InputError, match="more than k"):
        LTAU(k=20).fit(np.zeros((20, 3)), log)
    with pytest.raises(InputError, match="not finite"):
        LTAU().fit(np.full((20, 3), np.nan), log)
    with pytest.raises(InputError, match="needs \\(N, D\\)"):
        LTAU().fit(np.zeros(20), log)
    model = LTAU().fit(rng.normal(size=(20, 3)), log)
    with pytest.raises(InputError, match="the fit had 3"):
        model.predict(np.zeros((2, 4)))
    with pytest.raises(InputError, match="at least 10"):
        model.calibrate(np.zeros((5, 3)), np.ones(5))
