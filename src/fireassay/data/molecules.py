"""Which atoms belong together: bonds between nonmetals, and the molecules that they make."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fireassay.data.neighbours import neighbour_list
from fireassay.data.structure import Structure

NONMETALS = frozenset((1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 32, 33, 34, 35, 36, 51, 52, 53, 54, 85, 86))


# Bonds that a nonmetal makes at most: hydrogen bridges, hypervalent sulfur and boranes included.
VALENCE: Final = {
    1: 1, 5: 6, 6: 4, 7: 4, 8: 3, 9: 1, 14: 6, 15: 6, 16: 6, 17: 4, 32: 4, 33: 4, 34: 4, 35: 4, 51: 4, 52: 3, 53: 4
}  # fmt: skip


class Connectivity(NamedTuple):
    """The bonds of a structure: atoms (B, 2), lattice vectors (B, 3) Å to the second atom's cell, lengths (B,) Å.

    `shift` (B, 3) are the same lattice vectors as whole numbers of cells.
    """

    pairs: NDArray[np.int64]
    image: NDArray[np.float64]
    length: NDArray[np.float64]
    shift: NDArray[np.int64]


def connectivity(structure: Structure, tolerance: float = 1.25) -> Connectivity:
    """Pairs of nonmetals closer than `tolerance` times the sum of their covalent radii, once each.

    Radii are those of Cordero et al., Dalton Trans. 2008, 2832. Metals have neighbours, not bonds: they are left out.
    """
    numbers = structure.atomic_numbers
    radii = covalent_radii[numbers]
    covalent = np.isin(numbers, list(NONMETALS))
    if not covalent.any():
        none = np.zeros((0, 3), dtype=np.int64)
        return Connectivity(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 3)), np.zeros(0), none)
    centre, neighbour, shift = neighbour_list(structure, 2 * tolerance * float(radii[covalent].max()))
    image = shift @ structure.cell
    length = np.linalg.norm(structure.positions[neighbour] + image - structure.positions[centre], axis=1)
    bonded = covalent[centre] & covalent[neighbour] & (length < tolerance * (radii[centre] + radii[neighbour]))
    first = (centre < neighbour) | ((centre == neighbour) & _leads(shift))
    chosen = bonded & first
    return Connectivity(np.stack([centre, neighbour], 1)[chosen], image[chosen], length[chosen], shift[chosen])


def covalent_bonds(structure: Structure, tolerance: float = 1.25) -> Connectivity:
    """The bonds (`connectivity`) that ought to last: not those of what is metallic or ionic by its own connectivity.

    Without periodicity these are all bonds. In a crystal or a liquid, atoms that hang together count when none of them
    has more bonds than its element makes (`VALENCE`): water, phosphate and silicon do, liquid tellurium does not. Nor
    do the few pairs that meet by chance in dense atomic hydrogen: of one of a bond's elements half of all atoms must be
    bonded.
    """
    found = connectivity(structure, tolerance)
    if not structure.pbc.any() or not len(found.pairs):
        return found
    n = len(structure)
    counts = np.bincount(found.pairs.ravel(), minlength=n)
    most = np.array([VALENCE.get(int(z), 4) for z in structure.atomic_numbers])
    first, second = found.pairs.T
    label = connected_components(coo_array((np.ones(len(first)), (first, second)), (n, n)), directed=False)[1]
    crowded = np.unique(label[counts > most])
    numbers = structure.atomic_numbers
    share = {z: float((counts[numbers == z] > 0).mean()) for z in np.unique(numbers).tolist()}
    usual = np.array([max(share[a], share[b]) >= 0.5 for a, b in numbers[found.pairs].tolist()])
    kept = ~np.isin(label[first], crowded) & usual
    return Connectivity(found.pairs[kept], found.image[kept], found.length[kept], found.shift[kept])


def molecules(structure: Structure) -> list[NDArray[np.int64]]:
    """The atoms of each molecule: connected by bonds, at least two, and bonded to no image of itself.

    A sheet, a chain or a framework that goes on through the periodic boundary is no molecule.
    """
    n = len(structure)
    bonds = connectivity(structure)
    ends = np.concatenate([bonds.pairs, bonds.pairs[:, ::-1]])
    steps = np.concatenate([bonds.shift, -bonds.shift])
    label = connected_components(coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (n, n)), directed=False)[1]
    cell = np.zeros((n, 3), dtype=np.int64)  # where each atom stands, as seen from the first of its molecule
    seen = np.zeros(n, dtype=bool)
    seen[np.unique(label, return_index=True)[1]] = True
    front = seen.copy()
    while front.any():
        out = front[ends[:, 0]] & ~seen[ends[:, 1]]
        reached = ends[out, 1]
        cell[reached] = cell[ends[out, 0]] + steps[out]
        front = np.zeros(n, dtype=bool)
        front[reached] = seen[reached] = True
    endless = label[ends[(cell[ends[:, 0]] + steps != cell[ends[:, 1]]).any(1), 0]]
    sizes = np.bincount(label)
    return [np.flatnonzero(label == k) for k in range(len(sizes)) if sizes[k] > 1 and k not in set(endless.tolist())]


def formula(atomic_numbers: NDArray[np.int64]) -> str:
    """The composition in Hill's order, such as C8H6N2."""
    counts = Counter(chemical_symbols[z] for z in atomic_numbers.tolist())
    first = [symbol for symbol in ("C", "H") if "C" in counts and symbol in counts]
    rest = sorted(symbol for symbol in counts if symbol not in first)
    return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in (*first, *rest))


def _leads(shift: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for one of each pair of opposite shifts: the one whose first component that is not zero is positive."""
    nonzero = shift != 0
    first = nonzero.argmax(1)
    return np.take_along_axis(shift, first[:, None], 1)[:, 0] > 0
