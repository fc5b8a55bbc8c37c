"""Shapes of molecules: radius of gyration, bonds, angles, dihedrals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from fireassay.data.molecules import covalent_bonds
from fireassay.data.neighbours import neighbour_list
from fireassay.data.structure import Structure

Array = NDArray[np.float64]


def radius_of_gyration(positions: Array, masses: Array, chosen: NDArray[np.bool_] | None = None) -> Array:
    """R_g = sqrt(Σ m |r - r_CM|² / Σ m) (T,) in Å of positions (T, N, 3), of the `chosen` (N,) atoms or of all."""
    if chosen is not None:
        positions, masses = positions[:, chosen], masses[chosen]
    weights = masses / masses.sum()
    centre = np.einsum("tnk,n->tk", positions, weights)
    away = positions - centre[:, None]
    return np.sqrt(np.einsum("tnk,tnk,n->t", away, away, weights))


class Internal(NamedTuple):
    """Internal coordinates of a molecule: atoms (M, 2), (M, 3) or (M, 4), and the name (M,) of each by its elements."""

    bonds: NDArray[np.int64]
    angles: NDArray[np.int64]
    dihedrals: NDArray[np.int64]
    shifts: dict[tuple[int, int], NDArray[np.int64]]
    bond_names: list[str]
    angle_names: list[str]
    dihedral_names: list[str]


def internal_coordinates(structure: Structure) -> Internal:
    """Those along bonds that ought to last (`covalent_bonds`): every angle at an atom, every chain of four.

    Names read the same from both ends: C-C-O and O-C-C are one. Bonds may lead through a periodic boundary.
    """
    found = covalent_bonds(structure)
    neighbours: dict[int, list[int]] = {}
    shifts: dict[tuple[int, int], NDArray[np.int64]] = {}
    for (i, j), shift in zip(found.pairs.tolist(), found.shift, strict=True):
        if (i, j) in shifts or i == j:
            continue  # a second image of the same neighbour
        neighbours.setdefault(i, []).append(j)
        neighbours.setdefault(j, []).append(i)
        shifts[i, j], shifts[j, i] = shift, -shift
    bonds = [(i, j) for i, j in shifts if i < j]
    angles = [(a, i, b) for i, ends in neighbours.items() for n, a in enumerate(ends) for b in ends[n + 1 :]]
    dihedrals = [
        (a, i, j, b) for i, j in bonds for a in neighbours[i] for b in neighbours[j] if a != j and b != i and a != b
    ]
    symbols = [chemical_symbols[z] for z in structure.atomic_numbers.tolist()]

    def names(rows: list) -> list[str]:
        words = [[symbols[a] for a in row] for row in rows]
        return ["-".join(min(word, word[::-1])) for word in words]

    def table(rows: list, width: int) -> NDArray[np.int64]:
        return np.array(rows, dtype=np.int64).reshape(-1, width)

    return Internal(
        table(bonds, 2), table(angles, 3), table(dihedrals, 4), shifts, names(bonds), names(angles), names(dihedrals)
    )


def _vectors(positions: Array, rows: NDArray[np.int64], shifts: dict, cell: Array, a: int, b: int) -> Array:
    """r_b - r_a (T, M, 3) along bonds, in columns a and b of `rows`; cell (T, 3, 3)."""
    steps = np.array([shifts[int(row[a]), int(row[b])] for row in rows], dtype=np.float64).reshape(-1, 3)
    found = positions[:, rows[:, b]] - positions[:, rows[:, a]]
    return found + np.einsum("mk,tkl->tml", steps, cell) if steps.any() else found


def bond_lengths(positions: Array, internal: Internal, cell: Array) -> Array:
    """(T, M) in Å."""
    return np.linalg.norm(_vectors(positions, internal.bonds, internal.shifts, cell, 0, 1), axis=2)


def bond_angles(positions: Array, internal: Internal, cell: Array) -> Array:
    """(T, M) in degrees, from 0 to 180."""
    u = _vectors(positions, internal.angles, internal.shifts, cell, 1, 0)
    v = _vectors(positions, internal.angles, internal.shifts, cell, 1, 2)
    sine = np.linalg.norm(np.cross(u, v), axis=2)
    return np.degrees(np.arctan2(sine, np.einsum("tmk,tmk->tm", u, v)))


def dihedral_angles(positions: Array, internal: Internal, cell: Array) -> Array:
    """(T, M) in degrees, from -180 to 180, 0 for cis; the sign is that of IUPAC."""
    a = _vectors(positions, internal.dihedrals, internal.shifts, cell, 0, 1)
    b = _vectors(positions, internal.dihedrals, internal.shifts, cell, 1, 2)
    c = _vectors(positions, internal.dihedrals, internal.shifts, cell, 2, 3)
    first, second = np.cross(a, b), np.cross(b, c)
    x = np.einsum("tmk,tmk->tm", first, second)
    y = np.einsum("tmk,tmk->tm", np.cross(first, second), b) / np.maximum(np.linalg.norm(b, axis=2), 1e-300)
    return np.degrees(np.arctan2(y, x))


def molecular_fraction(
    positions: Array, cell: Array, pbc: NDArray[np.bool_], interval: float, cutoff: float, lifetime: float
) -> float:
    """The share of atoms whose nearest neighbour is one and the same, closer than `cutoff` Å, for `lifetime` fs.

    positions (T, N, 3), frames `interval` fs apart. Of each atom and each window of that length; the mean over both.
    The measure of stable molecules in dense hydrogen, for which 0.9 Å and a few vibrations (~ 80 fs) are usual.
    """
    n_frames, n = positions.shape[:2]
    partner = np.full((n_frames, n), -1, dtype=np.int64)
    numbers = np.ones(n, dtype=np.int64)
    for frame in range(n_frames):
        structure = Structure(numbers, positions[frame], cell[frame] * np.any(pbc), pbc)
        centre, neighbour, shift = neighbour_list(structure, cutoff)
        vectors = positions[frame][neighbour] + shift @ structure.cell - positions[frame][centre]
        order = np.lexsort((np.einsum("ek,ek->e", vectors, vectors), centre))
        first = np.unique(centre[order], return_index=True)
        partner[frame, first[0]] = neighbour[order][first[1]]
    span = min(round(lifetime / interval) + 1, n_frames)
    windows = np.lib.stride_tricks.sliding_window_view(partner, span, axis=0)
    stable = (windows == windows[..., :1]).all(-1) & (windows[..., 0] >= 0)
    return float(stable.mean())
