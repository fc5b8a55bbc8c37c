"""Batched FIRE against ASE's, step by step, and against known minima."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.optimize import FIRE

from fireassay.data.graph import Graph
from fireassay.errors import InputError
from fireassay.interop.ase import CalculatorPredictor, FireassayCalculator, structure_of
from fireassay.potential import LocalPotential, Prediction
from fireassay.simulation.oracles import argon
from fireassay.simulation.relax import relax
from fireassay.simulation.state import from_structures
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
