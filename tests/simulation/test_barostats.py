"""Barostats: volume, pressure and shape against what theory says of an ideal gas and of a harmonic crystal; restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT

from fireassay.data.graph import Graph
from fireassay.data.structure import Structure
from fireassay.data.verlet import VerletList
from fireassay.errors import InputError
from fireassay.interop.ase import CalculatorPredictor, structure_of
from fireassay.potential import Prediction
from fireassay.simulation.barostats import CellRescaling
from fireassay.simulation.integrators import Noise, Ramp, VelocityVerlet
from fireassay.simulation.observers import Recorder
from fireassay.simulation.run import simulate
from fireassay.simulation.state import State, generators, maxwell_boltzmann, pressure, replicate, sizes, volume
from fireassay.units import BOLTZMANN, GIGAPASCAL
from toys import Pair


class IdealGas:
    """Nothing but kinetic pressure."""

    cutoff, species, dtype = 0.0, None, torch.float64

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        zeros = torch.zeros_like(graph.positions)
        return Prediction(zeros.new_zeros(graph.n_structures), zeros, torch.zeros_like(graph.cell))


class ElasticCell:
    """An energy of the cell alone, E = V0 (B/2 (V/V0 - 1)² + G |shape|²), beside an ideal gas in it.

    Shape is the cell's metric at unit volume less the unit matrix. Stress by differentiation in the strain.
    """

    cutoff, species, dtype = 0.0, None, torch.float64

    def __init__(self, volume0: float, bulk_modulus: float, stiffness: float) -> None:
        self.volume0, self.modulus, self.stiffness = volume0, bulk_modulus, stiffness

    def predict(self, graph: Graph, forces: bool = True, stress: bool = False) -> Prediction:
        with torch.enable_grad():
            strain = torch.zeros_like(graph.cell).requires_grad_()
            cell = graph.cell @ (torch.eye(3, dtype=strain.dtype) + 0.5 * (strain + strain.transpose(1, 2)))
            v = torch.linalg.det(cell)
            metric = cell @ cell.transpose(1, 2) / v.abs().pow(2 / 3).view(-1, 1, 1)
            shape = (metric - torch.eye(3, dtype=strain.dtype)).square().sum((1, 2))
            energy = self.volume0 * (0.5 * self.modulus * (v / self.volume0 - 1).square() + self.stiffness * shape)
            gradient = torch.autograd.grad(energy.sum(), strain)[0]
        tension = 0.5 * (gradient + gradient.transpose(1, 2)) / v.detach().view(-1, 1, 1)
        return Prediction(energy.detach(), torch.zeros_like(graph.positions), tension)


def cube(n: int, side: float) -> Structure:
    rng = np.random.default_rng(0)
    return Structure(np.full(n, 18), rng.uniform(0, side, (n, 3)), np.eye(3) * side, np.ones(3, dtype=bool))


def barostat(replicas: int, flexible: bool, *, target: float, kelvin: float = 300.0, ratio: float) -> CellRescaling:
    """`ratio` is β/τ_P in Å^3/eV/fs."""
    return CellRescaling(
        2.0, kelvin, 50.0, target, 100.0, 100.0 * ratio,
        Noise(generators(1, replicas)), Noise(generators(2, replicas), rows=3), flexible,
    )  # fmt: skip


@pytest.mark.parametrize("flexible", [False, True])
def test_the_volume_of_an_ideal_gas_has_its_gamma_distribution(flexible: bool):
    """p(V) ∝ V^(N-1) exp(-P V / k_B T) for N atoms whose centre of mass is at rest: mean and variance are known."""
    n, replicas, kelvin = 4, 400, 300.0
    target = n * BOLTZMANN * kelvin / 1000.0
    state = maxwell_boltzmann(replicate(cube(n, 10.0), replicas), kelvin, generators(0, replicas))
    recorder = Recorder(20, ("volume", "pressure", "temperature"))
    moved = barostat(replicas, flexible, target=target, ratio=5.0)
    run = simulate(IdealGas(), state, moved, 3000, observers=[recorder], skin=1.0)
    seen = recorder.arrays()
    v = seen["volume"][50:]
    thermal = BOLTZMANN * kelvin / target
    blocks = v.reshape(len(v), replicas).mean(0)
    error = blocks.std(ddof=1) / np.sqrt(replicas)
    assert abs(v.mean() - n * thermal) < 4 * error
    assert error < 0.02 * n * thermal
    spread = ((v - n * thermal) ** 2).mean(0)
    assert abs(spread.mean() - n * thermal**2) < 4 * spread.std(ddof=1) / np.sqrt(replicas)
    assert seen["temperature"][50:].mean() == pytest.approx(kelvin, rel=0.01)
    assert not run.failures
    lengths = run.state.cell
    cubic = torch.diag_embed(lengths.diagonal(dim1=1, dim2=2).mean(1, keepdim=True).expand(-1, 3))
    assert bool(torch.allclose(lengths, cubic)) != flexible


@pytest.mark.parametrize("flexible", [False, True])
def test_a_cell_breathes_with_its_bulk_modulus(flexible: bool):
    """Volume fluctuations of a stiff cell are V k_B T / B, its mean follows the pressure: the sign of stress counts."""
    side, modulus, kelvin, replicas = 10.0, 50 * GIGAPASCAL, 300.0, 200
    potential = ElasticCell(side**3, modulus, 0.5 * modulus)
    state = maxwell_boltzmann(replicate(cube(4, side), replicas), kelvin, generators(0, replicas))
    means = []
    for target in (0.0, 2 * GIGAPASCAL):
        recorder = Recorder(10, ("volume", "pressure"))
        ratio = 0.02 / modulus
        moved = barostat(replicas, flexible, target=target, ratio=ratio)
        run = simulate(potential, state, moved, 1500, observers=[recorder])
        v = recorder.arrays()["volume"][50:]
        means.append(v.mean())
        spread = v.var(axis=0)
        expected = side**3 * BOLTZMANN * kelvin / modulus
        assert spread.mean() == pytest.approx(expected, rel=0.1)
        assert recorder.arrays()["pressure"][50:].mean() == pytest.approx(target, abs=0.03 * GIGAPASCAL)
        assert not run.failures
    assert means[1] / means[0] == pytest.approx(1 - 2 / 50, abs=0.002)


def test_the_shape_of_a_cell_fluctuates_as_its_stiffness_allows():
    """Six strains of a cell without rotation, each with variance k_B T / (V C): shear 12 is metric / 2."""
    side, modulus, kelvin, replicas = 10.0, 50 * GIGAPASCAL, 300.0, 300
    stiffness = 0.5 * modulus  # E/V0 = G |2 ε'|²: an off-diagonal metric entry m occurs twice, so E = 2 G V0 m²
    potential = ElasticCell(side**3, modulus, stiffness)
    state = maxwell_boltzmann(replicate(cube(4, side), replicas), kelvin, generators(0, replicas))
    collected = []
    for _ in range(3):
        moved = barostat(replicas, True, target=0.0, ratio=0.02 / modulus)
        state = simulate(potential, state, moved, 400).state
        metric = state.cell @ state.cell.transpose(1, 2) / volume(state).pow(2 / 3).view(-1, 1, 1)
        collected.append(torch.stack([metric[:, 0, 1], metric[:, 0, 2], metric[:, 1, 2]]))
    variance = torch.cat(collected, 1).square().mean(1)
    expected = BOLTZMANN * kelvin / (4 * stiffness * side**3)
    assert variance.tolist() == pytest.approx([expected] * 3, rel=0.25)
    assert float(variance.mean()) == pytest.approx(expected, rel=0.12)


def test_the_pressure_of_an_instant_is_ases():
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.1, seed=0)
    atoms.set_cell(atoms.cell @ (np.eye(3) + 0.02 * np.arange(9).reshape(3, 3) / 9), scale_atoms=True)
    atoms.calc = EMT()
    structure = structure_of(atoms)
    state = maxwell_boltzmann(replicate(structure, 1), 500.0, generators(0, 1))
    state = simulate(CalculatorPredictor(EMT()), state, VelocityVerlet(1.0), 3, stress=True).state
    from ase import units as ase_units

    atoms.positions = state.positions.numpy()
    atoms.set_velocities(state.velocities.numpy() / ase_units.fs)
    expected = -atoms.get_stress(include_ideal_gas=True)[:3].mean()
    assert float(pressure(state)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("flexible", [False, True])
def test_an_interrupted_run_at_constant_pressure_resumes_to_the_same_bits(flexible: bool, tmp_path: Path):
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * 2
    state = maxwell_boltzmann(replicate(structure_of(atoms), 3), 60.0, generators(0, 3))

    def run(n_steps: int, stop: int | None, checkpoint: Path | None):
        potential = Pair(cutoff=6.0)
        calls = 0
        whole = potential.predict

        def counted(*args, **kwargs):
            nonlocal calls
            calls += 1
            if stop is not None and calls == stop:
                raise KeyboardInterrupt
            return whole(*args, **kwargs)

        potential.predict = counted  # type: ignore[method-assign]
        potential.frozen = lambda: potential  # type: ignore[method-assign]
        moved = CellRescaling(
            2.0, Ramp(60.0, 90.0, 60), 50.0, Ramp(0.0, 0.1 * GIGAPASCAL, 60), 500.0, 30.0,
            Noise(generators(1, 3)), Noise(generators(2, 3), rows=3), flexible,
        )  # fmt: skip
        return simulate(potential, state, moved, n_steps, checkpoint=checkpoint)

    whole = run(120, None, None)
    file = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        run(120, 70, file)
    resumed = run(120, None, file)
    for name in ("positions", "velocities", "cell", "energy", "stress"):
        assert torch.equal(getattr(whole.state, name), getattr(resumed.state, name)), name
    assert float((whole.state.cell - state.cell).abs().max()) > 1e-3


def test_what_cannot_be_pressed_is_refused():
    molecule = Structure(np.array([18, 18]), np.array([[0.0, 0, 0], [4.0, 0, 0]]))
    cold = maxwell_boltzmann(replicate(molecule, 1), 10.0, generators(0, 1))
    with pytest.raises(InputError, match=r"periodic in all directions.*constant volume"):
        simulate(IdealGas(), cold, barostat(1, False, target=0.0, ratio=1.0), 1)

    class Blind(IdealGas):
        def predict(self, graph, forces=True, stress=False):
            return super().predict(graph)._replace(stress=None)

    with pytest.raises(InputError, match="Blind gives no stress; run at constant volume"):
        simulate(Blind(), replicate(cube(4, 8.0), 1), barostat(1, False, target=0.0, ratio=1.0), 1)
    fixed = replicate(cube(4, 8.0), 1, fixed=[np.array([True, False, False, False])])
    with pytest.raises(InputError, match="some are fixed; run at constant volume"):
        simulate(IdealGas(), fixed, barostat(1, False, target=0.0, ratio=1.0), 1)


def test_a_list_is_kept_while_the_cell_changes_and_never_lies():
    rng = np.random.default_rng(3)
    structure = cube(60, 12.0)
    state = replicate(structure, 2)
    kept = VerletList(4.0, 1.0)
    cell, positions = state.cell, state.positions
    for _ in range(40):
        strain = torch.from_numpy(np.eye(3) + rng.normal(size=(3, 3)) * 0.004)
        cell, positions = cell @ strain, positions @ strain + torch.from_numpy(rng.normal(size=(120, 3)) * 0.02)
        graph, length = kept.graph(state.atomic_numbers, positions, cell, state.pbc, state.structure)
        fresh, expected = VerletList(4.0, 1.0).graph(state.atomic_numbers, positions, cell, state.pbc, state.structure)
        assert torch.equal(graph.centre, fresh.centre)
        assert torch.equal(graph.neighbour, fresh.neighbour)
        torch.testing.assert_close(length, expected)
    assert 2 <= kept.rebuilds < 25


def test_fixed_atoms_stay_and_the_others_are_warm():
    atoms = bulk("Ar", "fcc", a=5.3, cubic=True) * 2
    structure = structure_of(atoms)
    fixed = np.arange(len(atoms)) < 8
    state = maxwell_boltzmann(replicate(structure, 200, fixed=[fixed] * 200), 80.0, generators(0, 200))
    assert state.degrees_of_freedom.tolist() == [3.0 * 24] * 200
    assert float((state.velocities.view(200, 32, 3)[:, :8]).abs().max()) == 0.0
    from fireassay.simulation.integrators import Langevin

    recorder = Recorder(5, ("temperature",))
    moved = Langevin(4.0, 80.0, 0.02, Noise(generators(1, 200)))
    run = simulate(Pair(cutoff=6.0), state, moved, 120, observers=[recorder])
    still = run.state.positions.view(200, 32, 3)[:, :8] - state.positions.view(200, 32, 3)[:, :8]
    assert float(still.abs().max()) == 0.0
    assert float(run.state.forces.view(200, 32, 3)[:, :8].abs().max()) == 0.0
    assert recorder.arrays()["temperature"][10:].mean() == pytest.approx(80.0, rel=0.02)
    assert int(sizes(state)[0]) == 32
    with pytest.raises(InputError, match="some atom of every replica has to move"):
        replicate(structure, 1, fixed=[np.ones(32, dtype=bool)])


def test_a_ramp_leads_from_one_temperature_to_another():
    ramp = Ramp(100.0, 500.0, 200)
    assert [ramp.at(k) for k in (0, 100, 200, 1000)] == [100.0, 300.0, 500.0, 500.0]
    state: State = maxwell_boltzmann(replicate(cube(30, 20.0), 100), 100.0, generators(0, 100))
    from fireassay.simulation.thermostats import VelocityRescaling

    recorder = Recorder(50, ("temperature",))
    moved = VelocityRescaling(2.0, ramp, 10.0, Noise(generators(1, 100)))
    simulate(IdealGas(), state, moved, 300, observers=[recorder])
    kelvin = recorder.arrays()["temperature"].mean(1)
    assert kelvin[2] == pytest.approx(300 - 10, rel=0.04)  # a thermostat of 10 fs lags by 5 steps of 2 K
    assert kelvin[6] == pytest.approx(500.0, rel=0.03)


@pytest.mark.parametrize("flexible", [False, True])
def test_momenta_follow_the_inverse_of_the_cell(flexible: bool):
    """Positions in units of the cell stay what they are, and so do momenta in those of its inverse."""
    state = maxwell_boltzmann(replicate(cube(5, 9.0), 3), 300.0, generators(0, 3))
    state = state._replace(stress=torch.zeros_like(state.cell))
    moved = barostat(3, flexible, target=0.02, ratio=20.0)
    moved.begin(state, lambda s: s)
    after = moved._rescaled(state, 300.0, 0)
    assert float((after.cell - state.cell).abs().max()) > 1e-4

    def in_cells(s: State) -> tuple[torch.Tensor, torch.Tensor]:
        cells = s.cell.index_select(0, s.structure)
        place = torch.linalg.solve(cells.transpose(1, 2), s.positions.unsqueeze(2)).squeeze(2)
        return place, torch.bmm(cells, s.velocities.unsqueeze(2)).squeeze(2)

    for before, now in zip(in_cells(state), in_cells(after), strict=True):
        torch.testing.assert_close(now, before)
