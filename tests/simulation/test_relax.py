"""Batched FIRE against ASE's, step by step, and against known minima."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter, UnitCellFilter
from ase.optimize import BFGS, FIRE

from fireassay.data.graph import Graph
from fireassay.errors import InputError
from fireassay.interop.ase import CalculatorPredictor, FireassayCalculator, structure_of
from fireassay.potential import LocalPotential, Prediction
from fireassay.simulation.oracles import argon
from fireassay.simulation.relax import relax
from fireassay.simulation.state import from_structures
from fireassay.units import GIGAPASCAL
from toys import Pair


class Well(LocalPotential):
    """A Lennard-Jones well between all pairs."""

    cutoff = 8.0

    def __init__(self) -> None:
        super().__init__()
        self.arguments = {}
        self.repulsion, self.attraction = Pair(8.0, 0.4, 3.0, 12), Pair(8.0, 0.4, 3.0, 6)

    def local(self, graph: Graph) -> tuple[torch.Tensor, torch.Tensor]:
        up, down = self.repulsion.local(graph), self.attraction.local(graph)
        return 4 * (up[0] - down[0]), up[1]


def clusters() -> list[Atoms]:
    rng = np.random.default_rng(0)
    crystal = bulk("Ar", a=4.8, cubic=True)
    crystal.positions += rng.normal(0, 0.15, crystal.positions.shape)
    base = bulk("Ar", a=4.8, cubic=True).positions
    return [
        Atoms("Ar2", [[0, 0, 0], [2.9, 0, 0]]),
        Atoms("Ar4", base + rng.normal(0, 0.2, base.shape)),
        crystal,
    ]


def test_every_replica_follows_ases_fire():
    frames, potential = clusters(), Well()
    for steps in (1, 2, 7, 25, 60):
        batch = relax(potential, from_structures([structure_of(a) for a in frames]), force_limit=1e-9, max_steps=steps)
        start = 0
        for atoms in frames:
            single = atoms.copy()
            single.calc = FireassayCalculator(potential)
            FIRE(single, logfile=None).run(fmax=1e-9, steps=steps)
            mine = batch.state.positions[start : start + len(atoms)].numpy()
            np.testing.assert_allclose(mine, single.positions, rtol=0, atol=1e-9)
            start += len(atoms)


def test_minima_are_reached_and_said_to_be():
    done = relax(Well(), from_structures([structure_of(a) for a in clusters()]), force_limit=1e-4)
    assert done.converged.all()
    assert (done.largest_force < 1e-4).all()
    assert len(set(done.steps.tolist())) == 3, "each stops when it is done"
    assert float((done.state.positions[1] - done.state.positions[0]).norm()) == pytest.approx(3.24, abs=0.2)
    assert done.state.replica.tolist() == [0, 1, 2]
    again = relax(Well(), done.state, force_limit=1e-4)
    assert again.steps.tolist() == [0, 0, 0]
    torch.testing.assert_close(again.state.energy, done.state.energy)


def test_running_out_of_steps_is_no_convergence():
    done = relax(Well(), from_structures([structure_of(a) for a in clusters()]), force_limit=1e-6, max_steps=3)
    assert not done.converged.any()
    assert done.steps.tolist() == [3, 3, 3]


def test_forces_that_are_not_finite_stop_one_replica_only():
    class Broken(Well):
        def predict(self, graph, forces=True, stress=False, *, differentiable=False) -> Prediction:
            said = super().predict(graph, forces, stress, differentiable=differentiable)
            assert said.forces is not None
            pull = torch.where((graph.structure == 0).unsqueeze(1) & (graph.n_structures == 3), torch.nan, said.forces)
            return said._replace(forces=pull)

    done = relax(Broken(), from_structures([structure_of(a) for a in clusters()]), force_limit=1e-3)
    assert done.converged.tolist() == [False, True, True]
    assert done.steps[0] == 0


def test_a_calculator_can_be_relaxed_with():
    start = structure_of(Atoms("Ar2", [[0, 0, 0], [4.3, 0, 0]]))
    done = relax(CalculatorPredictor(argon()), from_structures([start]), force_limit=1e-5)
    assert done.converged.all()
    distance = float((done.state.positions[1] - done.state.positions[0]).norm())
    assert distance == pytest.approx(3.405 * 2 ** (1 / 6), abs=1e-3)


def test_a_limit_must_be_positive():
    with pytest.raises(InputError, match="needs to be positive"):
        relax(Well(), from_structures([structure_of(clusters()[0])]), force_limit=0.0)


def test_lbfgs_reaches_the_same_minima_in_fewer_steps():
    starts = from_structures([structure_of(a) for a in clusters()])
    slow = relax(Well(), starts, force_limit=1e-4)
    fast = relax(Well(), starts, force_limit=1e-4, method="lbfgs")
    assert fast.converged.all()
    torch.testing.assert_close(fast.state.energy, slow.state.energy, atol=1e-5, rtol=0)
    assert int(fast.steps.sum()) < 0.6 * int(slow.steps.sum())


def test_a_replica_relaxes_by_lbfgs_as_it_does_alone():
    frames = [structure_of(a) for a in clusters()]
    together = relax(Well(), from_structures(frames), force_limit=1e-5, method="lbfgs")
    start = 0
    for row, frame in enumerate(frames):
        alone = relax(Well(), from_structures([frame]), force_limit=1e-5, method="lbfgs")
        assert int(alone.steps[0]) == int(together.steps[row])
        mine = together.state.positions[start : start + len(frame)]
        torch.testing.assert_close(mine, alone.state.positions, atol=1e-9, rtol=0)
        start += len(frame)


def strained() -> list[Atoms]:
    rng = np.random.default_rng(1)
    frames = []
    for cell, amount in ((1, 0.05), (2, 0.02)):
        atoms = bulk("Cu", cubic=True) * (cell, 1, 1)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-amount, amount, (3, 3))), scale_atoms=True)
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("method", ["fire", "lbfgs"])
@pytest.mark.parametrize("gigapascal", [0.0, 5.0])
def test_cells_relax_to_what_ase_finds(method, gigapascal: float):
    frames = strained()
    calculator = CalculatorPredictor(EMT())
    done = relax(
        calculator, from_structures([structure_of(a) for a in frames]), force_limit=1e-4, method=method, cell=True,
        pressure=gigapascal * GIGAPASCAL, stress_limit=1e-5,
    )  # fmt: skip
    assert done.converged.all()
    assert float(done.largest_stress.max()) < 1e-5
    assert done.state.stress is not None
    for row, atoms in enumerate(frames):
        atoms.calc = EMT()
        BFGS(FrechetCellFilter(atoms, scalar_pressure=gigapascal * GIGAPASCAL), logfile=None).run(fmax=1e-4, steps=500)
        volume = abs(float(torch.linalg.det(done.state.cell[row])))
        assert volume == pytest.approx(atoms.get_volume(), rel=2e-4)
        assert float(done.state.energy[row]) == pytest.approx(atoms.get_potential_energy(), abs=2e-4 * len(atoms))
    pressure = -torch.diagonal(done.state.stress, dim1=1, dim2=2).mean(1) / GIGAPASCAL
    assert pressure.tolist() == pytest.approx([gigapascal] * 2, abs=2e-3)


def test_a_cell_follows_ases_filter_step_by_step():
    atoms = strained()[0]
    potential = Well()
    atoms.symbols[:] = "Ar"
    atoms.set_cell(atoms.cell * 1.35, scale_atoms=True)
    for steps in (1, 3, 10):
        done = relax(
            potential, from_structures([structure_of(atoms)]), force_limit=1e-12, max_steps=steps, cell=True,
            stress_limit=1e-15,
        )  # fmt: skip
        single = atoms.copy()
        single.calc = FireassayCalculator(potential)
        FIRE(UnitCellFilter(single), logfile=None).run(fmax=1e-12, steps=steps)
        np.testing.assert_allclose(done.state.cell[0].numpy(), single.cell.array, atol=1e-8)
        np.testing.assert_allclose(done.state.positions.numpy(), single.positions, atol=1e-8)


def test_cells_that_cannot_be_relaxed_are_refused():
    with pytest.raises(InputError, match=r"periodic in all directions and no atom is fixed, got pbc \[False"):
        relax(Well(), from_structures([structure_of(clusters()[0])]), cell=True)
    crystal = structure_of(clusters()[2])
    fixed = from_structures([crystal], fixed=[np.array([True, False, False, False])])
    with pytest.raises(InputError, match="and fixed atoms; relax positions alone"):
        relax(Well(), fixed, cell=True)
    held = relax(Well(), fixed, force_limit=1e-4)
    assert bool(held.converged.all())
    assert torch.equal(held.state.positions[0], fixed.positions[0])
