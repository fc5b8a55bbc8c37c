from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.data import atomic_numbers

from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.data.unit_check import (
    all_electron_energy,
    energy_unit,
    force_unit,
    foreign_unit,
    hydrogen_stiffness,
)
from fireassay.units import BOHR, ENERGY, HARTREE
from samples import shared


def methane(count: int = 40, stiffness: float = 30.0, total: bool = True) -> list[Structure]:
    """Methane with harmonic C-H bonds of a known force constant in eV/Å^2 and an all-electron total energy."""
    rng = np.random.default_rng(0)
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    numbers = np.array([6, 1, 1, 1, 1])
    structures = []
    for _ in range(count):
        stretch = rng.normal(scale=0.05, size=4)
        forces = np.zeros((5, 3))
        forces[1:] = -stiffness * stretch[:, None] * corners
        forces[0] = -forces[1:].sum(axis=0)
        energy = 0.5 * stiffness * float(stretch @ stretch) + (-40.5 * HARTREE if total else -24.0)
        positions = np.concatenate([np.zeros((1, 3)), (1.09 + stretch)[:, None] * corners])
        structures.append(Structure(numbers, positions, energy=energy, forces=forces))
    return structures


def rescaled(s: Structure, energy: float, length: float = 1.0, forces: float | None = None) -> Structure:
    assert s.energy is not None
    assert s.forces is not None
    factor = energy / length if forces is None else forces
    return replace(s, energy=s.energy / energy, positions=s.positions / length, forces=s.forces / factor)


@pytest.mark.parametrize(
    ("symbol", "hartree"), [("H", -0.5), ("He", -2.90), ("C", -37.85), ("O", -75.07), ("Si", -289.4)]
)
def test_all_electron_energies_of_atoms(symbol: str, hartree: float) -> None:
    z = np.array([atomic_numbers[symbol]])
    assert all_electron_energy(z)[0] == pytest.approx(hartree * HARTREE, rel=0.012)


def test_stiffness_is_the_force_constant() -> None:
    assert hydrogen_stiffness(methane(stiffness=31.7)) == pytest.approx(31.7)
    assert hydrogen_stiffness(methane(count=5)) is None  # too few bonds to say


def test_forces_that_do_not_follow_the_bonds_say_nothing() -> None:
    rng = np.random.default_rng(1)
    noise = [replace(s, forces=rng.normal(size=(5, 3))) for s in methane()]
    assert hydrogen_stiffness(noise) is None


@pytest.mark.parametrize(
    ("stiffness", "unit"),
    [(30.0, "eV/Å"), (690.0, "kcal/mol/Å"), (2900.0, "kJ/mol/Å"), (0.6, "Hartree/Bohr"), (1e7, None)],
)
def test_force_units(stiffness: float, unit: str | None) -> None:
    assert force_unit(stiffness) == unit


@pytest.mark.parametrize("unit", ["kcal/mol", "kJ/mol"])
@pytest.mark.parametrize("total", [True, False])
def test_foreign_energies_are_recognised(unit: str, total: bool) -> None:
    evidence = foreign_unit([rescaled(s, ENERGY[unit]) for s in methane(total=total)])
    assert evidence is not None
    assert evidence.mapping == {"energy": unit}


def test_atomic_units_with_positions_in_angstrom() -> None:
    evidence = foreign_unit([rescaled(s, HARTREE, forces=HARTREE / BOHR) for s in methane()])
    assert evidence is not None
    assert evidence.mapping == {"energy": "Hartree", "forces": "Hartree/Bohr"}


def test_bohr_is_recognised_by_bond_lengths() -> None:
    evidence = foreign_unit([rescaled(s, HARTREE, BOHR) for s in methane()])
    assert evidence is not None
    assert evidence.mapping == {"length": "Bohr", "energy": "Hartree"}


def test_mixed_units_are_recognised() -> None:
    evidence = foreign_unit([rescaled(s, HARTREE, forces=1.0) for s in methane()])
    assert evidence is not None
    assert evidence.mapping == {"energy": "Hartree", "forces": "eV/Å"}


def test_few_frames_without_hydrogen_bonds_to_judge_by() -> None:
    carbon = [Structure(np.array([6, 6]), np.array([[0.0, 0, 0], [1.3, 0, 0]]), energy=-2 * 37.8) for _ in range(3)]
    evidence = foreign_unit(carbon)
    assert evidence is not None
    assert evidence.mapping["energy"] == "Hartree"


def test_ev_is_not_suspected() -> None:
    assert foreign_unit(methane()) is None
    assert foreign_unit(methane(total=False)) is None
    assert energy_unit(methane()) == ("eV", pytest.approx(1, abs=0.03))
    assert energy_unit(methane(total=False)) is None
    assert foreign_unit([]) is None


@pytest.mark.parametrize(
    "name",
    [
        "3bpa/train_300K.xyz.xz",
        "3bpa/train_mixedT.xyz.xz",
        "acac/test_MD_600K.xyz.xz",
        "md17/naphthalene_train.npz",
        "water/test-H2O_RPBE-D3.xyz.xz",
        "deepmd_water",
        "spice_dipeptides/spice-dipep-dipolar_train.xyz.xz",
    ],
)
def test_real_data_in_ev_has_ordinary_bonds(name: str) -> None:
    stiffness = hydrogen_stiffness(read(shared(name)))  # which is not refused
    assert stiffness is not None
    assert 25 < stiffness < 45
