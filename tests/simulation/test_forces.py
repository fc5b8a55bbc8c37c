"""The force call: parts of a large batch, dtypes, and what a predictor may not return."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk, molecule

from fireassay.errors import InputError
from fireassay.interop.ase import structure_of
from fireassay.potential import Prediction
from fireassay.simulation.forces import Forces
from fireassay.simulation.state import from_structures
from toys import Network, Pair


def mixed():
    names = ("CH3CH2OH", "CO2", "H2O")
    crystal = bulk("C", "diamond", a=3.6, cubic=True)
    return from_structures([*(structure_of(molecule(name)) for name in names), structure_of(crystal)])


@pytest.mark.parametrize("max_edges", [1, 60, 100, 10**6])
def test_parts_add_up_to_the_whole(max_edges: int):
    parts = []

    class Watched(Pair):
        def predict(self, graph, forces=True, stress=False, *, differentiable=False):
            parts.append(graph)
            return super().predict(graph, forces, stress, differentiable=differentiable)

    state = mixed()
    whole = Forces(Pair(cutoff=3.0))(state)
    call = Forces(Watched(cutoff=3.0), max_edges=max_edges)
    found = call(state)
    torch.testing.assert_close(found.forces, whole.forces, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.energy, whole.energy, rtol=0, atol=1e-12)
    assert len(parts) == {1: 4, 60: 3, 100: 2, 10**6: 1}[max_edges], [p.n_edges for p in parts]
    assert sum(p.n_atoms for p in parts) == state.n_atoms
    assert all(p.n_edges <= max_edges or p.n_structures == 1 for p in parts)
    assert call.prediction is not None
    assert call.prediction.atom_energies is not None
    assert len(call.prediction.atom_energies) == state.n_atoms


def test_the_potential_sees_its_own_dtype_and_the_state_keeps_its():
    network = Network([1, 6, 8])
    assert network.dtype == torch.float32
    assert Pair().dtype == torch.float64
    call = Forces(network)
    state = call(mixed())
    assert call.graph is not None
    assert call.graph.positions.dtype == torch.float32
    assert state.forces.dtype == state.energy.dtype == torch.float64
    expected = network.predict(call.graph).forces
    assert expected is not None
    torch.testing.assert_close(state.forces, expected.double())


def test_forces_of_another_shape_are_refused():
    class Net:
        cutoff, species, dtype = 0.0, None, torch.float32

        def predict(self, graph, forces=True, stress=False):
            return Prediction(torch.zeros(graph.n_structures), torch.zeros(graph.n_structures, 3))

    with pytest.raises(InputError, match=r"forces of shape \(4, 3\); needs \(23, 3\)"):
        Forces(Net())(mixed())


def test_unknown_elements():
    with pytest.raises(InputError, match="unknown"):
        Forces(Network([6])).check(mixed())
