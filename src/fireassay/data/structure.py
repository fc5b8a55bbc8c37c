"""The host-side noun: one configuration of atoms with whatever labels its file has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.advice import keys_option, units_option
from fireassay.errors import InputError

Array = NDArray[np.float64]
_FARTHEST: Final = 1e8  # Å
_TOGETHER: Final = 4096  # structures that are checked at once


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
    none; pbc (3,) bool; energy eV; forces (N, 3) eV/Å, NaN in the rows of atoms that have none; stress (3, 3) eV/Å^3,
    positive in tension; charge e, the total charge, which need not be an integer; spin, the multiplicity 2S + 1: 1 is a
    singlet, 2 a doublet.

    Raises InputError when shapes disagree, a value is not finite, a periodic direction has no lattice vector, the
    charge exceeds that of the nuclei, or the multiplicity is below 1.
    """

    atomic_numbers: NDArray[np.int64]
    positions: Array
    cell: Array = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(3, dtype=bool))
    energy: float | None = None
    forces: Array | None = None
    stress: Array | None = None
    provenance: Provenance = Provenance()
    charge: float | None = None
    spin: float | None = None

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises InputError where the structure is not as the class says."""
        n = len(self.atomic_numbers)
        shapes = {"positions": (n, 3), "cell": (3, 3), "pbc": (3,), "forces": (n, 3), "stress": (3, 3)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is None:
                continue
            if np.shape(value) != shape:
                raise InputError(f"{self.where}: {name} has shape {np.shape(value)}, needs {shape} for {n} atoms")
            finite = np.isfinite(value)
            if name == "forces" and not finite.all():
                finite |= np.isnan(value).all(axis=1, keepdims=True)
            if not finite.all():
                raise InputError(f"{self.where}: {name} has values that are not finite; remove or repair the frame")
            if name in ("positions", "cell") and n and np.abs(value).max(initial=0.0) > _FARTHEST:
                raise InputError(
                    f"{self.where}: {name} reaches {np.abs(value).max():.3g} Å, farther than anything; repair the "
                    "frame or remove it, and check the unit of length"
                )
        if n == 0:
            raise InputError(f"{self.where}: no atoms; remove the frame")
        if self.energy is not None and not np.isfinite(self.energy):
            raise InputError(f"{self.where}: energy is {self.energy}; remove or repair the frame")
        self.check_electrons()
        if self.pbc.any() and np.linalg.matrix_rank(self.cell[self.pbc]) < self.pbc.sum():
            raise InputError(
                f"{self.where}: pbc is {self.pbc.tolist()} but the cell {self.cell.tolist()} spans no volume "
                "in a periodic direction; set pbc to F or give the cell"
            )

    @classmethod
    def unchecked(cls, **values: Any) -> Structure:
        """A structure of values that were checked before, or will be by `check_together`; all fields given."""
        structure = object.__new__(cls)
        structure.__dict__.update(values)
        return structure

    def check_electrons(self) -> None:
        """Raises InputError for a charge or multiplicity that no atoms can have."""
        nuclei = int(self.atomic_numbers.sum())
        if self.charge is not None and not -np.inf < self.charge <= nuclei:
            raise InputError(
                f"{self.where}: charge is {self.charge:g} e, needs a finite number up to the nuclei's {nuclei} e"
            )
        if self.spin is not None and not 1 <= self.spin < np.inf:
            raise InputError(
                f"{self.where}: spin is {self.spin:g}, needs a multiplicity 2S + 1, from 1 on; read unpaired electrons "
                f"with {units_option({'spin': '2S'})}, S with {units_option({'spin': 'S'})}, or leave it with "
                f"{keys_option({'spin': None})}"
            )

    @property
    def where(self) -> str:
        """The frame's name in messages, such as "train.xyz frame 12"."""
        source = self.provenance
        return f"{source.file or 'structure'} frame {source.frame if source.frame is not None else '?'}"

    @property
    def forced(self) -> NDArray[np.bool_]:
        """Which atoms have a force, (N,)."""
        return np.zeros(len(self), dtype=bool) if self.forces is None else ~np.isnan(self.forces[:, 0])

    @property
    def solid(self) -> bool:
        """Whether it has a stress: a cell with a volume that is periodic in some direction."""
        return bool(self.pbc.any()) and abs(float(np.linalg.det(self.cell))) > 0

    def __len__(self) -> int:
        return len(self.atomic_numbers)


def check_together(structures: Sequence[Structure]) -> None:
    """As `Structure.check` for each, many at a time, which is much faster."""
    for first in range(0, len(structures), _TOGETHER):
        block = structures[first : first + _TOGETHER]
        if not _sound(block):
            for structure in block:
                structure.check()


def _sound(block: Sequence[Structure]) -> bool:
    """Whether the values of all, looked at together, leave no doubt that every structure passes its check."""
    for s in block:
        n = len(s.atomic_numbers)
        if not n or s.positions.shape != (n, 3) or s.cell.shape != (3, 3) or s.pbc.shape != (3,):
            return False
        if (s.forces is not None and s.forces.shape != (n, 3)) or (s.stress is not None and s.stress.shape != (3, 3)):
            return False
        if s.charge is not None or s.spin is not None:
            s.check_electrons()
    cells, periodic = np.stack([s.cell for s in block]), np.stack([s.pbc for s in block])
    positions = np.concatenate([s.positions for s in block])
    if not (np.abs(positions).max() <= _FARTHEST and np.abs(cells).max() <= _FARTHEST):  # NaN is not either
        return False
    labels = [
        np.concatenate([s.forces for s in block if s.forces is not None] or [np.zeros((0, 3))]),
        np.array([s.stress for s in block if s.stress is not None]),
        np.array([s.energy for s in block if s.energy is not None], dtype=np.float64),
    ]
    if not all(np.isfinite(values).all() for values in labels):
        return False
    whole, some = periodic.all(axis=1), periodic.any(axis=1)
    partly = np.flatnonzero(some & ~whole).tolist()
    return bool((np.linalg.matrix_rank(cells[whole]) == 3).all()) and all(
        np.linalg.matrix_rank(cells[k][periodic[k]]) == periodic[k].sum() for k in partly
    )
