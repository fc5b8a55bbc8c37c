"""The host-side noun: one configuration of atoms with whatever labels its file has."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fireassay.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Provenance:
    """Where a structure comes from: file, frame number in it, group label, temperature of its sampling in K."""

    file: str | None = None
    frame: int | None = None
    group: str | None = None
    temperature: float | None = None


@dataclass(frozen=True, eq=False)
class Structure:
    """One configuration. A missing label is None, never zero.

    atomic_numbers (N,) int64; positions (N, 3) Å; cell (3, 3) Å, rows are lattice vectors, zero rows where there is
    none; pbc (3,) bool; energy eV; forces (N, 3) eV/Å; stress (3, 3) eV/Å^3, positive in tension.

    Raises InputError when shapes disagree, a value is not finite, or a periodic direction has no lattice vector.
    """

    atomic_numbers: NDArray[np.int64]
    positions: Array
    cell: Array = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(3, dtype=bool))
    energy: float | None = None
    forces: Array | None = None
    stress: Array | None = None
    provenance: Provenance = Provenance()

    def __post_init__(self) -> None:
        n = len(self.atomic_numbers)
        shapes = {"positions": (n, 3), "cell": (3, 3), "pbc": (3,), "forces": (n, 3), "stress": (3, 3)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None:
                continue
            if np.shape(value) != shape:
                raise InputError(f"{self.where}: {name} has shape {np.shape(value)}, needs {shape} for {n} atoms")
            if not np.isfinite(value).all():
                raise InputError(f"{self.where}: {name} has values that are not finite; remove or repair the frame")
        if n == 0:
            raise InputError(f"{self.where}: no atoms; remove the frame")
        if self.energy is not None and not np.isfinite(self.energy):
            raise InputError(f"{self.where}: energy is {self.energy}; remove or repair the frame")
        if self.pbc.any() and np.linalg.matrix_rank(self.cell[self.pbc]) < self.pbc.sum():
            raise InputError(
                f"{self.where}: pbc is {self.pbc.tolist()} but the cell {self.cell.tolist()} spans no volume "
                "in a periodic direction; set pbc to F or give the cell"
            )

    @property
    def where(self) -> str:
        """The frame's name in messages, such as "train.xyz frame 12"."""
        source = self.provenance
        return f"{source.file or 'structure'} frame {source.frame if source.frame is not None else '?'}"

    def __len__(self) -> int:
        return len(self.atomic_numbers)
