"""Molecules by their bonds, across periodic boundaries."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule

from fireassay.data.molecules import connectivity, covalent_bonds, formula, molecules
from fireassay.data.structure import Structure
from fireassay.interop.ase import structure_of


def box(*names: str, length: float = 9.0, offset: float = 0.0) -> Structure:
    """Molecules in a row, far apart, in a periodic box; `offset` pushes them over the boundary."""
    parts = [molecule(name) for name in names]
    numbers = np.concatenate([part.numbers for part in parts])
    positions = np.concatenate([part.positions + np.array([length * k + offset, 0, 0]) for k, part in enumerate(parts)])
    cell = np.diag([length * len(parts), 9.0, 9.0])
    return Structure(numbers, positions % np.diag(cell), cell, np.ones(3, bool))


def names(structure: Structure) -> list[str]:
    return [formula(structure.atomic_numbers[atoms]) for atoms in molecules(structure)]


@pytest.mark.parametrize("offset", [0.0, 8.9, -0.3])
def test_molecules_are_whole_across_the_boundary(offset):
    assert names(box("H2O", "CH3OH", "H2O", offset=offset)) == ["H2O", "CH4O", "H2O"]


def test_a_sheet_is_no_molecule_and_what_lies_on_it_is():
    sheet = graphene(size=(4, 4, 1), vacuum=8.0)
    sheet.pbc = True
    on = molecule("NH3")
    on.positions += sheet.positions.mean(0) + np.array([0, 0, 3.5])
    both = sheet + on
    assert names(structure_of(both)) == ["H3N"]
    assert connectivity(structure_of(sheet)).length.max() < 1.5


def test_metals_and_single_atoms_are_no_molecules():
    assert names(Structure(np.array([29, 29, 2]), np.array([[0.0, 0, 0], [2.3, 0, 0], [6.0, 0, 0]]))) == []


def test_a_chain_bonded_to_its_own_image_goes_on_for_ever():
    chain = Structure(np.array([6]), np.zeros((1, 3)), np.diag([1.4, 9.0, 9.0]), np.ones(3, bool))
    assert len(connectivity(chain).pairs) == 1
    assert molecules(chain) == []


@pytest.mark.parametrize(("numbers", "text"), [([1, 8, 1], "H2O"), ([6, 1, 17, 1, 1], "CH3Cl"), ([26, 6, 6], "C2Fe")])
def test_compositions_are_in_hills_order(numbers, text):
    assert formula(np.array(numbers)) == text


def test_bonds_that_ought_to_last():
    """Water in a box, an adsorbate and a framework have some; a metal, an ionic crystal and crowded atoms have none."""
    water = molecule("H2O", vacuum=2.0)
    water.pbc = True
    assert len(covalent_bonds(structure_of(water * (2, 1, 1))).pairs) == 4
    assert len(covalent_bonds(structure_of(bulk("Si", cubic=True))).pairs) == 16
    assert len(covalent_bonds(structure_of(bulk("Cu", cubic=True))).pairs) == 0
    assert len(covalent_bonds(structure_of(bulk("NaCl", "rocksalt", a=5.64, cubic=True))).pairs) == 0
    crowded = structure_of(bulk("Te", "sc", a=3.2) * 3)
    assert len(connectivity(crowded).pairs) == 81
    assert len(covalent_bonds(crowded).pairs) == 0
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3), -1).reshape(-1, 3) * 1.6
    grid[1] = grid[0] + [0.74, 0, 0]  # one pair by chance
    dense = Atoms("H125", grid + rng.normal(size=grid.shape) * 0.01, cell=[8, 8, 8], pbc=True)
    assert len(connectivity(structure_of(dense)).pairs) == 1
    assert len(covalent_bonds(structure_of(dense)).pairs) == 0
    pair = Atoms("H2", [[0, 0, 0], [0.74, 0, 0]], cell=[8, 8, 8], pbc=True)
    assert len(covalent_bonds(structure_of(pair)).pairs) == 1
    free = molecule("C6H6")
    assert len(covalent_bonds(structure_of(free)).pairs) == len(connectivity(structure_of(free)).pairs) == 12
