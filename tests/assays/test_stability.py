"""The stability assay: survival statistics by hand, the published protocol, and runs that fail as planned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from fireassay.assays import stability
from fireassay.assays.assay import Subject
from fireassay.assays.stability import StabilitySettings, energy_drift
from fireassay.data.graph import Graph, edge_vectors, sum_over_neighbours
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.ase import structure_of
from fireassay.potential import LocalPotential, Prediction
from fireassay.records import AssayRecord, environment, load_assay
from fireassay.records.stability import StabilityResult
from toys import Pair


class Bonded(LocalPotential):
    """Morse bonds between all pairs: D (1 - exp(-a (r - r0)))^2 - D, deep or shallow."""

    cutoff = 6.0

    def __init__(self, depth: float = 8.0, width: float = 2.0, length: float = 1.2) -> None:
        super().__init__()
        self.arguments = {"depth": depth, "width": width, "length": length}
        self.depth, self.width, self.length = depth, width, length

    def local(self, graph: Graph) -> tuple[torch.Tensor, torch.Tensor]:
        r = edge_vectors(graph).norm(dim=1)
        pair = self.depth * (torch.exp(-self.width * (r - self.length)) - 1) ** 2 / 2
        atoms = sum_over_neighbours(pair, graph)
        return atoms, atoms.unsqueeze(1)


def triangle() -> Structure:
    return structure_of(Atoms("C3", [[0, 0, 0], [1.2, 0, 0], [0.6, 1.0392304845, 0]]))


def short(**changes) -> StabilitySettings:
    base = {"replicas": 6, "duration": 60.0, "drift_duration": 0.0, "temperature": 300.0, "record_every": 5}
    return StabilitySettings(**{**base, **changes})


def run(potential, start, settings, **more) -> StabilityResult:
    return stability.run(Subject(predictor=potential, start=start, **more), settings)


def test_a_sound_potential_survives_and_everything_is_recorded(tmp_path: Path):
    result = run(Bonded(), triangle(), short(), name="morse", folder=tmp_path)
    assert result.failures == []
    assert result.times.mean == result.protocol.duration == 60.0
    assert result.curve.median is None
    assert result.curve.mean == 60.0
    assert result.n_bonds == 3
    assert result.protocol.criteria == [
        "not_finite",
        "bond_length",
        "closest_approach",
        "temperature",
        "energy_jump",
        "atom_energy_jump",
    ]
    assert result.replica_steps_per_second is not None
    assert result.replica_steps_per_second > 0
    assert result.temperature.shape == result.potential_energy.shape == (13, 6)
    assert result.time.tolist() == list(range(0, 61, 5))
    assert result.last_frames.shape == result.last_forces.shape == (6, 20, 3, 3)
    assert not result.failed.any()
    assert np.isfinite(result.temperature).all()
    record = AssayRecord("stability", "morse", "", {}, {}, environment(), result)
    assert load_assay(record.save(tmp_path), StabilityResult).result.failed.tolist() == [False] * 6
    assert not list(tmp_path.glob(".stability*"))


def test_a_weak_bond_breaks_and_the_report_says_which():
    result = run(Bonded(depth=0.15), triangle(), short(temperature=3000.0, duration=400.0))
    failed, time = result.failed, result.time_to_failure
    assert failed.any()
    assert [f.criterion for f in result.failures] == ["bond_length"] * int(failed.sum())
    for failure in result.failures:
        replica, (i, j) = failure.replica, failure.atoms
        assert failed[replica]
        assert time[replica] == failure.time == failure.step * 1.0
        frames = result.last_frames[replica]
        lengths = np.linalg.norm(frames[:, j] - frames[:, i], axis=1)
        assert lengths[-1] == pytest.approx(failure.value)
        assert failure.limit == 2.0 < failure.value
        assert (lengths[:-1][np.isfinite(lengths[:-1])] <= 2.0).all()
        seen = np.isfinite(result.temperature[:, replica])
        assert seen.sum() == failure.step // 5 + 1
    assert time[~failed].tolist() == [400.0] * int((~failed).sum())


def test_published_is_appendix_b():
    published = StabilitySettings.published()
    assert published == StabilitySettings(protocol="published")
    assert (published.replicas, published.temperature, published.timestep, published.duration) == (30, 1600, 1, 6000)
    assert (published.thermostat, published.time_constant, published.bond_limit) == ("berendsen", 250, 2.0)
    assert published.bond_stretch is published.closest_approach is published.temperature_range is None
    assert published.energy_jump is None
    assert StabilitySettings.published(duration=100.0).duration == 100
    with pytest.raises(ValueError, match="extra"):
        StabilitySettings(temprature=3)  # type: ignore[call-arg]
    result = run(Bonded(), triangle(), StabilitySettings.published(replicas=3, duration=20.0, drift_duration=0))
    assert result.protocol.criteria == ["not_finite", "bond_length"]
    assert result.protocol.settings["degrees_of_freedom"] == "all"


def test_temperature_of_the_two_conventions():
    """Free particles: 3n against 3n - 6 degrees of freedom for the same velocities scale T by (n - 2) / n."""
    gas = structure_of(Atoms("He8", np.random.default_rng(0).normal(0, 30, (8, 3))))
    common = {"thermostat": "none", "duration": 5.0, "record_every": 1}
    moving = run(Pair(), gas, short(**common)).temperature
    everything = run(Pair(), gas, short(**common, degrees_of_freedom="all")).temperature
    np.testing.assert_allclose(everything, moving * 18 / 24)


def test_bulk_runs_without_bonds_and_notices_what_goes_wrong():
    crystal = structure_of(bulk("Ar", "fcc", a=4.2, cubic=True))
    result = run(Pair(cutoff=4.5), crystal, short(temperature=100.0, timestep=2.0))
    assert not result.failed.any()
    assert "bond_length" not in result.protocol.criteria

    class Attractive(Pair):
        def local(self, graph):
            energies, density = super().local(graph)
            return -energies, density

    collapsed = run(Attractive(cutoff=4.5, epsilon=5.0), crystal, short(temperature=300.0, timestep=2.0, duration=400))
    assert collapsed.failed.all()
    assert {f.criterion for f in collapsed.failures} <= {
        "closest_approach",
        "temperature",
        "energy_jump",
        "atom_energy_jump",
    }
    with pytest.raises(InputError, match="there are none"):
        run(Pair(), crystal, short(bonds="on"))


def test_relaxing_first():
    stretched = triangle()
    stretched = Structure(stretched.atomic_numbers, stretched.positions * 1.1)
    result = run(Bonded(), stretched, short(relax=True))
    assert result.start.relaxed is True
    assert result.start.largest_force is not None
    assert result.start.largest_force < 0.01
    np.testing.assert_array_equal(result.start.positions, stretched.positions)  # as given


def test_interrupted_assay_goes_on(tmp_path: Path):
    class Stubborn(Bonded):
        calls, at = 0, 20

        def frozen(self):
            return self

        def local(self, graph):
            Stubborn.calls += 1
            if Stubborn.calls == Stubborn.at:
                raise KeyboardInterrupt
            return super().local(graph)

    whole = run(Bonded(), triangle(), short())
    with pytest.raises(KeyboardInterrupt):
        run(Stubborn(), triangle(), short(), folder=tmp_path)
    assert list(tmp_path.glob(".stability*"))
    Stubborn.calls = 100
    again = run(Stubborn(), triangle(), short(), folder=tmp_path)
    assert Stubborn.calls == 100 + 60 - 18
    np.testing.assert_array_equal(again.last_frames, whole.last_frames)
    np.testing.assert_array_equal(again.temperature, whole.temperature)


def test_drift_of_a_smooth_potential_falls_fourfold_and_is_small():
    result = run(Bonded(), triangle(), short(drift_duration=400.0, timestep=1.0, duration=2.0))
    assert result.drift.fluctuation_ratio == pytest.approx(4, rel=0.15)
    assert abs(result.drift.rate) < result.drift.fluctuation / 0.4


def test_energy_drift_of_a_straight_line():
    time = np.arange(0, 101.0)
    energy = np.stack([3e-4 * time - 500, -1e-4 * time + 7], axis=1)
    rate, fluctuation = energy_drift(time, energy, 10)
    assert rate == pytest.approx(1e-4 * 1e3 * 1e3 / 10)  # eV/fs to meV/ps, per atom
    assert fluctuation == pytest.approx(0, abs=1e-9)
    energy[50, 0] = np.nan
    assert energy_drift(time, energy, 10)[0] == pytest.approx(-10.0)
    energy[50, 1] = np.nan
    assert energy_drift(time, energy, 10) == (None, None)


def test_a_calculator_that_is_no_potential_can_be_assayed():
    class Still:
        cutoff, species, dtype = 0.0, None, torch.float64

        def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
            return Prediction(torch.zeros(graph.n_structures), torch.zeros_like(graph.positions))

    result = run(Still(), triangle(), short(duration=100.0, temperature=30.0))
    assert result.time_to_failure.shape == result.failed.shape == (6,)


class Falling:
    """No forces, until at one call a single atom of the first replica is hit."""

    cutoff, species, dtype = 0.0, None, torch.float64

    def __init__(self, call: int, blow: float) -> None:
        self.call, self.blow, self.calls = call, blow, 0

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        self.calls += 1
        pull = torch.zeros_like(graph.positions)
        if self.calls == self.call:
            pull[3, 0] = self.blow
        return Prediction(pull.new_zeros(graph.n_structures), pull)


def test_water_in_a_box_cannot_fall_apart_unnoticed():
    """A hydrogen that leaves its oxygen, through the periodic boundary: bonds of the box are followed by default."""
    atoms = molecule("H2O", vacuum=2.0) * (3, 3, 3)
    atoms.pbc = True
    shifted = atoms.copy()
    shifted.positions += 0.5 * shifted.cell.array.diagonal() / 3
    shifted.wrap()
    for box in (structure_of(atoms), structure_of(shifted)):
        calm = run(Falling(10**9, 0.0), box, short(thermostat="none", temperature=20.0, closest_approach=None))
        assert calm.n_bonds == 54
        assert not calm.failed.any()
    quiet = short(thermostat="none", temperature=20.0, atom_energy_jump=None, closest_approach=None)
    hit = run(Falling(10, 80.0), structure_of(shifted), quiet)
    assert len(hit.failures) == 1, hit.failures
    failure = hit.failures[0]
    assert failure.criterion == "bond_length"
    assert 3 in failure.atoms


def test_a_local_catastrophe_is_not_diluted_over_the_cell():
    """One of 4 000 atoms gains 30 eV: 8 meV per atom of the cell, which no mean would show."""
    crystal = structure_of(bulk("Ar", "fcc", a=5.3, cubic=True) * 10)
    settings = short(thermostat="none", temperature=50.0, replicas=2, closest_approach=None)
    result = run(Falling(20, 500.0), crystal, settings)
    (failure,) = result.failures
    assert (failure.criterion, failure.atoms, failure.unit) == ("atom_energy_jump", [3], "eV")
    assert failure.value > failure.limit == pytest.approx(2.0 + 10 * 8.617333e-5 * 50.0)
    off = run(Falling(20, 500.0), crystal, settings.model_copy(update={"atom_energy_jump": None}))
    assert off.failures == []
    assert StabilitySettings.published().atom_energy_jump is None
