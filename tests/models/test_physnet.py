"""What is particular to PhysNet: its charges, its two ranges, its options, and which of them breaks which law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from architectures import build
from fireassay.data.graph import Graph, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.testing import LAWS, assert_potential_contract


def physnet(**arguments: Any) -> Any:
    return build("physnet", **arguments).to(torch.float64)


def molecule(spread: float = 1.0) -> Structure:
    rng = np.random.default_rng(5)
    positions = np.stack(np.meshgrid([0, 1.2], [0, 1.3], [0, 1.1]), -1).reshape(-1, 3)[:7]
    return Structure(np.array([1, 8, 1, 1, 8, 8, 1]), spread * (positions + 0.1 * rng.normal(size=(7, 3))))


def graph(*structures: Structure, cutoff: float = 4.0) -> Graph:
    return from_structures(structures, cutoff)


@pytest.mark.contract
@pytest.mark.parametrize(
    "option",
    [
        {"charge_conservation": "none"},
        {"electrostatics": False},
        {"dispersion": False},
        {"dispersion_coefficients": [0.5, 0.213, 0.0, 6.0519], "trainable_dispersion": False, "trainable_basis": False},
        {"short_cutoff": None, "zero_start": True},
        {"residual_atomic": 0, "residual_interaction": 0, "residual_output": 0},
    ],
)
def test_options_obey_the_contract(option):
    laws = ["shapes", "forces", "stress", "second_derivatives", "continuity", "extensivity", "isolated_atom"]
    assert assert_potential_contract(lambda: build("physnet", **option), laws=laws) == laws


@pytest.mark.contract
def test_the_published_conservation_breaks_extensivity_alone():
    def make():
        return build("physnet", charge_conservation="total")

    assert_potential_contract(make, laws=[name for name in LAWS if name not in ("extensivity", "reference")])
    with pytest.raises(AssertionError, match="law 11"):
        assert_potential_contract(make, laws=["extensivity"])


def test_local_charges_sum_to_zero_in_every_fragment():
    model = physnet()
    far = Structure(np.array([8, 1, 1]), np.array([[90.0, 0, 0], [90.9, 0, 0], [89.6, 0.8, 0]]))
    atom = Structure(np.array([8]), np.zeros((1, 3)))
    both = Structure(
        np.concatenate([molecule().atomic_numbers, far.atomic_numbers]),
        np.concatenate([molecule().positions, far.positions]),
    )
    with torch.no_grad():
        model.charge_shift.copy_(torch.tensor([0.3, -0.2]))
    charges = model.charges(graph(both, atom))
    assert charges.abs().max() > 0.05
    assert charges[:7].sum().abs() < 1e-13
    assert charges[7:10].sum().abs() < 1e-13
    assert charges[10] == 0
    torch.testing.assert_close(charges[:7], model.charges(graph(molecule())))


def test_total_charges_sum_to_the_charge_of_each_structure():
    model = physnet(charge_conservation="total", total_charge=-1.0)
    charges = model.charges(graph(molecule(), molecule(1.1)))
    assert charges[:7].sum().item() == pytest.approx(-1)
    assert charges[7:].sum().item() == pytest.approx(-1)
    free = physnet(charge_conservation="none").charges(graph(molecule()))
    assert free.sum().abs() > 1e-3
    moved = charges[:7] - free
    torch.testing.assert_close(moved, moved[:1].expand(7))


def test_in_a_structure_much_smaller_than_the_cutoff_local_conservation_is_the_published_one():
    local, total = (physnet(cutoff=100.0, short_cutoff=None, charge_conservation=c) for c in ("local", "total"))
    far = graph(molecule(), cutoff=100.0)
    expected = total.charges(far)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(local.charges(far), expected, rtol=1e-2, atol=1e-4)
    a, b = local.predict(far), total.predict(far)
    torch.testing.assert_close(a.energy, b.energy, rtol=1e-4, atol=0)
    torch.testing.assert_close(a.forces, b.forces, rtol=0, atol=1e-3 * b.forces.abs().max().item())


def test_beyond_the_short_cutoff_there_is_dispersion_alone_between_neutral_atoms():
    pair = Structure(np.array([8, 8]), np.array([[0, 0, 0], [0, 0, 3.5]]))
    one, two = (physnet(seed=seed) for seed in (0, 1))
    energy = one.predict(graph(pair)).energy
    assert energy < -1e-4
    torch.testing.assert_close(two.predict(graph(pair)).energy, energy, rtol=1e-12, atol=0)
    closer = Structure(pair.atomic_numbers, pair.positions * 0.6)
    assert (one.predict(graph(closer)).energy - two.predict(graph(closer)).energy).abs() > 1e-4
    assert physnet(dispersion=False).predict(graph(pair)).energy == 0


def test_free_charges_attract_beyond_the_short_cutoff():
    pair = graph(Structure(np.array([1, 8]), np.array([[0, 0, 0], [0, 0, 3.5]])))
    model = physnet(charge_conservation="none", dispersion=False)
    with torch.no_grad():
        model.charge_shift.copy_(torch.tensor([0.4, -0.4], dtype=torch.float64))
        model.charge_scale.zero_()
    torch.testing.assert_close(model.charges(pair), torch.tensor([0.4, -0.4], dtype=torch.float64))
    expected = -0.16 * 14.399645351950548 * (1 / 3.5 + 3.5 / 16 - 2 / 4)
    assert model.predict(pair).energy.item() == pytest.approx(expected, rel=1e-12)


def test_a_fresh_model_has_its_physical_terms_alone_and_charges_to_learn_from():
    model, near = physnet(zero_start=True), graph(molecule())
    assert model.charges(near).abs().max() > 1e-3
    assert (physnet(zero_start=True, electrostatics=False, dispersion=False).predict(near).energy == 0).all()
    model.predict(near, differentiable=True).energy.sum().backward()
    slopes = [layer.output.weight.grad for layer in model.layers]
    assert all((slope.abs().amax(1) > 1e-6).all() for slope in slopes)  # of the energies and of the charges


def test_every_parameter_matters():
    model = physnet()
    with torch.no_grad():
        model.charge_shift.add_(0.1)
    prediction = model.predict(graph(molecule()), differentiable=True)
    (prediction.energy.square().sum() + prediction.forces.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_edges_in_one_direction_only_are_summed_as_they_are():
    model, full = physnet(), graph(molecule())
    alone = full._replace(centre=full.centre[1:], neighbour=full.neighbour[1:], shift=full.shift[1:])
    assert model.predict(alone).energy.isfinite()
    assert (model.predict(alone).energy - model.predict(full).energy).abs() > 1e-6


def test_the_frozen_twin_keeps_the_energies_of_isolated_atoms():
    twin = physnet().frozen()
    assert twin.isolated.shape == (2,)
    atoms = graph(*(Structure(np.array([z]), np.zeros((1, 3))) for z in (1, 8)))
    torch.testing.assert_close(twin.predict(atoms).energy, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"short_cutoff": 4.5},
        {"short_cutoff": 0.0},
        {"residual_output": -1},
        {"charge_conservation": "global"},
        {"total_charge": 1.0},
        {"species": [1, 99]},
        {"dispersion_coefficients": [1.0, 1.0]},
    ],
)
def test_arguments_that_are_refused(wrong):
    with pytest.raises(InputError):
        physnet(**wrong)


def test_a_model_without_electrostatics_has_no_charges():
    with pytest.raises(InputError, match="no charges"):
        physnet(electrostatics=False).charges(graph(molecule()))
