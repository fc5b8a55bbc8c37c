"""Constants against ASE's independent table (CODATA 2014 there, so 1e-6) and against their definitions."""

from __future__ import annotations

import math

import ase.units
import pytest

from fireassay import units


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (units.BOLTZMANN, ase.units.kB),
        (units.HARTREE, ase.units.Hartree),
        (units.RYDBERG, ase.units.Rydberg),
        (units.BOHR, ase.units.Bohr),
        (units.KCAL_PER_MOL, ase.units.kcal / ase.units.mol),
        (units.KJ_PER_MOL, ase.units.kJ / ase.units.mol),
        (units.NANOMETRE, ase.units.nm),
        (units.GIGAPASCAL, ase.units.GPa),
        (units.KILOBAR, 1000 * ase.units.bar),
        (units.ACCELERATION, ase.units.fs**2),
    ],
)
def test_constants_agree_with_ase(ours: float, theirs: float) -> None:
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_exact_definitions_of_2019() -> None:
    electron_charge, avogadro, boltzmann = 1.602176634e-19, 6.02214076e23, 1.380649e-23
    assert pytest.approx(4184 / avogadro / electron_charge, rel=1e-13) == units.KCAL_PER_MOL
    assert pytest.approx(boltzmann / electron_charge, rel=1e-9) == units.BOLTZMANN
    assert pytest.approx(1e9 * 1e-30 / electron_charge, rel=1e-13) == units.GIGAPASCAL


def test_acceleration_is_energy_over_mass() -> None:
    kilogram_per_amu = 1.66053906660e-27
    speed_squared = 1.602176634e-19 / kilogram_per_amu  # (m/s)^2 of 1 eV/amu
    assert pytest.approx(speed_squared * (1e10 / 1e15) ** 2, rel=1e-9) == units.ACCELERATION


def test_tables_are_positive_and_consistent() -> None:
    for table in (units.ENERGY, units.LENGTH, units.STRESS):
        assert all(value > 0 and math.isfinite(value) for value in table.values())
    assert units.ENERGY["Ha"] == units.ENERGY["Hartree"] == 2 * units.ENERGY["Ry"]
    assert units.STRESS["GPa"] == pytest.approx(10 * units.STRESS["kbar"])
    assert units.STRESS["kbar"] == pytest.approx(1000 * units.STRESS["bar"])
