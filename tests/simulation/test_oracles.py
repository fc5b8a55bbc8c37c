"""Oracles against what ASE and tblite say themselves."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.stress import voigt_6_to_full_3x3_stress

from fireassay.data.structure import Provenance, Structure
from fireassay.errors import InputError
from fireassay.interop.ase import structure_of
from fireassay.simulation.oracles import ORACLES, label, oracle


def alloy(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Au"
    atoms.rattle(0.1, seed=seed)
    return atoms


def test_labels_are_the_calculators():
    frames = [alloy(k) for k in range(3)]
    found = label([structure_of(a) for a in frames], oracle("emt"), stress=True)
    for atoms, structure in zip(frames, found, strict=True):
        atoms.calc = EMT()
        assert structure.energy == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(structure.forces, atoms.get_forces(), atol=1e-12)
        np.testing.assert_allclose(structure.stress, voigt_6_to_full_3x3_stress(atoms.get_stress()), atol=1e-12)
    assert np.abs(found[0].forces).max() > 0.01


def test_labels_of_another_theory_are_dropped():
    old = structure_of(alloy())
    old = Structure(old.atomic_numbers, old.positions, old.cell, old.pbc, stress=np.eye(3))
    assert label([old], oracle("emt"))[0].stress is None


def test_what_cannot_be_labelled_names_the_frame():
    helium = Structure(np.array([2]), np.zeros((1, 3)), provenance=Provenance("gas.xyz", 7))
    with pytest.raises(InputError, match=r"gas.xyz frame 7: EMT cannot label it"):
        label([helium], oracle("emt"))


def test_unknown_oracle():
    with pytest.raises(InputError, match="did you mean 'gfn2-xtb'"):
        oracle("gfn-xtb")
    assert set(ORACLES) == {"gfn2-xtb", "emt", "argon"}


def test_argon_forces_are_the_gradient():
    frame = structure_of(Atoms("Ar3", [[0, 0, 0], [3.8, 0, 0], [1.9, 8.9, 0]]))
    base = label([frame], oracle("argon"))[0]
    step = np.zeros((3, 3))
    step[2, 1] = 1e-4
    energies = [
        label([Structure(frame.atomic_numbers, frame.positions + sign * step)], oracle("argon"))[0].energy
        for sign in (1, -1)
    ]
    assert base.forces[2, 1] == pytest.approx(-(energies[0] - energies[1]) / 2e-4, abs=1e-8)
    assert abs(base.forces[2, 1]) > 1e-6


@pytest.mark.oracle
@pytest.mark.skipif(importlib.util.find_spec("tblite") is None, reason="needs tblite: pip install 'fireassay[oracles]'")
def test_xtb_labels_water():
    from tblite.interface import Calculator

    from fireassay.units import BOHR, HARTREE

    positions = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    found = label([structure_of(Atoms("OH2", positions))], oracle("gfn2-xtb"))[0]
    direct = Calculator("GFN2-xTB", np.array([8, 1, 1]), positions / BOHR)
    direct.set("verbosity", 0)
    direct.set("accuracy", 0.1)
    result = direct.singlepoint()
    assert found.energy == pytest.approx(result.get("energy") * HARTREE, rel=1e-7)
    np.testing.assert_allclose(found.forces, -result.get("gradient") * HARTREE / BOHR, atol=1e-5)
