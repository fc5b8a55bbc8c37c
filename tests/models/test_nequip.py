"""NequIP obeys the contract, and makes no more than it needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fireassay.data.graph import Graph, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models.nequip import NequIP
from fireassay.testing import assert_potential_contract

SMALL = {"n_layers": 3, "channels": 4, "radial_hidden": (8,)}


def molecule(n: int = 8, seed: int = 3) -> Graph:
    rng = np.random.default_rng(seed)
    positions = np.stack(np.meshgrid([0, 1.3], [0, 1.4], [0, 1.5]), -1).reshape(-1, 3)[:n]
    return from_structures([Structure(rng.choice([1, 6, 8], n), positions + 0.2 * rng.normal(size=(n, 3)))], 4.0)


@pytest.mark.contract
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"parity": False, "l_max": 1},
        {"l_max": 0},
        {"n_layers": 1},
        {"first_self_connection": True, "average_neighbours": [9.0, 12.0, 7.0]},
        {"pair_cutoffs": [[2.5, 3.0, 3.1], [3.2, 4.0, 3.7], [3.1, 3.7, 3.5]]},
    ],
)
def test_contract(options):
    assert_potential_contract(lambda: NequIP((1, 6, 8), **{**SMALL, **options}))


def test_dead_features_are_not_made():
    """Every parameter moves the energy: what cannot reach it, and nequip computes all the same, does not exist."""
    model = NequIP((1, 6, 8), **SMALL).to(torch.float64)
    model.energy(molecule()).sum().backward()
    for name, parameter in model.named_parameters():
        blocks = parameter.grad.reshape(-1, parameter.shape[-1]).abs().amax(1)
        assert (blocks > 0).float().mean() > 0.9, name
    five = NequIP((1, 6, 8), n_layers=5, channels=2, radial_hidden=())
    some = "0e+1e+1o+2e+2o"  # 0o couples to nothing that becomes 0e within two layers
    assert [str(block.irreps_out) for block in five.layers] == ["0e+1o+2e", some, some, "0e+1o+2e", "0e"]


def test_edges_beyond_the_cutoff_change_nothing():
    model = NequIP((1, 6, 8), cutoff=2.5, **SMALL).to(torch.float64)
    wide = molecule()
    vectors = wide.positions[wide.neighbour] - wide.positions[wide.centre]
    near = vectors.norm(dim=1) < 2.5
    narrow = wide._replace(centre=wide.centre[near], neighbour=wide.neighbour[near], shift=wide.shift[near])
    assert 0 < narrow.n_edges < wide.n_edges
    a, b = model.predict(wide), model.predict(narrow)
    torch.testing.assert_close(a.energy, b.energy, rtol=1e-14, atol=0)
    torch.testing.assert_close(a.forces, b.forces, rtol=0, atol=1e-15)


def test_descriptors_are_what_the_readout_sees():
    model = NequIP((1, 6, 8), **SMALL).to(torch.float64)
    prediction = model.predict(molecule(), forces=False)
    assert prediction.descriptors.shape == (8, 4)
    torch.testing.assert_close(model.readout(prediction.descriptors).squeeze(1), prediction.atom_energies)


SYMMETRIC = [[2.5, 3.0, 3.1], [3.0, 4.0, 3.7], [3.1, 3.7, 3.5]]


@pytest.mark.parametrize("pair_cutoffs", [None, SYMMETRIC, [[2.5, 3.0, 3.1], [3.2, 4.0, 3.7], [3.1, 3.7, 3.5]]])
def test_the_frozen_twin_predicts_the_same(pair_cutoffs):
    options = {"pair_cutoffs": pair_cutoffs, "first_self_connection": True, "average_neighbours": (9.0, 12.0, 7.0)}
    model = NequIP((1, 6, 8), **SMALL, **options).to(torch.float64)
    expected, got = model.predict(molecule()), model.frozen().frozen().predict(molecule())
    torch.testing.assert_close(got.energy, expected.energy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got.forces, expected.forces, rtol=0, atol=1e-5 * float(expected.forces.abs().max()))


def test_a_pair_beyond_its_own_cutoff_is_no_edge():
    model = NequIP((1, 6, 8), **SMALL, pair_cutoffs=SYMMETRIC).to(torch.float64)
    wide = molecule()
    lengths = (wide.positions[wide.neighbour] - wide.positions[wide.centre]).norm(dim=1)
    reach = torch.tensor(SYMMETRIC)[tuple(model.index(wide.atomic_numbers)[i] for i in (wide.centre, wide.neighbour))]
    near = lengths < reach
    narrow = wide._replace(centre=wide.centre[near], neighbour=wide.neighbour[near], shift=wide.shift[near])
    assert 0 < narrow.n_edges < wide.n_edges
    torch.testing.assert_close(model.predict(wide).forces, model.predict(narrow).forces, rtol=0, atol=1e-15)
    uniform = NequIP((1, 6, 8), **SMALL).to(torch.float64)
    assert not torch.allclose(uniform.predict(wide).forces, model.predict(wide).forces, rtol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"average_neighbours": [1.0, 2.0, 3.0]},
        {"pair_cutoffs": [[1.0]]},
        {"pair_cutoffs": [[1.0, 2.0], [2.0, 5.0]]},
        {"pair_cutoffs": [[1.0, 0.0], [2.0, 2.0]]},
    ],
)
def test_bad_tables_of_species(wrong):
    with pytest.raises(InputError, match=r"species|pair_cutoffs"):
        NequIP((1, 6), **wrong)


@pytest.mark.parametrize(
    "wrong", [{"channels": 0}, {"cutoff": -1.0}, {"l_max": -1}, {"species": []}, {"radial_hidden": (8, 0)}]
)
def test_bad_arguments(wrong):
    with pytest.raises(InputError):
        NequIP(**{"species": (1, 6), **wrong})
