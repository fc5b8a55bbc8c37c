"""States: Maxwell-Boltzmann statistics, degrees of freedom, and replicas that leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from fireassay.errors import InputError
from fireassay.interop.ase import structure_of
from fireassay.simulation.state import (
    centre_of_mass_velocity,
    from_structures,
    generators,
    kinetic_energy,
    maxwell_boltzmann,
    replicate,
    select,
    temperature,
    to_structures,
)
from fireassay.units import ACCELERATION, BOLTZMANN


def test_kinetic_energy_in_ases_units():
    atoms = molecule("CH3CH2OH")
    state = maxwell_boltzmann(from_structures([structure_of(atoms)]), 300.0, generators(0, 1))
    atoms.set_velocities(state.velocities.numpy() / ACCELERATION**0.5)
    assert float(kinetic_energy(state)[0]) == pytest.approx(atoms.get_kinetic_energy())


def test_velocities_are_maxwell_boltzmann_for_every_mass():
    state = replicate(structure_of(molecule("CH3CH2OH")), 3000)
    state = maxwell_boltzmann(state, 500.0, generators(1, 3000), translation=True, rotation=True)
    for number in (1, 6, 8):
        chosen = state.atomic_numbers == number
        scaled = (state.velocities[chosen] ** 2 * state.masses[chosen, None] / (BOLTZMANN * ACCELERATION * 500)).ravel()
        assert abs(float(scaled.mean()) - 1) < 4 * (2 / len(scaled)) ** 0.5
        assert float(scaled.var()) == pytest.approx(2, rel=0.1)  # chi squared with one degree of freedom


def test_the_mean_temperature_is_right_whatever_is_taken_away():
    for atoms, periodic, expected in (
        (molecule("CH3CH2OH"), False, 27 - 6),
        (molecule("CO2"), False, 9 - 5),
        (bulk("Cu", cubic=True), True, 12 - 3),
        (molecule("H2"), False, 6 - 5),
    ):
        state = replicate(structure_of(atoms), 4000)
        state = maxwell_boltzmann(state, 300.0, generators(2, 4000))
        assert state.degrees_of_freedom.unique().tolist() == [expected], atoms
        found = temperature(state)
        assert abs(float(found.mean()) - 300) < 4 * 300 * (2 / expected / 4000) ** 0.5
        assert float(found.std()) == pytest.approx(300 * (2 / expected) ** 0.5, rel=0.1)
        assert float(centre_of_mass_velocity(state).abs().max()) < 1e-12
        if not periodic:
            mass, x = state.masses[:, None], state.positions
            spin = torch.linalg.cross(x, state.velocities) * mass
            per_replica = spin.view(4000, -1, 3).sum(1)
            assert float(per_replica.abs().max()) < 1e-9


def test_exact_temperatures_one_per_replica():
    target = torch.tensor([10.0, 300.0, 5000.0], dtype=torch.float64)
    state = replicate(structure_of(molecule("H2O")), 3)
    torch.testing.assert_close(temperature(maxwell_boltzmann(state, target, generators(0, 3), exact=True)), target)
    assert kinetic_energy(maxwell_boltzmann(state, 0.0, generators(0, 3))).tolist() == [0, 0, 0]


def test_a_replica_draws_the_same_in_any_company():
    water, copper = structure_of(molecule("H2O")), structure_of(bulk("Cu", cubic=True))
    draws = generators(9, 3)
    together = maxwell_boltzmann(from_structures([copper, water, copper]), 300.0, draws)
    alone = maxwell_boltzmann(from_structures([water]), 300.0, [generators(9, 3)[1]])
    torch.testing.assert_close(together.velocities[together.structure == 1], alone.velocities, rtol=0, atol=1e-15)


def test_select_closes_ranks_and_keeps_names():
    state = from_structures([structure_of(molecule(name)) for name in ("H2O", "CO2", "CH4")])
    left = select(state, torch.tensor([True, False, True]))
    assert left.replica.tolist() == [0, 2]
    assert left.structure.tolist() == [0] * 3 + [1] * 5
    assert left.atom.tolist() == [0, 1, 2, *range(6, 11)]
    assert left.atomic_numbers.tolist() == state.atomic_numbers[left.atom].tolist()
    nobody = select(state, torch.zeros(3, dtype=torch.bool))
    assert (nobody.n_replicas, nobody.n_atoms) == (0, 0)


def test_structures_there_and_back():
    frames = [structure_of(molecule("H2O")), structure_of(bulk("Cu", cubic=True))]
    state = from_structures(frames)
    for one, other in zip(frames, to_structures(state), strict=True):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.cell, other.cell)
        assert other.energy is None
    state = state._replace(forces=torch.ones_like(state.forces), energy=torch.tensor([1.0, torch.nan]))
    labelled = to_structures(state)
    assert labelled[0].energy == 1.0
    assert labelled[1].forces is None


def test_bad_starts():
    water = structure_of(molecule("H2O"))
    with pytest.raises(InputError, match="at least one structure"):
        from_structures([])
    with pytest.raises(InputError, match="0 replicas"):
        replicate(water, 0)
    with pytest.raises(InputError, match="positive masses of 3 atoms"):
        from_structures([water], masses=[np.array([16.0, 1.0])])
    with pytest.raises(InputError, match="one generator for each of the 2 replicas"):
        maxwell_boltzmann(replicate(water, 2), 300.0, generators(0, 1))
    with pytest.raises(InputError, match="needs T >= 0"):
        maxwell_boltzmann(replicate(water, 1), -1.0, generators(0, 1))
    with pytest.raises(InputError, match="no degree of freedom"):
        maxwell_boltzmann(from_structures([structure_of(Atoms("He"))]), 300.0, generators(0, 1))


def test_masses_can_be_given():
    deuterium = from_structures([structure_of(molecule("H2"))], masses=[np.array([2.014, 2.014])])
    assert deuterium.masses.tolist() == [2.014, 2.014]
