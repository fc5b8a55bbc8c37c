"""What is particular to DimeNet++: angles, images in crystals, options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from architectures import build
from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.models.dimenetpp import DimeNetPP
from fireassay.testing import assert_potential_contract


def energy(model: DimeNetPP, positions: list[list[float]], cell: float = 0.0) -> float:
    structure = Structure(
        np.full(len(positions), 8), np.array(positions, dtype=float), np.eye(3) * cell, np.full(3, cell > 0)
    )
    return model.predict(from_structures([structure], model.cutoff), forces=False).energy.item()


@pytest.mark.contract
@pytest.mark.parametrize(
    "options",
    [
        {"l_max": 0, "n_basis": 1},
        {"n_before_skip": 0, "n_after_skip": 0, "n_layers": 1},
        {"trainable_bessel": False, "envelope_p": 5, "readout_hidden": [7]},
    ],
)
def test_options_obey_the_contract(options):
    laws = ["shapes", "rotation", "forces", "second_derivatives", "continuity", "isolated_atom"]
    assert assert_potential_contract(lambda: build("dimenetpp", **options), laws=laws) == laws


@pytest.mark.contract
def test_offsets_obey_the_contract():
    """They are zero at first; trained ones reach isolated atoms and neighbours at the cutoff."""

    def moved() -> DimeNetPP:
        model, generator = build("dimenetpp"), torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        return model

    laws = ["batching", "continuity", "extensivity", "isolated_atom"]
    assert assert_potential_contract(moved, laws=laws) == laws


def test_the_defaults_are_the_published_ones():
    """Table 17 of EGraFFBench (headed TorchMD-Net there), which are the authors' own."""
    model = DimeNetPP([1, 6, 8])
    table = {"channels": 128, "interaction_channels": 64, "basis_channels": 8, "n_layers": 4, "cutoff": 5.0}
    table |= {"envelope_p": 5 + 1, "n_basis": 6, "l_max": 7 - 1, "n_before_skip": 1, "n_after_skip": 2}
    assert {name: model.arguments[name] for name in table} == table
    assert model.arguments["readout_hidden"] == [256] * 3


@pytest.mark.parametrize(("l_max", "sees"), [(0, False), (1, True)])
def test_one_layer_sees_angles_by_its_spherical_basis(l_max, sees):
    """A bent and a straight chain of equal bonds, the ends out of each other's sight."""
    model = build("dimenetpp", cutoff=1.5, n_layers=1, l_max=l_max).to(torch.float64)
    straight = energy(model, [[-1, 0, 0], [0, 0, 0], [1, 0, 0]])
    bent = energy(model, [[-np.cos(0.5), np.sin(0.5), 0], [0, 0, 0], [1, 0, 0]])
    assert (abs(straight - bent) > 1e-6) == sees


def test_a_dimer_has_no_triplets():
    model = build("dimenetpp", cutoff=1.5).to(torch.float64)
    before = energy(model, [[0, 0, 0], [1.1, 0, 0]])
    with torch.no_grad():
        for block in model.interactions:
            block.spherical_2.weight.mul_(3.0)
    assert energy(model, [[0, 0, 0], [1.1, 0, 0]]) == pytest.approx(before, abs=1e-12)
    assert energy(model, [[0, 0, 0], [1.1, 0, 0], [2.1, 0.3, 0]]) != pytest.approx(2 * before, abs=1e-3)


def test_an_infinite_chain_of_one_atom_is_the_middle_of_a_long_one():
    """The cell holds one atom, so every k is an image of i; only the edge itself is not its own triplet."""
    model = build("dimenetpp", cutoff=1.5).to(torch.float64)
    chain = np.zeros((21, 3))
    chain[:, 0] = 1.1 * np.arange(21)
    lattice = Structure(np.array([8]), np.zeros((1, 3)), np.diag([1.1, 9.0, 9.0]), np.ones(3, dtype=bool))
    long = model.predict(from_structures([Structure(np.full(21, 8), chain)], 1.5), forces=False)
    periodic = model.predict(from_structures([lattice], 1.5), forces=False)
    torch.testing.assert_close(periodic.energy, long.atom_energies[10:11], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(periodic.descriptors, long.descriptors[10:11], rtol=1e-10, atol=1e-12)


def test_edges_beyond_the_cutoff_cost_no_triplets():
    """Given more edges than the cutoff asks for, it works on those within."""
    model = build("dimenetpp", cutoff=2.0).to(torch.float64)
    atoms = Structure(np.full(6, 8), np.random.default_rng(0).uniform(0, 4, (6, 3)))
    wide, narrow = from_structures([atoms], 9.0), from_structures([atoms], 2.0)
    assert wide.n_edges > narrow.n_edges > 0
    assert model._surroundings(wide.n_atoms, wide).harmonics.shape[0] == narrow.n_edges


def test_the_authors_first_weights_predict_nothing():
    model = build("dimenetpp", readout_initial="zeros").to(torch.float64)
    assert energy(model, [[0, 0, 0], [1.1, 0, 0], [2.1, 0.3, 0]]) == 0.0


@pytest.mark.parametrize(
    "wrong", [{"readout_hidden": []}, {"readout_initial": "ones"}, {"l_max": -1}, {"n_before_skip": -1}, {"n_basis": 0}]
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(InputError):
        build("dimenetpp", **wrong)
