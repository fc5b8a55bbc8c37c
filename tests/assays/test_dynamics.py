"""The dynamics assay: known vibrations, violations of an oracle, references, failures, interruption, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT

from fireassay.assays import dynamics
from fireassay.assays.assay import Subject
from fireassay.assays.dynamics import DynamicsSettings
from fireassay.data.graph import Graph
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.ase import CalculatorPredictor, structure_of
from fireassay.potential import Prediction
from fireassay.records.assay import AssayRecord, load_assay
from fireassay.records.dynamics import DynamicsResult
from fireassay.records.provenance import environment
from fireassay.units import ACCELERATION
from toys import Pair

SHORT = {"replicas": 3, "equilibration": 100.0, "duration": 400.0, "timestep": 4.0, "stride": 1, "temperature": 80.0}


def short(**changes) -> DynamicsSettings:
    return DynamicsSettings(**{**SHORT, **changes})


def argon() -> Structure:
    return structure_of(bulk("Ar", "fcc", a=5.3, cubic=True) * 2)


def rattled(n: int, amplitude: float) -> list[Structure]:
    rng = np.random.default_rng(0)
    start = argon()
    moved = start.positions + rng.normal(size=(n, *start.positions.shape)) * amplitude
    return [replace(start, positions=x) for x in moved]


class Einstein:
    """Every atom on a spring of its own: one frequency, ω = sqrt(k / m)."""

    cutoff, species, dtype = 0.0, None, torch.float64

    def __init__(self, start: Structure, k: float = 1.5) -> None:
        self.x0, self.k = torch.from_numpy(start.positions), k

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        moved = graph.positions - self.x0.repeat(graph.n_structures, 1)
        energy = 0.5 * self.k * moved.square().view(graph.n_structures, -1).sum(1)
        return Prediction(energy, -self.k * moved, torch.zeros_like(graph.cell) if stress else None)


def test_an_einstein_crystal_vibrates_at_its_frequency_and_keeps_its_energy():
    start = argon()
    result = dynamics.run(Subject(predictor=Einstein(start), start=start), short(duration=4000.0, equilibration=1000.0))
    expected = np.sqrt(1.5 * ACCELERATION / 39.948) / (2 * np.pi) * 1e3  # THz
    v = result.vibrations
    assert v is not None
    assert v.frequency[v.density.argmax()] == pytest.approx(expected, abs=0.15)
    near = np.abs(v.frequency - expected) < 1.5
    assert v.density[near].sum() * v.frequency[1] == pytest.approx(1.0, abs=0.05)
    assert abs(result.drift or 1) < 1e-3
    msd = {d.name: d for d in result.displacements}["Ar"]
    # <|x(t) - x(0)|²> = 2 <u²> (1 - cos ωt), <u²> = 3 k_B T / k; its mean over time is twice <u²>
    kelvin = result.temperature.value
    assert msd.value.mean() == pytest.approx(2 * 3 * 8.617e-5 * kelvin / 1.5, rel=0.15)
    (d,) = result.diffusivities
    assert abs(d.value) < 1e-5
    assert (d.window_from, d.window_to) == (400.0, 1600.0)
    assert result.pressure is not None
    assert result.sampled == 1.0
    assert result.replica_steps_per_second > 0


def test_violations_of_an_oracle_that_is_the_potential_and_of_one_that_is_not():
    start = argon()
    same = dynamics.run(Subject(predictor=Pair(cutoff=6.0), start=start, oracle=Pair(cutoff=6.0)), short(paired=200.0))
    readings = {v.reading: v for v in same.violations}
    assert set(readings) == {"relabelled", "paired"}
    assert readings["relabelled"].force_mean < 1e-12
    assert readings["relabelled"].frames == 99
    assert readings["paired"].decorrelation_time is None
    oracle = Einstein(start, 0.5)
    other = dynamics.run(Subject(predictor=Einstein(start, 0.6), start=start, oracle=oracle), short(paired=400.0))
    readings = {v.reading: v for v in other.violations}
    # Forces differ by a factor of 1.2 everywhere: FV = 0.2 / 2.2, EV = (1.2 - 1)² / (1.2² + 1)
    assert readings["relabelled"].force_mean == pytest.approx(0.2 / 2.2)
    assert readings["relabelled"].energy_mean == pytest.approx(0.04 / 2.44)
    assert readings["paired"].force[0] == pytest.approx(0.2 / 2.2, rel=0.1)
    assert readings["paired"].force.max() > 2 * readings["paired"].force[0]  # out of phase after a while
    assert other.notes == []


def test_a_reference_trajectory_is_compared_in_its_own_time():
    """Frames of the same crystal, sampled by the potential itself, twice as far apart."""
    start = argon()
    from fireassay.simulation.integrators import VelocityVerlet
    from fireassay.simulation.observers import Recorder
    from fireassay.simulation.run import simulate
    from fireassay.simulation.state import generators, maxwell_boltzmann, replicate

    state = maxwell_boltzmann(replicate(start, 1), 160.0, generators(5, 1))
    recorder = Recorder(2, ("positions",))
    simulate(Einstein(start), state, VelocityVerlet(4.0), 500, observers=[recorder])
    frames = [replace(start, positions=x) for x in recorder.arrays()["positions"]]
    settings = short(duration=2000.0, reference_interval=8.0, fit=(100.0, 400.0))
    result = dynamics.run(Subject(predictor=Einstein(start), start=start, reference=frames), settings)
    assert result.references == {"reference trajectory": 251}
    v = result.vibrations
    assert v is not None
    theirs = v.references["reference trajectory"]
    assert v.frequency[theirs.argmax()] == pytest.approx(v.frequency[v.density.argmax()], abs=0.2)
    assert v.likeness["reference trajectory"].wasserstein < 1.0
    assert v.compared_to == pytest.approx(0.8 * 62.5, abs=0.5)
    d = result.displacements[0]
    assert np.isfinite(d.references["reference trajectory"][:126]).all()
    untimed: list[str] = []
    subject = Subject(predictor=Einstein(start), start=start, reference=frames, tell=untimed.append)
    plain = dynamics.run(subject, short())
    assert plain.references == {}

    assert "compare with it by dynamics.reference_interval=FS" in untimed[0]


def test_references_that_do_not_fit_are_refused():
    start = argon()

    def run(frames, **changes):
        dynamics.run(Subject(predictor=Einstein(start), start=start, reference=frames), short(**changes))

    slow = rattled(20, 0.01)
    with pytest.raises(InputError, match=r"lasts 190 fs \(20 frames\), too short for a window up to 160 fs"):
        run(slow, reference_interval=10.0)
    with pytest.raises(InputError, match=r"atoms move as at .* K, and not as at dynamics.temperature=80; the interval"):
        run(rattled(60, 0.5), reference_interval=10.0)  # frames in no order
    with pytest.raises(InputError, match="atoms move as at"):
        run(rattled(60, 1e-4), reference_interval=5.0)
    with pytest.raises(InputError, match=r"dynamics.fit is \[100.0, 300.0\] fs; needs a window within 0 and 200 fs"):
        run([start] * 20, fit=(100.0, 300.0))
    with pytest.raises(InputError, match="less than two frames 40 fs apart"):
        run([start] * 20, stride=10, fit=(100.0, 150.0))
    with pytest.raises(InputError, match="is of Cu32, the start of Ar32"):
        run([structure_of(bulk("Cu", cubic=True) * 2)] * 20, reference_interval=5.0)
    with pytest.raises(InputError, match=r"has 3 frame\(s\); a reference trajectory needs at least 10"):
        run([start] * 3, reference_interval=5.0)


def test_failures_are_counted_and_left_out_and_a_hopeless_start_is_one_line():
    class Sometimes(Einstein):
        calls = 0

        def predict(self, graph, forces=True, stress=False):
            self.calls += 1
            found = super().predict(graph, forces, stress)
            if self.calls in self.bad and found.forces is not None:
                found.forces[: len(self.x0)] = torch.nan
            return found

    start = argon()
    weak = Sometimes(start)
    weak.bad = {60}  # type: ignore[attr-defined]
    result = dynamics.run(Subject(predictor=weak, start=start), short(pressure=False))
    assert len(result.failures) == 1
    assert result.sampled < 1
    assert any("1 of 3 trajectories ended early" in note for note in result.notes)
    dead = Sometimes(start)
    dead.bad = set(range(40, 200))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="no trajectory lives through 400 fs"):
        dynamics.run(Subject(predictor=dead, start=start), short(pressure=False))


def test_an_interrupted_assay_goes_on_and_says_the_same(tmp_path: Path):
    class Stopping(Pair):
        calls = 0

        def frozen(self):
            return self

        def predict(self, *arguments, **options):
            Stopping.calls += 1
            if Stopping.calls in (12, 50):
                raise KeyboardInterrupt
            return super().predict(*arguments, **options)

    start = argon()
    whole = dynamics.run(Subject(predictor=Pair(cutoff=6.0), start=start), short())
    subject = Subject(predictor=Stopping(cutoff=6.0), start=start, folder=tmp_path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            dynamics.run(subject, short())
    assert len(list(tmp_path.glob(".equilibrated-*"))) == 1
    again = dynamics.run(subject, short())
    assert not list(tmp_path.glob(".*.npz"))
    for first, second in zip(whole.displacements, again.displacements, strict=True):
        assert np.array_equal(first.value, second.value)
    assert whole.pressure is not None
    assert again.pressure is not None
    assert whole.pressure.value == again.pressure.value


def test_a_record_is_read_back(tmp_path: Path):
    start = structure_of(bulk("Cu", cubic=True))
    emt = CalculatorPredictor(EMT())
    settings = short(paired=40.0, relabelled=6)
    result = dynamics.run(Subject(predictor=emt, start=start, oracle=emt), settings)
    record = AssayRecord("dynamics", "emt", "", {}, settings.model_dump(mode="json"), environment(), result)
    loaded = load_assay(record.save(tmp_path), DynamicsResult).result
    assert loaded.violations[0].force_mean == result.violations[0].force_mean
    assert loaded.vibrations is not None


def test_hydrogen_has_stable_molecules():
    class Bonds:
        cutoff, species, dtype = 0.0, None, torch.float64

        def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
            x = graph.positions.view(-1, 2, 3)
            bond = x[:, 1] - x[:, 0]
            length = bond.norm(dim=1, keepdim=True)
            pull = -10.0 * (length - 0.74) * bond / length
            energy = 5.0 * (length - 0.74).square().view(graph.n_structures, -1).sum(1)
            return Prediction(energy, torch.stack([-pull, pull], 1).view(-1, 3))

    x = np.array([[0, 0, 0], [0.74, 0, 0], [6, 0, 0], [6.74, 0, 0]], dtype=float)
    gas = Structure(np.ones(4, dtype=np.int64), x, np.eye(3) * 14, np.ones(3, dtype=bool))
    result = dynamics.run(
        Subject(predictor=Bonds(), start=gas), short(timestep=0.5, temperature=50.0, stride=2, pressure=False)
    )
    assert result.molecular_fraction == pytest.approx(1.0)


def test_the_zero_of_energy_is_the_oracles_on_both_sides():
    """A potential whose isolated atoms have another energy than the oracle's stands for the same energies."""

    class Shifted(Einstein):
        def predict(self, graph, forces=True, stress=False):
            if graph.positions.shape[0] < len(self.x0):
                return Prediction(torch.full((graph.n_structures,), -7.0, dtype=torch.float64), None)
            found = super().predict(graph, forces, stress)
            return found._replace(energy=found.energy - 32 * 7.0 - 5.0)

    class Own(Shifted):
        def predict(self, graph, forces=True, stress=False):
            found = super().predict(graph, forces, stress)
            return found._replace(energy=found.energy * 0) if graph.positions.shape[0] < len(self.x0) else found

    start = argon()
    result = dynamics.run(Subject(predictor=Own(start), start=start, oracle=Shifted(start)), short(paired=0.0))
    (violation,) = result.violations
    assert violation.energy_mean < 1e-30
    assert violation.cohesive_mean is not None
    assert violation.cohesive_mean < 1e-30


def test_a_system_that_drifts_as_a_whole_does_not_diffuse_or_vibrate_at_zero():
    """Langevin dynamics sets the centre of mass in motion, which goes on at constant energy."""

    class Free(Einstein):
        def predict(self, graph, forces=True, stress=False):
            x = graph.positions.view(graph.n_structures, -1, 3)
            place = x - x.mean(1, keepdim=True) - (self.x0 - self.x0.mean(0))  # springs to sites that move along
            return Prediction(0.5 * self.k * place.square().sum((1, 2)), (-self.k * place).reshape(-1, 3))

    start = argon()
    settings = short(duration=2000.0, equilibration=400.0, pressure=False)
    result = dynamics.run(Subject(predictor=Free(start), start=start), settings)
    v = result.vibrations
    assert v is not None
    assert v.density[v.frequency < 1.5].sum() * v.frequency[1] < 0.02
    assert abs(result.diffusivities[0].value) < 3e-6
