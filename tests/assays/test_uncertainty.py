"""The uncertainty assay on a small network, its numbers recomputed from its own arrays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fireassay.assays import uncertainty
from fireassay.assays.uncertainty import UncertaintySettings
from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import LocalPotential
from fireassay.records import AssayResult, ErrorTrajectory
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
    trajectory = ErrorTrajectory.empty(np.array([len(s) for s in train]))
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


@pytest.fixture(scope="module")
def result(potential: LocalPotential, train: list[Structure]) -> AssayResult:
    splits = {"cold": frames(20, 1), "hot": frames(15, 2, 0.4), "bare": frames(3, 3, forces=False)}
    return uncertainty.run(
        potential, train, log(potential, train), splits, calibration_frames=frames(20, 4), name="toy"
    )


def value(result: AssayResult, name: str) -> float:
    return result.values[name].value


def test_values_follow_from_the_arrays(result):
    for split, n in (("cold", 100), ("hot", 75)):
        said, true = result.arrays[f"{split}.uncertainty"], result.arrays[f"{split}.error"]
        distance, covered = result.arrays[f"{split}.distance"], result.arrays[f"{split}.coverage"]
        assert said.shape == true.shape == (n,)
        assert value(result, f"{split}.mean_error") == pytest.approx(true.mean())
        assert value(result, f"{split}.mean_uncertainty") == pytest.approx(said.mean())
        assert value(result, f"{split}.pearson") == pytest.approx(stats.pearsonr(said, true).statistic)
        assert value(result, f"{split}.spearman") == pytest.approx(stats.spearmanr(said, true).statistic)
        assert value(result, f"{split}.pearson_lower") < value(result, f"{split}.pearson")
        assert value(result, f"{split}.ood_fraction") == np.mean(distance > value(result, "ood_cutoff"))
        gap = covered - result.arrays["levels"]
        assert value(result, f"{split}.area") == pytest.approx(np.abs(gap).mean(), abs=0.01)
        assert value(result, f"{split}.area") == pytest.approx(
            value(result, f"{split}.area_over") + value(result, f"{split}.area_under")
        )
        assert (np.diff(covered) >= 0).all()
    pooled = np.concatenate([result.arrays["cold.error"], result.arrays["hot.error"]])
    assert value(result, "large_error") == pytest.approx(np.quantile(pooled, 0.9))


def test_what_the_toy_must_show(result):
    assert not [name for name in result.values if name.startswith("bare")]
    assert value(result, "n_training_atoms") == 300
    assert value(result, "cold.spearman") > 0.5
    assert value(result, "hot.ood_fraction") > value(result, "cold.ood_fraction")
    assert value(result, "hot.distance_aware.mean_uncertainty") > value(result, "cold.distance_aware.mean_uncertainty")
    assert value(result, "cold.distance_aware.area") < 0.15
    assert value(result, "cost_share") > 0
    assert value(result, "cost_share") == pytest.approx(
        value(result, "search_seconds_per_atom") / value(result, "force_seconds_per_atom")
    )
    assert result.units["hot.uncertainty"] == result.units["hot.distance_aware.uncertainty"] == "eV/Å"
    assert set(result.units) == set(result.arrays)


def test_the_result_survives_the_disk(result, tmp_path):
    again = AssayResult.load(result.save(tmp_path))
    np.testing.assert_array_equal(again.arrays["hot.coverage"], result.arrays["hot.coverage"])


def test_either_estimator_may_come_first(potential, train, result):
    settings = UncertaintySettings(estimator="distance_aware", bootstrap=0)
    other = uncertainty.run(
        potential, train, log(potential, train), {"hot": frames(15, 2, 0.4)}, settings, calibration_frames=frames(20, 4)
    )
    for key in ("area", "crps", "mean_uncertainty"):
        assert value(other, f"hot.{key}") == pytest.approx(value(result, f"hot.distance_aware.{key}"))
        assert value(other, f"hot.published.{key}") == pytest.approx(value(result, f"hot.{key}"))
    assert "hot.pearson_lower" not in other.values


def test_atoms_without_forces_are_left_out(potential, train):
    part = frames(10, 5)
    part[3] = Structure(part[3].atomic_numbers, part[3].positions, energy=part[3].energy)
    found = uncertainty.run(potential, train, log(potential, train), {"x": part})
    assert np.isnan(found.arrays["x.error"]).reshape(10, 5).all(1).tolist() == [n == 3 for n in range(10)]
    assert np.isfinite(found.arrays["x.uncertainty"]).all()
    assert np.isfinite(value(found, "x.crps"))


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
    trajectory = log(potential, train)
    with pytest.raises(InputError, match="give the frames that the potential was trained on"):
        uncertainty.run(potential, train[:-1], trajectory, {"x": frames(2, 1)})
    with pytest.raises(InputError, match="needs true errors"):
        uncertainty.run(potential, train, trajectory, {"x": frames(2, 1, forces=False)})
    settings = UncertaintySettings(estimator="distance_aware")
    with pytest.raises(InputError, match="needs held-out frames"):
        uncertainty.run(potential, train, trajectory, {"x": frames(2, 1)}, settings)
    with pytest.raises(InputError, match="unknown to the potential"):
        uncertainty.run(Network([1]), train, trajectory, {"x": frames(2, 1)})
