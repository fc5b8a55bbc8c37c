"""One system in the course of time, as arrays: what every observable starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from fireassay.data.molecules import formula
from fireassay.data.structure import Structure
from fireassay.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """T frames of the same N atoms.

    atomic_numbers (N,); positions (T, N, 3) Å, without jumps through periodic boundaries; cell (T, 3, 3) Å, rows are
    lattice vectors; pbc (3,); masses (N,) amu; interval, the time between two frames in fs, None where it is unknown.
    """

    atomic_numbers: NDArray[np.int64]
    positions: Array
    cell: Array
    pbc: NDArray[np.bool_]
    masses: Array
    interval: float | None = None

    @classmethod
    def of(cls, structures: Sequence[Structure], interval: float | None = None) -> Trajectory:
        """The trajectory of frames in the order of time, `interval` fs apart, unwrapped (`unwrapped`).

        Raises InputError, naming the first frame that differs, when the frames are not of the same atoms in the same
        order and of one periodicity, and when there is none.
        """
        if not structures:
            raise InputError("a trajectory needs at least one frame")
        first = structures[0]
        for s in structures:
            if not np.array_equal(s.atomic_numbers, first.atomic_numbers):
                raise InputError(
                    f"{s.where} has {formula(s.atomic_numbers)}, {first.where} has {formula(first.atomic_numbers)} "
                    "or the same atoms in another order; a trajectory needs the same atoms in one order throughout"
                )
            if not np.array_equal(s.pbc, first.pbc):
                raise InputError(f"{s.where} has pbc {s.pbc.tolist()}, {first.where} {first.pbc.tolist()}; needs one")
        cell = np.stack([s.cell for s in structures])
        positions = unwrapped(np.stack([s.positions for s in structures]), cell, first.pbc)
        return cls(first.atomic_numbers, positions, cell, first.pbc, atomic_masses[first.atomic_numbers], interval)

    def __len__(self) -> int:
        return len(self.positions)


def unwrapped(positions: Array, cell: Array, pbc: NDArray[np.bool_]) -> Array:
    """Positions (T, N, 3) with each atom's step from frame to frame the shortest of its images, cell (T, 3, 3).

    Right as long as no atom moves by half a cell between two frames. A step that was no jump stays what it was, to the
    last bit.
    """
    if len(positions) < 2 or not pbc.any():
        return positions
    whole = np.eye(3)
    lattice = np.where(pbc[:, None], cell, whole)
    lattice = np.where((np.abs(lattice).sum(2, keepdims=True) > 0), lattice, whole)
    inverse = np.linalg.inv(lattice)
    fractional = np.einsum("tnk,tkl->tnl", positions, inverse)
    jumps = -np.round(np.diff(fractional, axis=0)) * pbc
    turns = np.concatenate([np.zeros_like(fractional[:1]), np.cumsum(jumps, axis=0)])
    return positions + np.einsum("tnk,tkl->tnl", turns, lattice)


def without_drift(positions: Array, masses: Array) -> Array:
    """Positions (T, N, 3) relative to the centre of mass of each frame, which stays where it was in the first."""
    centre = np.einsum("tnk,n->tk", positions, masses) / masses.sum()
    return positions - (centre - centre[0])[:, None]
