"""What is particular to BOTNet: its body order, its options, its two radial functions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from architectures import build
from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.models.botnet import BOTNet
from fireassay.testing import assert_potential_contract

OPTIONS = {
    "element_dependent": {"element_dependent": True},
    "residual_first": {"residual_first": True},
    "both": {"element_dependent": True, "residual_first": True, "trainable_bessel": True},
    "no_parity": {"parity": False, "hidden_l_max": 1},
    "one_layer": {"n_layers": 1},
    "scalars": {"l_max": 0, "hidden_l_max": 0},
}


@pytest.mark.contract
@pytest.mark.parametrize("name", OPTIONS)
def test_options_obey_the_contract(name):
    laws = ["rotation", "forces", "stress", "second_derivatives", "continuity", "isolated_atom"]
    assert assert_potential_contract(lambda: build("botnet", **OPTIONS[name]), laws=laws) == laws


@pytest.mark.parametrize("name", ["element_dependent", "both"])
def test_the_frozen_twin_of_an_option_predicts_the_same(name):
    model = build("botnet", **OPTIONS[name]).to(torch.float64)
    graph = from_structures([cluster(5)], model.cutoff)
    a, b = model.predict(graph), model.frozen().frozen().predict(graph)
    torch.testing.assert_close(b.forces, a.forces, rtol=0, atol=1e-6 * a.forces.abs().max().item())


def cluster(n: int) -> Structure:
    rng = np.random.default_rng(0)
    positions = np.array(list(itertools.product([0, 1.2], repeat=3)))[:n]
    return Structure(rng.choice([1, 8], n), positions + 0.1 * rng.normal(size=(n, 3)))


def order_of(energy, structure: Structure, bodies: int) -> float:
    """The largest term of `bodies` bodies in the expansion of an energy, by inclusion and exclusion."""
    atoms = range(len(structure.positions))
    largest = 0.0
    for subset in itertools.combinations(atoms, bodies):
        term = 0.0
        for size in range(1, bodies + 1):
            for part in itertools.combinations(subset, size):
                some = Structure(structure.atomic_numbers[list(part)], structure.positions[list(part)])
                term += (-1) ** (bodies - size) * energy(some)
        largest = max(largest, abs(term))
    return largest


def test_layer_t_makes_functions_of_t_plus_one_bodies():
    """The readouts but the last are linear: with the last one silenced, two layers make three-body energies at most."""
    model = build("botnet", n_layers=3, channels=8, average_neighbours=0.5).to(torch.float64)

    def energy(structure: Structure) -> float:
        return model.predict(from_structures([structure], model.cutoff), forces=False).energy.item()

    structure = cluster(5)
    assert order_of(energy, structure, 5) > 1e-8  # the network at the end has every body order
    with torch.no_grad():
        model.readouts[2].weights[-1].zero_()
    two, three, four = (order_of(energy, structure, n) for n in (2, 3, 4))
    assert min(two, three) > 1e-4
    assert four < 1e-10
    with torch.no_grad():
        model.readouts[1].weights[0].zero_()
    assert order_of(energy, structure, 3) < 1e-10


def test_radial_functions_know_the_neighbour_only_when_asked():
    """Of one pair and one network: exchanging the rows of two species in the radial weights changes the energy."""
    model = build("botnet", element_dependent=True).to(torch.float64)
    graph = from_structures([cluster(6)], model.cutoff)
    before = model.predict(graph, forces=False).energy
    weight = model.layers[1].radial.weight
    assert weight.shape[:3] == (2, 1, model.arguments["n_basis"])
    with torch.no_grad():
        weight.copy_(weight.flip(0).clone())
    assert (model.predict(graph, forces=False).energy - before).abs() > 1e-4


def test_features_that_cannot_reach_the_energy_do_not_exist():
    model = BOTNet((1, 8), channels=2)
    made = [str(layer.irreps_out) for layer in model.layers]
    assert made == ["0e+1o+2e+3o", "0e+1o+1e+2o+2e+3o+3e", "0e+1o+1e+2o+2e+3o+3e", "0e+1o+2e+3o", "0e"]
