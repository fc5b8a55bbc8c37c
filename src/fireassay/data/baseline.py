"""The part of the energy that composition alone explains, and the scales that initialise a network on the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.advice import keys_option
from fireassay.data.datasets import Dataset
from fireassay.data.frame import SYMBOLS
from fireassay.data.keys import Keys
from fireassay.data.readers import Source, display, read
from fireassay.data.store import single, sizes_of, species_of
from fireassay.data.structure import Structure
from fireassay.errors import InputError

ALONE: Final = 8.0  # Å; an atom farther than this from its periodic images feels none of them
_TOGETHER: Final = 20_000  # structures that are in memory at a time
_ISOLATED: Final = re.compile(r"isolated", re.IGNORECASE)


@dataclass(frozen=True)
class FittedE0:
    """Isolated-atom energies fitted to total energies, and how well the data determine them.

    `e0` in eV by atomic number. `rank` of `n_species` directions in composition space are determined; `condition` is
    the ratio of the largest to the smallest singular value among these; `residual_rms` in eV/atom is what the E0
    leave unexplained. Printed as one sentence.
    """

    e0: dict[int, float]
    n_frames: int
    n_compositions: int
    n_species: int
    rank: int
    condition: float
    residual_rms: float

    def __str__(self) -> str:
        text = (
            f"fitted on {self.n_frames} energies of {self.n_compositions} compositions: rank {self.rank} of "
            f"{self.n_species}, condition {self.condition:.3g}, residual {1000 * self.residual_rms:.3g} meV/atom"
        )
        if self.rank < self.n_species:
            text += "; minimum-norm solution: sums over these compositions are right, the single values are no atom's"
        return text


@dataclass(frozen=True)
class Statistics:
    """Scales of the labels, energies less E0; None where there is no such label.

    Energies in eV/atom, forces in eV/Å (root mean square and largest absolute value of the components).
    """

    energy_per_atom_mean: float | None
    energy_per_atom_std: float | None
    force_rms: float | None
    force_rms_by_species: dict[int, float]
    force_max: float | None
    average_atoms: float


def read_e0(path: Source, keys: Keys | None = None, units: Mapping[str, str] | None = None) -> dict[int, float]:
    """E0 from the frames of a single atom in a file, other frames ignored: {atomic number: eV}.

    Of `keys` only that of the energy counts: files of isolated atoms rarely have forces.

    Raises InputError when there is no such frame, or two of one element differ by more than 1 meV.
    """
    wanted: dict[str, str | Sequence[str] | None] = dict.fromkeys(("forces", "stress", "virial"))
    if keys is not None and "energy" in keys:
        wanted["energy"] = keys["energy"]
    e0 = isolated_atoms(read(path, wanted, units))
    if not e0:
        raise InputError(f"{display(path)}: has no frame of a single atom with an energy; needs one for each element")
    return e0


def is_isolated(structure: Structure) -> bool:
    """Whether it is an atom alone: not periodic, named so by its group, or farther than `ALONE` from its images."""
    if len(structure) != 1 or structure.charge:
        return False
    if not structure.pbc.any() or _ISOLATED.search(structure.provenance.group or ""):
        return True
    return nearest_image(structure) > ALONE


def nearest_image(structure: Structure) -> float:
    """Distance from an atom to the nearest of its own periodic images in Å."""
    cell = structure.cell[structure.pbc]
    shifts = np.array(list(product((-1, 0, 1), repeat=len(cell))))
    return float(np.linalg.norm(shifts[shifts.any(axis=1)] @ cell, axis=1).min())


def isolated_atoms(structures: Sequence[Structure]) -> dict[int, float]:
    """Energies of the frames of an atom alone, see `is_isolated`: {atomic number: eV}, empty when there are none.

    Raises InputError when two frames of one element differ by more than 1 meV.
    """
    e0: dict[int, float] = {}
    for structure in single(structures):
        if structure.energy is None or not is_isolated(structure):
            continue
        z = int(structure.atomic_numbers[0])
        if abs(e0.setdefault(z, structure.energy) - structure.energy) > 1e-3:
            raise InputError(
                f"{structure.where}: the isolated {SYMBOLS[z]} has {structure.energy} eV, an earlier frame {e0[z]} eV; "
                "keep one of them"
            )
    return e0


def given_e0(e0: Mapping[int, float], species: Sequence[int]) -> dict[int, float]:
    """E0 as stated, {atomic number: eV}, checked.

    Raises InputError when one of `species` is missing or a value is not finite.
    """
    missing = sorted(set(species) - set(e0))
    if missing:
        names, known = (", ".join(SYMBOLS[z] for z in group) for group in (missing, sorted(e0)))
        raise InputError(
            f"isolated-atom energies lack {names} (have {known or 'none'}); name a file of isolated atoms "
            "(data.isolated_atoms=FILE), give them (baseline.e0={H: -13.6, ...}), or fit them (baseline.e0=fit)"
        )
    if not all(np.isfinite(value) for value in e0.values()):
        raise InputError(f"isolated-atom energies {dict(e0)} are not all finite")
    return {int(z): float(value) for z, value in e0.items()}


def fit_e0(structures: Sequence[Structure]) -> FittedE0:
    """E0 by least squares of the energies on the compositions, minimum-norm where these leave freedom.

    Minimum norm: of all E0 with the least residual, those with the smallest sum of squares. With a single composition
    E0 comes out in proportion to the element's count. Elements without an energy get 0.

    Raises InputError when no frame has an energy.
    """
    species = species_of(structures)
    counts, energies = _energies(structures, species)
    if not len(energies):
        raise InputError(
            "isolated-atom energies cannot be fitted: no frame has an energy; name the file's key with "
            f"{keys_option({'energy': 'KEY'})}, or train on forces alone from baseline.e0=zero"
        )
    solution, _, rank, singular = np.linalg.lstsq(counts, energies, rcond=None)
    residual = (energies - counts @ solution) / counts.sum(axis=1)
    return FittedE0(
        e0={z: float(value) for z, value in zip(species, solution, strict=True)},
        n_frames=len(energies),
        n_compositions=len(np.unique(counts, axis=0)),
        n_species=len(species),
        rank=int(rank),
        condition=float(singular[0] / singular[rank - 1]),
        residual_rms=float(np.sqrt(np.mean(residual**2))),
    )


def average_neighbours(dataset: Dataset) -> float:
    """Mean number of neighbours of an atom within the data set's cutoff."""
    return dataset.n_edges / dataset.n_atoms


def statistics(structures: Sequence[Structure], e0: Mapping[int, float] | None = None) -> Statistics:
    """Scales of the labels; energies are taken less the sum of E0 where given.

    Raises InputError when there are no structures or E0 lacks an element that occurs.
    """
    if not structures:
        raise InputError("statistics need at least one structure, got none")
    species = species_of(structures)
    zero = given_e0(e0, species) if e0 is not None else dict.fromkeys(species, 0.0)
    counts, energies = _energies(structures, species)
    per_atom = (energies - counts @ np.array([zero[z] for z in species])) / counts.sum(axis=1)
    squares, numbers, largest = np.zeros(119), np.zeros(119), 0.0
    for block in _blocks(structures):
        labelled = [s for s in block if s.forces is not None]
        forces = np.concatenate([s.forces for s in labelled if s.forces is not None] or [np.zeros((0, 3))])
        atoms = np.concatenate([s.atomic_numbers for s in labelled] or [np.zeros(0, dtype=np.int64)])
        forced = ~np.isnan(forces[:, 0])
        forces, atoms = forces[forced], atoms[forced]
        squares += np.bincount(atoms, weights=np.square(forces).sum(axis=1), minlength=119)
        numbers += np.bincount(atoms, minlength=119)
        largest = max(largest, float(np.abs(forces).max(initial=0.0)))
    elements = np.flatnonzero(numbers)
    return Statistics(
        energy_per_atom_mean=float(per_atom.mean()) if len(energies) else None,
        energy_per_atom_std=float(per_atom.std()) if len(energies) else None,
        force_rms=float(np.sqrt(squares.sum() / (3 * numbers.sum()))) if len(elements) else None,
        force_rms_by_species={int(z): float(np.sqrt(squares[z] / (3 * numbers[z]))) for z in elements},
        force_max=largest if len(elements) else None,
        average_atoms=float(np.mean(sizes_of(structures))),
    )


def _blocks(structures: Sequence[Structure]) -> Iterator[list[Structure]]:
    """The structures in groups that fit into memory, wherever they are kept."""
    for first in range(0, len(structures), _TOGETHER):
        yield [structures[k] for k in range(first, min(first + _TOGETHER, len(structures)))]


def _energies(
    structures: Sequence[Structure], species: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compositions (K, n) and energies (K,) of the structures that have one."""
    counts, energies = [], []
    for block in _blocks(structures):
        labelled = [s for s in block if s.energy is not None]
        counts.append(_compositions(labelled, species))
        energies.append(np.array([s.energy for s in labelled], dtype=np.float64))
    return np.concatenate(counts), np.concatenate(energies)


def _compositions(structures: Sequence[Structure], species: Sequence[int]) -> NDArray[np.float64]:
    counts = [np.bincount(s.atomic_numbers, minlength=max(species) + 1)[list(species)] for s in structures]
    return np.array(counts, dtype=np.float64).reshape(len(structures), len(species))
