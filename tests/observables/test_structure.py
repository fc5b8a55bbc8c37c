"""Distances, angles and shapes of molecules: hand-solved cases, and public packages on one trajectory."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.interop.ase import structure_of
from fireassay.observables.angles import count_angles
from fireassay.observables.molecule import (
    bond_angles,
    bond_lengths,
    dihedral_angles,
    internal_coordinates,
    molecular_fraction,
    radius_of_gyration,
)
from fireassay.observables.pairs import count_pairs, first_minimum, usable_reach
from fireassay.observables.trajectory import Trajectory, unwrapped, without_drift

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "observables.npz")
PERIODIC = np.ones(3, dtype=bool)
FREE = np.zeros(3, dtype=bool)


def recorded():
    positions = REFERENCE["positions"]
    cell = np.broadcast_to(REFERENCE["cell"], (len(positions), 3, 3))
    return REFERENCE["numbers"], positions, cell, PERIODIC


def test_radial_distributions_are_ases():
    """ASE divides by N N, and its partial ones by the atoms of the first element and the density of the second."""
    found = count_pairs(*recorded(), 4.0, 0.1)
    total, partial = found.distribution()
    np.testing.assert_allclose(total, REFERENCE["ase_rdf"], atol=1e-12)
    names = dict(zip(found.names, partial, strict=True))
    np.testing.assert_allclose(names["Li-P"], REFERENCE["ase_rdf_3_15"] * len(found.numbers) ** 0, atol=1e-12)
    np.testing.assert_allclose(names["S-S"], REFERENCE["ase_rdf_16_16"], atol=1e-12)


def test_a_partial_distribution_is_mdanalysis():
    found = count_pairs(*recorded(), 4.0, 0.1)
    names = dict(zip(found.names, found.distribution()[1], strict=True))
    ours, theirs = names["Li-P"], REFERENCE["mdanalysis_rdf_3_15"]
    # MDAnalysis reads float32: a pair in a thousand falls into the next bin.
    assert np.abs(ours - theirs).max() < 0.02 * theirs.max()
    assert (np.abs(ours - theirs) > 1e-5).sum() <= 4


def test_every_image_counts_whatever_the_cell():
    """Against a plain loop over images, in a cell so small and skew that several of them are within reach."""
    rng = np.random.default_rng(1)
    cell = np.array([[3.0, 0.2, 0.0], [1.4, 2.8, 0.1], [-1.2, 0.4, 3.5]])
    x = rng.normal(size=(5, 3)) * 4
    numbers = np.array([1, 1, 8, 8, 8])
    for pbc in (PERIODIC, np.array([True, False, True]), FREE):
        counts = np.zeros(60, dtype=int)
        near = range(-6, 7)
        for i in range(5):
            for j in range(5):
                for n in np.ndindex(13, 13, 13):
                    shift = np.array([near[k] for k in n])
                    if (shift[~pbc] != 0).any() or (i == j and not shift.any()):
                        continue
                    place = int(np.linalg.norm(x[j] + shift @ cell - x[i]) / 0.1)
                    if place < 60:
                        counts[place] += 1
        found = count_pairs(numbers, x[None], cell[None], pbc, 6.0, 0.1)
        assert (2 * found.counts.sum(0)).tolist() == counts.tolist()


def test_shells_of_an_fcc_crystal():
    atoms = bulk("Cu", cubic=True) * 3
    a = 3.61
    found = count_pairs(atoms.numbers, atoms.positions[None], atoms.cell.array[None], PERIODIC, 5.0, 0.02)
    n = found.coordination()[0, 0]
    at = [a / np.sqrt(2), a, a * np.sqrt(1.5)]
    assert [float(n[int((d + 0.05) / 0.02)]) for d in at] == [12, 18, 42]
    assert first_minimum(found.distance, found.distribution()[0]) == pytest.approx((at[0] + at[1]) / 2, abs=0.5)


def test_an_ideal_gas_has_no_structure():
    rng = np.random.default_rng(0)
    frames, n, side = 400, 64, 12.0
    x = rng.uniform(0, side, (frames, n, 3))
    numbers = np.repeat([7, 8], [24, 40])
    cell = np.broadcast_to(np.eye(3) * side, (frames, 3, 3))
    found = count_pairs(numbers, x, cell, PERIODIC, 6.0, 0.5)
    total, partial = found.distribution()
    pairs = found.counts.sum(0)
    assert np.abs(total / (1 - 1 / n) - 1).max() < 5 / np.sqrt(pairs.min())
    expected = {"N-N": 1 - 1 / 24, "N-O": 1.0, "O-O": 1 - 1 / 40}
    for name, g, counts in zip(found.names, partial, found.counts, strict=True):
        assert g[2:].mean() == pytest.approx(expected[name], abs=5 / np.sqrt(counts[2:].sum()))


def test_frames_and_parts_add_up():
    whole = count_pairs(*recorded(), 4.0, 0.1)
    numbers, x, cell, pbc = recorded()
    parts = [count_pairs(numbers, x[part], cell[part], pbc, 4.0, 0.1) for part in (slice(0, 5), slice(5, None))]
    sums = {name: sum(getattr(part, name) for part in parts) for name in ("counts", "weighted", "frames")}
    together = replace(parts[0], **sums)
    assert np.array_equal(whole.counts, together.counts)
    assert together.frames == whole.frames
    np.testing.assert_allclose(whole.distribution()[1], together.distribution()[1], rtol=1e-12)
    single = count_pairs(numbers, x, cell, pbc, 4.0, 0.1, threads=1)
    assert np.array_equal(whole.counts, single.counts)


def test_the_density_of_pair_distances_integrates_to_one():
    atoms = molecule("C6H6")
    found = count_pairs(atoms.numbers, atoms.positions[None], atoms.cell.array[None], FREE, 10.0, 0.02)
    assert found.density().sum() * 0.02 == pytest.approx(1.0)
    assert found.counts.sum() == 66


def test_angles_are_ases():
    found = count_angles(*recorded(), cutoff=2.5, width=2.0)
    names = {name: key.removeprefix("angles_") for key in REFERENCE.files for name in [key.removeprefix("angles_")]}
    seen = dict(found.triplets())
    for name in [n for n in names if f"angles_{n}" in REFERENCE.files]:
        expected = np.histogram(REFERENCE[f"angles_{name}"], 90, (0, 180))[0]
        counts = found.counts[seen.pop(name)]
        assert np.abs(counts - expected).sum() <= 2, name  # one angle on the edge of a bin
        density = found.density(dict(found.triplets())[name])
        assert density.sum() * 2.0 == pytest.approx(1.0)
    assert not seen
    assert found.density().sum() * 2.0 == pytest.approx(1.0)


def test_the_order_of_the_atoms_does_not_matter():
    numbers, x, cell, pbc = recorded()
    order = np.random.default_rng(0).permutation(len(numbers))
    for first, second in (
        (count_pairs(numbers, x, cell, pbc, 4.0, 0.1), count_pairs(numbers[order], x[:, order], cell, pbc, 4.0, 0.1)),
        (count_angles(numbers, x, cell, pbc), count_angles(numbers[order], x[:, order], cell, pbc)),
    ):
        assert np.array_equal(first.counts, second.counts)


def test_angles_of_a_tetrahedron_and_of_a_small_cell():
    atoms = molecule("CH4")
    found = count_angles(atoms.numbers, atoms.positions[None], atoms.cell.array[None], FREE, cutoff=1.5)
    ((name, triplet),) = found.triplets()
    assert name == "H-C-H"
    assert found.counts[triplet].sum() == 6
    assert found.angle[found.counts[triplet].argmax()] == pytest.approx(109.5, abs=0.5)
    chain = count_angles(np.array([6]), np.zeros((1, 1, 3)), np.diag([1.5, 20.0, 20.0])[None], PERIODIC, cutoff=1.6)
    assert chain.counts.sum() == 1  # between both images of the only atom
    assert chain.counts[0, 0, 0, -1] == 1
    apart = count_angles(atoms.numbers, atoms.positions[None], atoms.cell.array[None], FREE,
                         cutoff=np.array([[2.0, 0.5], [0.5, 0.5]]))  # fmt: skip
    assert {name for name, _ in apart.triplets()} == {"H-H-H"}


def test_ranges_and_bins_are_checked():
    numbers, x, cell, pbc = recorded()
    with pytest.raises(InputError, match="opposite faces are"):
        usable_reach(cell, pbc, 6.0)
    assert usable_reach(cell, pbc) == pytest.approx((np.linalg.norm(REFERENCE["cell"], axis=1).min() - 1) / 2)
    assert usable_reach(cell, FREE) == 10.0
    assert usable_reach(cell, pbc, 3.0) == 3.0
    with pytest.raises(InputError, match="bins of 5 Å"):
        count_pairs(numbers, x, cell, pbc, 4.0, 5)
    with pytest.raises(InputError, match="do not divide 180"):
        count_angles(numbers, x, cell, pbc, width=7.0)
    with pytest.raises(InputError, match="more than 256 neighbours"):
        count_angles(numbers, x, cell, pbc, cutoff=12.0)
    with pytest.raises(InputError, match="spans no volume"):
        count_pairs(numbers, x, cell * 0, pbc, 4.0, 0.1)


def test_dihedrals_and_angles_are_ases():
    chain = Structure(np.array([6, 6, 8, 1]), REFERENCE["chain"][0])
    internal = internal_coordinates(chain)
    x = REFERENCE["chain"]
    cell = np.zeros((len(x), 3, 3))
    assert internal.bonds.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert internal.bond_names == ["C-C", "C-O", "H-O"]
    assert internal.dihedral_names == ["C-C-O-H"]
    found = dihedral_angles(x, internal, cell)[:, 0]
    np.testing.assert_allclose(found % 360, REFERENCE["chain_dihedral"] % 360, atol=1e-9)
    row = internal.angles.tolist().index([0, 1, 2])
    np.testing.assert_allclose(bond_angles(x, internal, cell)[:, row], REFERENCE["chain_angle"], atol=1e-9)
    lengths = np.linalg.norm(x[:, 1] - x[:, 0], axis=1)
    np.testing.assert_allclose(bond_lengths(x, internal, cell)[:, 0], lengths)


def test_bonds_across_a_boundary():
    atoms = molecule("CH3OH", vacuum=3.0)
    atoms.pbc = True
    free = structure_of(atoms)
    split = atoms.copy()
    split.positions += 0.5 * split.cell.array.diagonal()
    split.wrap()
    there, here = internal_coordinates(structure_of(split)), internal_coordinates(free)
    for function in (bond_lengths, bond_angles, dihedral_angles):
        ours = function(split.positions[None], there, split.cell.array[None])
        expected = function(atoms.positions[None], here, atoms.cell.array[None])
        np.testing.assert_allclose(np.sort(np.abs(ours)), np.sort(np.abs(expected)), atol=1e-9)


def test_radius_of_gyration():
    x = np.array([[[0.0, 0, 0], [2.0, 0, 0]], [[0.0, 0, 0], [4.0, 0, 0]]])
    assert radius_of_gyration(x, np.array([1.0, 1.0])).tolist() == [1.0, 2.0]
    assert radius_of_gyration(x, np.array([3.0, 1.0]))[0] == pytest.approx(np.sqrt(3) / 2)
    three = np.concatenate([x, np.full((2, 1, 3), 9.0)], axis=1)
    only = radius_of_gyration(three, np.ones(3), np.array([True, True, False]))
    assert only.tolist() == [1.0, 2.0]


def test_jumps_are_undone_and_nothing_else_is_touched():
    rng = np.random.default_rng(2)
    cell = np.array([[5.0, 0.0, 0.0], [1.0, 6.0, 0.0], [0.5, -1.0, 7.0]])
    smooth = rng.uniform(0, 5, (8, 3)) + np.cumsum(rng.normal(size=(60, 8, 3)) * 0.4, axis=0)
    fractional = smooth @ np.linalg.inv(cell)
    wrapped = (fractional % 1) @ cell
    cells = np.broadcast_to(cell, (60, 3, 3))
    back = unwrapped(wrapped, cells, PERIODIC)
    np.testing.assert_allclose(back - back[0], smooth - smooth[0], atol=1e-9)
    assert np.array_equal(unwrapped(smooth, cells, FREE), smooth)
    assert np.array_equal(unwrapped(smooth[:1], cells[:1], PERIODIC), smooth[:1])
    masses = np.arange(1.0, 9.0)
    centred = without_drift(smooth, masses)
    centre = np.einsum("tnk,n->tk", centred, masses)
    np.testing.assert_allclose(centre, np.broadcast_to(centre[0], centre.shape), atol=1e-9)


def test_a_trajectory_is_of_one_system():
    water = structure_of(molecule("H2O"))
    other = structure_of(molecule("CO2"))
    turned = structure_of(Atoms("HOH", np.eye(3)))
    boxed = structure_of(Atoms("OH2", np.eye(3), cell=[9, 9, 9], pbc=True))
    assert len(Trajectory.of([water, water])) == 2
    for wrong, words in ((other, "CO2"), (turned, "another order"), (boxed, "has pbc")):
        with pytest.raises(InputError, match=words):
            Trajectory.of([water, wrong])
    with pytest.raises(InputError, match="at least one frame"):
        Trajectory.of([])


def test_stable_molecules_of_hydrogen():
    """Two molecules that stay, and two atoms that change partners at frame 5."""
    base = np.array([[0, 0, 0], [0.75, 0, 0], [5, 0, 0], [5.75, 0, 0], [0, 5, 0], [0.7, 5, 0], [8, 8, 8]], dtype=float)
    x = np.repeat(base[None], 10, axis=0)
    x[5:, 5] = [8.7, 8, 8]
    cell = np.zeros((10, 3, 3))
    assert molecular_fraction(x, cell, FREE, 1.0, 0.9, 0.0) == pytest.approx(6 / 7)
    assert molecular_fraction(x, cell, FREE, 1.0, 0.9, 9.0) == pytest.approx(4 / 7)
    assert molecular_fraction(x, cell, FREE, 1.0, 0.5, 9.0) == 0.0


@pytest.mark.slow
def test_a_thousand_atoms_take_milliseconds():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 21.5, (20, 1000, 3))
    cell = np.broadcast_to(np.eye(3) * 21.5, (20, 3, 3))
    count_pairs(np.ones(1000, int), x[:1], cell[:1], PERIODIC, 10.0, 0.05)
    began = time.perf_counter()
    count_pairs(np.ones(1000, int), x, cell, PERIODIC, 10.0, 0.05)
    assert time.perf_counter() - began < 2.0
