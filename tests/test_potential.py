"""The seam beyond the contract: baselines, sums, and what happens in mixed precision and mixed batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fireassay.data.graph import edge_vectors, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import Baseline, NetworkPotential, Predictor, Sum, constructor_arguments
from toys import Network, Pair

WATER = Structure(np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]))
ICE = Structure(np.array([8, 1, 1]), WATER.positions, np.eye(3) * 4.0, np.ones(3, dtype=bool))
E0 = {1: -13.6, 8: -2041.3}


def test_a_baseline_adds_e0_scale_and_shift():
    network = Network([1, 8]).double()
    graph = from_structures([WATER], 4.0)
    bare = network.local(graph)[0]
    potential = Baseline(network, E0, scale={1: 2.0, 8: 3.0}, shift={1: 0.1, 8: 0.2})
    scale, offset = np.array([3.0, 2, 2]), np.array([0.2, 0.1, 0.1]) + np.array([-2041.3, -13.6, -13.6])
    expected = bare * torch.from_numpy(scale) + torch.from_numpy(offset)
    torch.testing.assert_close(potential.local(graph)[0], expected, rtol=1e-12, atol=0)


def test_the_energy_keeps_float64_over_a_float32_network():
    potential = Baseline(Network([1, 8]), {1: -1e7, 8: -1e7})
    graph = from_structures([WATER, WATER], 4.0, torch.float32)
    with_e0 = potential.predict(graph).energy + 6e7 / 2
    without = Baseline(Network([1, 8]), {1: 0.0, 8: 0.0}).predict(graph).energy
    assert with_e0.dtype == torch.float64
    torch.testing.assert_close(with_e0, without, atol=1e-7, rtol=0)


def test_e0_survives_a_change_of_dtype_exactly():
    potential = Baseline(Network([1, 8]), {1: -13.600000000001, 8: -2041.3}).float().half().double()
    assert potential.e0.table[1].item() == -13.600000000001


def test_scale_and_shift_train_only_when_asked():
    def names(**kwargs: bool) -> set[str]:
        return {n for n, p in Baseline(Network([1, 8]), E0, **kwargs).named_parameters() if p.requires_grad}

    assert not names() & {"scale", "shift"}
    assert names(trainable_scale=True, trainable_shift=True) >= {"scale", "shift"}


def test_missing_isolated_atoms_are_named():
    with pytest.raises(InputError, match=r"\[8\]"):
        Baseline(Network([1, 8]), {1: -13.6})


def test_unknown_elements_are_named():
    with pytest.raises(InputError, match=r"\[79\]"):
        Network([1, 8]).check_species([1, 79])


def test_a_sum_adds_energies_forces_and_atom_energies():
    terms = [Pair(4.0), Network([1, 8]).double()]
    graph = from_structures([WATER, ICE], 4.0)
    total = Sum(terms).predict(graph, stress=True)
    parts = [term.predict(graph, stress=True) for term in terms]
    for field in ("energy", "forces", "atom_energies"):
        torch.testing.assert_close(getattr(total, field), sum(getattr(p, field) for p in parts))
    torch.testing.assert_close(total.stress[1], parts[0].stress[1] + parts[1].stress[1])


def test_a_molecule_has_no_stress_and_does_not_spoil_the_crystals_gradient():
    network = Network([1, 8]).double()
    prediction = network.predict(from_structures([WATER, ICE], 4.0), stress=True, differentiable=True)
    assert torch.isnan(prediction.stress[0]).all()
    assert torch.isfinite(prediction.stress[1]).all()
    prediction.stress[1].square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_stress_is_positive_in_tension():
    """An attractive pair in a stretched cell pulls the cell together."""
    attractive = Pair(6.0, epsilon=-1.0)
    argon = Structure(np.array([18]), np.zeros((1, 3)), np.eye(3) * 3.5, np.ones(3, dtype=bool))
    stress = attractive.predict(from_structures([argon], 6.0), stress=True).stress
    assert torch.diagonal(stress[0]).min() > 0


def test_every_potential_is_a_predictor():
    assert isinstance(Pair(), Predictor)
    assert isinstance(Baseline(Network([1, 8]), E0), Predictor)


def test_constructor_arguments_are_what_was_given():
    class Given(Pair):
        def __init__(self, species, cutoff=5.0, hidden=(3, 4), kind="silu", wanted=None):
            super().__init__(cutoff)
            self.arguments = constructor_arguments(locals())

    expected = {"species": [1, 8], "cutoff": 4.0, "hidden": [3, 4], "kind": "silu", "wanted": None}
    assert Given((1, 8), cutoff=4.0).arguments == expected


def test_a_sum_freezes_its_terms():
    class Quick(Pair):
        def frozen(self):
            twin = Pair(self.cutoff, power=self.power)
            twin.quick = True
            return twin.double().requires_grad_(False)

    graph = from_structures([WATER], 5.0)
    total = Sum([Network([1, 8]).double(), Quick()])
    twin = total.frozen()
    assert twin.potentials[1].quick
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    torch.testing.assert_close(twin.predict(graph).forces, total.predict(graph).forces)


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least one"):
        Sum([])


class Coordination(NetworkPotential):
    """The energy e0(z) + Σ exp(-r), of which an isolated atom has e0(z); remembers the rows it was asked for."""

    def __init__(self, species, cutoff=4.0, offsets=(-3.0, 5.0), isolated_is_zero=False):
        super().__init__(species, cutoff, isolated_is_zero)
        self.offsets, self.asked = torch.nn.Parameter(torch.tensor(offsets, dtype=torch.float64)), []

    def network(self, rows, graph):
        self.asked.append(rows.tolist())
        pairs = torch.exp(-edge_vectors(graph).norm(dim=1))
        energies = self.offsets.index_select(0, rows).index_add(0, graph.centre, pairs)
        return energies, energies.unsqueeze(1)


def test_a_network_is_relative_to_isolated_atoms():
    model, graph = Coordination([1, 8]), from_structures([WATER, ICE], 4.0)
    energies, descriptors = model.local(graph)
    pairs = torch.exp(-edge_vectors(graph).norm(dim=1))
    torch.testing.assert_close(energies, torch.zeros(6, dtype=torch.float64).index_add(0, graph.centre, pairs))
    torch.testing.assert_close(descriptors.squeeze(1) - energies, model.offsets.detach()[[1, 0, 0, 1, 0, 0]])
    assert model.isolated_energies().tolist() == [-3.0, 5.0]
    assert model.asked[0] == [1, 0, 0, 1, 0, 0, 0, 1]
    energies.sum().backward()
    assert model.offsets.grad.tolist() == [0.0, 0.0]


def test_a_frozen_network_knows_the_isolated_atoms():
    model, graph = Coordination([1, 8]), from_structures([WATER], 4.0)
    twin = model.frozen().frozen()
    assert twin.isolated.tolist() == [-3.0, 5.0]
    twin.asked.clear()
    assert torch.equal(twin.local(graph)[0], model.local(graph)[0])
    assert twin.asked == [[1, 0, 0]]
    assert list(twin.state_dict()) == list(model.state_dict()) == ["offsets"]


def test_a_network_that_promises_zero_is_taken_at_its_word():
    model, graph = Coordination([1, 8], offsets=(0.0, 0.0), isolated_is_zero=True), from_structures([WATER], 4.0)
    relative = Coordination([1, 8]).local(graph)[0]
    for potential in (model, model.frozen()):
        torch.testing.assert_close(potential.local(graph)[0], relative)
    assert model.asked == [[1, 0, 0]]
    assert model.frozen().isolated is None


def test_a_network_refuses_elements_that_it_does_not_know():
    with pytest.raises(InputError, match=r"\[8\]"):
        Coordination([1, 6]).local(from_structures([WATER], 4.0))
    with pytest.raises(InputError, match="distinct"):
        Coordination([1, 1])
