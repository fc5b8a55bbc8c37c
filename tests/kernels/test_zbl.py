"""ZBL repels as its formula says, alone and beside a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.units import _e, _eps0

from fireassay.data.graph import from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.kernels.zbl import ZBL
from fireassay.models.nequip import NequIP
from fireassay.nn.cutoff import polynomial_cutoff
from fireassay.potential import Baseline, Sum
from fireassay.potential_file import load_potential, save_potential
from fireassay.testing import assert_potential_contract

TABLE = [[2.5, 3.0, 3.1], [3.0, 4.0, 3.7], [3.1, 3.7, 3.5]]


@pytest.mark.contract
@pytest.mark.parametrize("pair_cutoffs", [None, TABLE])
def test_contract(pair_cutoffs):
    assert_potential_contract(lambda: ZBL((1, 6, 8), pair_cutoffs=pair_cutoffs))


@pytest.mark.contract
def test_a_core_beside_a_network_obeys_the_contract():
    def make():
        network = NequIP((1, 6, 8), n_layers=2, channels=4, radial_hidden=(8,))
        return Sum([Baseline(network, {1: -3.0, 6: -30.0, 8: -70.0}, 0.7), ZBL((1, 6, 8))])

    assert_potential_contract(make, e0={1: -3.0, 6: -30.0, 8: -70.0})


def test_two_nuclei_repel_as_the_universal_screening_says():
    """E = z1 z2 e^2 / (4 pi eps0 d) phi(d / a) u(d) with the published constants, in SI units."""
    d, z1, z2 = 0.4, 6, 8
    x = d * (z1**0.23 + z2**0.23) / 0.4685
    phi = 0.18175 * np.exp(-3.1998 * x) + 0.50986 * np.exp(-0.94229 * x)
    phi += 0.28022 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.20162 * x)
    coulomb = _e / (4 * np.pi * _eps0) * 1e10  # eV Å
    envelope = polynomial_cutoff(torch.tensor(d, dtype=torch.float64), 3.7, 6).item()
    model = ZBL((1, 6, 8), pair_cutoffs=TABLE).to(torch.float64)
    pair = Structure(np.array([z1, z2]), np.array([[0.0, 0, 0], [0, 0, d]]))
    prediction = model.predict(from_structures([pair], 4.0))
    assert prediction.energy.item() == pytest.approx(coulomb * z1 * z2 / d * phi * envelope, rel=1e-5)
    assert prediction.forces[1, 2] > 10
    assert prediction.atom_energies[0] == pytest.approx(prediction.atom_energies[1].item())


def test_a_sum_is_saved_with_its_core(tmp_path):
    network = NequIP((1, 8), n_layers=2, channels=4, radial_hidden=(8,))
    potential = Sum([Baseline(network, {1: -3.0, 8: -70.0}), ZBL((8, 1), pair_cutoffs=[[3.0, 2.0], [2.0, 4.0]])])
    save_potential(potential, tmp_path / "potential.safetensors")
    loaded = load_potential(tmp_path / "potential.safetensors")
    water = Structure(np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0, 0, 0.96], [0.9, 0, -0.3]]))
    graph = from_structures([water], 4.0, torch.float32)
    expected = potential.predict(graph)
    for other in (loaded, loaded.frozen()):
        got = other.predict(graph)
        torch.testing.assert_close(got.energy, expected.energy)
        torch.testing.assert_close(got.forces, expected.forces, rtol=1e-4, atol=1e-4)
        assert got.descriptors.shape == (3, 4)
    core = potential.potentials[1].predict(graph)
    assert not torch.allclose(core.forces, torch.zeros_like(core.forces), atol=1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"cutoff": 0.0},
        {"envelope_p": 0},
        {"pair_cutoffs": [[1.0]]},
        {"pair_cutoffs": [[1.0, 2.0], [2.0, 9.0]]},
        {"species": []},
    ],
)
def test_bad_arguments(wrong):
    with pytest.raises(InputError):
        ZBL(**{"species": (1, 6), **wrong})
    with pytest.raises(InputError, match="at least one"):
        Sum([])
