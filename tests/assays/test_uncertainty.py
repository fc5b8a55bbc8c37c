"""The uncertainty assay on a small network, its numbers recomputed from its own arrays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fireassay.assays import uncertainty
from fireassay.assays.assay import Need, Subject, missing
from fireassay.assays.uncertainty import ASSAY, UncertaintySettings
from fireassay.data.fingerprint import fingerprint
from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import LocalPotential
from fireassay.records import AssayRecord, ErrorTrajectory, environment, load_assay
from fireassay.records.uncertainty import UncertaintyResult
from fireassay.uncertainty import calibration
from fireassay.uncertainty.ltau import LTAU
from toys import Network


def frames(n: int, seed: int, spread: float = 0.1, forces: bool = True) -> list[Structure]:
    rng, truth, out = np.random.default_rng(seed), Network([1, 8], seed=1).double(), []
    base = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [3.0, 0, 0], [3.5, 0.8, 0.0]])
    for _ in range(n):
        bare = Structure(np.array([8, 1, 1, 8, 1]), base + spread * rng.normal(size=(5, 3)))
        found = truth.predict(from_structures([bare], 4.0))
        label = found.forces.numpy() if forces else None
        out.append(Structure(bare.atomic_numbers, bare.positions, energy=float(found.energy[0]), forces=label))
    return out


def log(potential: LocalPotential, train: list[Structure], epochs: int = 30) -> ErrorTrajectory:
    """Errors of a pretended training: the true ones times noise."""
    rng = np.random.default_rng(0)
    trajectory = ErrorTrajectory.empty(np.array([len(s) for s in train]), frames=fingerprint(train))
    graph = from_structures(train, potential.cutoff)
    true = np.concatenate([s.forces for s in train if s.forces is not None])
    error = np.linalg.norm(potential.predict(graph).forces.numpy() - true, axis=1)
    for _ in range(epochs):
        trajectory.add(np.arange(len(error)), error * np.exp(0.3 * rng.normal(size=len(error))))
    return trajectory


@pytest.fixture(scope="module")
def potential() -> LocalPotential:
    return Network([1, 8]).double()


@pytest.fixture(scope="module")
def train() -> list[Structure]:
    return frames(60, 0)


def run(potential, train, splits, settings=None, held=(), errors=None, **more) -> UncertaintyResult:
    errors = log(potential, train) if errors is None else errors
    subject = Subject(predictor=potential, train=train, validation=held, test=splits, errors=errors, **more)
    return uncertainty.run(subject, settings or UncertaintySettings())


@pytest.fixture(scope="module")
def result(potential: LocalPotential, train: list[Structure]) -> UncertaintyResult:
    splits = {"cold": frames(60, 1), "hot": frames(50, 2, 0.4), "bare": frames(3, 3, forces=False)}
    return run(potential, train, splits, held=frames(20, 4))


def test_values_follow_from_the_arrays(result):
    for split, n in (("cold", 300), ("hot", 250)):
        found = result.splits[split]
        own = found.estimators["published"]
        assert own.uncertainty.shape == found.error.shape == (n,)
        assert found.mean_error == pytest.approx(found.error.mean())
        assert own.mean_uncertainty == pytest.approx(own.uncertainty.mean())
        assert own.pearson.value == pytest.approx(stats.pearsonr(own.uncertainty, found.error).statistic)
        assert own.spearman.value == pytest.approx(stats.spearmanr(own.uncertainty, found.error).statistic)
        assert own.pearson.low < own.pearson.value < own.pearson.high
        assert own.area.low <= own.area.value <= own.area.high
        assert found.frames >= found.units >= 5
        assert found.domain.outside_fraction == np.mean(found.distance > result.ood_cutoff)
        gap = own.coverage - result.levels
        assert own.area.value == pytest.approx(np.abs(gap).mean(), abs=0.01)
        assert own.area.value == pytest.approx(own.over + own.under)
        assert own.published == pytest.approx(np.abs(own.coverage_published - result.levels).mean(), abs=0.01)
        assert (np.diff(own.coverage) >= 0).all()
    pooled = np.concatenate([result.splits["cold"].error, result.splits["hot"].error])
    assert result.large_error == pytest.approx(np.quantile(pooled, 0.9))


def test_the_domain_says_on_how_many_atoms_it_rests(result):
    for split in ("cold", "hot"):
        domain, error = result.splits[split].domain, result.splits[split].error
        assert domain.atoms == len(error)
        assert domain.large == (error > result.large_error).sum()
        assert domain.outside == (result.splits[split].distance > result.ood_cutoff).sum()


def test_few_frames_have_no_intervals(potential, train):
    found = run(potential, train, {"x": frames(12, 8)}).splits["x"]
    assert found.units < 5
    assert found.estimators["published"].spearman.low is None
    assert found.domain.auroc is None or found.domain.auroc.low is None


def test_what_the_toy_must_show(result):
    cold, hot = result.splits["cold"], result.splits["hot"]
    assert "bare" not in result.splits
    assert result.n_training_atoms == 300
    assert cold.estimators["published"].spearman.value > 0.5
    assert hot.domain.outside_fraction > cold.domain.outside_fraction
    aware = [split.estimators["distance_aware"] for split in (cold, hot)]
    assert aware[1].mean_uncertainty > aware[0].mean_uncertainty
    assert aware[0].area.value < 0.15
    assert result.cost.share > 0
    assert result.cost.share == pytest.approx(result.cost.search / result.cost.force)


def test_the_result_survives_the_disk(result, tmp_path):
    record = AssayRecord("uncertainty", "toy", "w", {}, {}, environment(), result)
    again = load_assay(record.save(tmp_path), UncertaintyResult).result
    expected = result.splits["hot"].estimators["published"].coverage
    np.testing.assert_array_equal(again.splits["hot"].estimators["published"].coverage, expected)


def test_either_estimator_may_come_first(potential, train, result):
    settings = UncertaintySettings(estimator="distance_aware", intervals=False)
    other = run(potential, train, {"hot": frames(50, 2, 0.4)}, settings, held=frames(20, 4)).splits["hot"]
    assert list(other.estimators) == ["distance_aware", "published"]
    for name, found in other.estimators.items():
        expected = result.splits["hot"].estimators[name]
        assert found.area.value == pytest.approx(expected.area.value)
        assert found.crps == pytest.approx(expected.crps)
        assert found.mean_uncertainty == pytest.approx(expected.mean_uncertainty)
        assert found.pearson.low is None


def test_atoms_without_forces_are_left_out(potential, train):
    part = frames(10, 5)
    part[3] = Structure(part[3].atomic_numbers, part[3].positions, energy=part[3].energy)
    found = run(potential, train, {"x": part}).splits["x"]
    assert np.isnan(found.error).reshape(10, 5).all(1).tolist() == [n == 3 for n in range(10)]
    assert np.isfinite(found.estimators["published"].uncertainty).all()
    assert np.isfinite(found.estimators["published"].crps)
    assert found.domain.atoms == 45


class Breaking(Network):
    """Not finite in the forces of structures whose first atom lies beyond x = 90 Å."""

    def predict(self, graph, forces=True, stress=False, *, differentiable=False):
        found = super().predict(graph, forces, stress, differentiable=differentiable)
        if found.forces is not None:
            far = graph.positions[:, 0] > 90
            found = found._replace(forces=found.forces.masked_fill(far.unsqueeze(1), float("nan")))
        return found


def test_a_force_that_is_not_finite_is_an_error_that_no_interval_covers(train):
    potential = Breaking([1, 8]).double()
    hot = frames(10, 2, 0.4)
    away = [
        Structure(s.atomic_numbers, s.positions + np.array([100.0, 0, 0]), energy=s.energy, forces=s.forces)
        for s in hot
    ]
    settings = UncertaintySettings(large_error=1e-9, intervals=False)
    sound = run(potential, train, {"x": hot}, settings).splits["x"]
    broken = run(potential, train, {"x": [*hot, *away]}, settings).splits["x"]
    assert (sound.not_finite, broken.not_finite) == (0, 50)
    assert broken.domain.large == sound.domain.large + 50
    assert broken.mean_error == pytest.approx(sound.mean_error)
    covered, before = (s.estimators["published"].coverage for s in (broken, sound))
    np.testing.assert_allclose(covered, before / 2)
    assert broken.estimators["published"].over > sound.estimators["published"].over


def test_other_frames_of_the_same_sizes_are_refused(potential, train):
    others = frames(60, 77)
    assert [len(s) for s in others] == [len(s) for s in train]
    with pytest.raises(InputError, match=r"leave data\.train"):
        run(potential, others, {"x": frames(2, 1)}, errors=log(potential, train))
    swapped = [*train[1:], train[0]]
    with pytest.raises(InputError, match="fingerprint"):
        run(potential, swapped, {"x": frames(2, 1)}, errors=log(potential, train))


def test_scores_do_not_depend_on_chunks():
    rng = np.random.default_rng(0)
    points, true = rng.normal(size=(80, 3)).astype(np.float32), np.abs(rng.normal(size=50))
    true[[3, 20]] = np.nan
    trajectory = ErrorTrajectory.empty(np.array([80]))
    for _ in range(5):
        trajectory.add(np.arange(80), np.abs(rng.normal(size=80)))
    model, queries = LTAU().fit(points, trajectory), rng.normal(size=(50, 3)).astype(np.float32)
    known = ~np.isnan(true)
    whole = model.predict(queries[known]).distribution
    for chunk in (7, 1000):
        scores = uncertainty._scores(model, queries, true, "published", chunk)
        assert scores.crps == pytest.approx(calibration.crps(whole, true[known]))
        assert scores.nll == pytest.approx(calibration.nll(whole, true[known]))
        np.testing.assert_allclose(scores.variance[known], whole.variance())
        np.testing.assert_allclose(scores.confidence[known], calibration.confidence(whole, true[known]))
        assert np.isnan(scores.confidence[[3, 20]]).all()


def test_bad_input_is_named(potential, train):
    trajectory, told = log(potential, train), []
    with pytest.raises(InputError, match=r"data\.train gives 59"):
        run(potential, train[:-1], {"x": frames(2, 1)}, errors=trajectory)
    bare = Subject(predictor=potential, train=train, test={"x": frames(2, 1, forces=False)}, errors=trajectory)
    assert ASSAY.needs[-1] is Need.TEST_FORCES
    assert "test frames with forces" in (missing(ASSAY, bare) or "")
    settings = UncertaintySettings(estimator="distance_aware")
    with pytest.raises(InputError, match="needs held-out frames"):
        run(potential, train, {"x": frames(2, 1)}, settings)
    nitrogen = Structure(np.array([7, 7]), np.array([[0.0, 0, 0], [1.1, 0, 0]]), forces=np.zeros((2, 3)))
    part = run(potential, train, {"x": frames(4, 1), "y": [nitrogen]}, tell=told.append)
    assert list(part.splits) == ["x"]
    assert "[7]" in part.refused["y"]
    assert "split y" in told[0]
    with pytest.raises(InputError, match="no split can be judged"):
        run(potential, train, {"y": [nitrogen]})
