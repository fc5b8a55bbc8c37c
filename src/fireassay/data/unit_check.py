"""Evidence that a file is not in eV and Å, from physics that every molecule shares.

All-electron total energies are, to a percent, the sum of atoms whose energies are a smooth function of Z; a bond to
hydrogen has a length near 1 Å and a force constant of 12 to 80 eV/Å^2 in every environment. Neither depends on the
level of theory, and the common units of energy differ by factors of 4 and more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fireassay.data.structure import Structure
from fireassay.units import BOHR, ENERGY, HARTREE

_CANDIDATES: Final = ("kcal/mol", "kJ/mol", "Hartree", "Ry", "meV")
_FORCES: Final = {"kcal/mol/Å": ENERGY["kcal/mol"], "kJ/mol/Å": ENERGY["kJ/mol"], "Hartree/Bohr": HARTREE / BOHR}
_STIFFNESS: Final = (12.0, 80.0)  # eV/Å^2, Si-H to O-H with room on both sides
_ORGANIC: Final = (1, 6, 7, 8)
_SAMPLE: Final = 300
_TOLERANCE: Final = 0.04  # the series, correlation and bonding together move light molecules by up to this


@dataclass(frozen=True)
class Evidence:
    """What was noticed, and the units mapping to write."""

    sentence: str
    mapping: Mapping[str, str]


def all_electron_energy(atomic_numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Total energies of neutral atoms in eV: -0.768745 Z^(7/3) + Z^2/2 - 0.2699 Z^(5/3) Hartree, exact for H and He.

    The Thomas-Fermi-Scott-Schwinger series (Englert and Schwinger, Phys. Rev. A 32, 26, 1985), good to 1 % from
    carbon on.
    """
    z = np.asarray(atomic_numbers, dtype=np.float64)
    series = -0.768745 * z ** (7 / 3) + z**2 / 2 - 0.2699 * z ** (5 / 3)
    return HARTREE * np.where(z == 1, -0.5, np.where(z == 2, -2.9037, series))


def energy_unit(structures: Sequence[Structure]) -> tuple[str, float] | None:
    """The unit in which the total energies are all-electron energies, and the ratio to eV; None when in no unit."""
    ratios = [s.energy / all_electron_energy(s.atomic_numbers).sum() for s in structures if s.energy is not None]
    if not ratios:
        return None
    ratio = float(np.median(ratios))
    for unit in ("eV", *_CANDIDATES):
        if abs(ratio * ENERGY[unit] - 1) < _TOLERANCE:
            return unit, ratio
    return None


def hydrogen_bonds(
    structures: Sequence[Structure],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Distance from each H to its nearest C, N, O or H, and the force on H along that bond (NaN without forces).

    Returned as lengths (B,), pulls (B,) and the partners' atomic numbers (B,). Periodic images are not looked at: a
    bond across a face shows up as a long distance.
    """
    lengths, pulls, kinds = [], [], []
    for s in structures:
        hydrogens = np.flatnonzero(s.atomic_numbers == 1)
        partners = np.flatnonzero(np.isin(s.atomic_numbers, _ORGANIC))
        if not len(hydrogens) or len(partners) < 2:
            continue
        vectors = s.positions[hydrogens][:, None] - s.positions[partners][None]  # (H, P, 3)
        distances = np.linalg.norm(vectors, axis=2)
        distances[hydrogens[:, None] == partners[None]] = np.inf
        nearest = distances.argmin(axis=1)
        rows = np.arange(len(hydrogens))
        length = distances[rows, nearest]
        lengths.append(length)
        kinds.append(s.atomic_numbers[partners][nearest])
        if s.forces is None:
            pulls.append(np.full(len(length), np.nan))
        else:
            pulls.append(np.einsum("hx,hx->h", s.forces[hydrogens], vectors[rows, nearest]) / length)
    if not lengths:
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)
    return np.concatenate(lengths), np.concatenate(pulls), np.concatenate(kinds)


def hydrogen_stiffness(structures: Sequence[Structure]) -> float | None:
    """Force constant of bonds to hydrogen in the data's units per Å, None when too few bonds or no clear slope.

    The slope of force against length, each counted from its mean over the bonds to the same element.
    """
    lengths, pulls, kinds = hydrogen_bonds(structures)
    bonded = (lengths < 1.4) & np.isfinite(pulls)
    lengths, pulls, kinds = lengths[bonded], pulls[bonded], kinds[bonded]
    for kind in np.unique(kinds):
        same = kinds == kind
        lengths[same] -= lengths[same].mean()
        pulls[same] -= pulls[same].mean()
    if len(lengths) < 30 or np.std(lengths) < 1e-3 or np.std(pulls) == 0:
        return None
    if np.corrcoef(lengths, pulls)[0, 1] > -0.6:
        return None
    return float(-(lengths @ pulls) / (lengths @ lengths))


def force_unit(stiffness: float | None) -> str | None:
    """The unit in which the force constant is a chemical bond's; None when unknown or in no unit."""
    if stiffness is None:
        return None
    low, high = _STIFFNESS
    if low <= stiffness <= high:
        return "eV/Å"
    middle = np.sqrt(low * high)
    fitting = [unit for unit, factor in _FORCES.items() if low <= stiffness * factor <= high]
    return min(fitting, key=lambda unit: abs(np.log(stiffness * _FORCES[unit] / middle)), default=None)


def foreign_unit(structures: Sequence[Structure]) -> Evidence | None:
    """Strong evidence that structures taken to be in eV and Å are not; None when there is none."""
    sample = [structures[k] for k in np.linspace(0, len(structures) - 1, min(len(structures), _SAMPLE)).astype(int)]
    sample = [s for s in sample if len(s) > 1]
    lengths, _, _ = hydrogen_bonds(sample)
    if len(lengths) >= 10 and np.quantile(lengths, 0.1) > 1.6 and np.median(lengths) < 2.6:
        return Evidence(
            f"hydrogen atoms are {np.median(lengths):.2f} from their neighbours, which is a bond in Bohr, not in Å",
            {"length": "Bohr", "energy": "Hartree"},
        )
    stiffness = hydrogen_stiffness(sample)
    energy, forces = energy_unit(sample), force_unit(stiffness)
    per_atom = np.median([abs(s.energy) / len(s) for s in sample if s.energy is not None] or [np.nan])
    if forces not in (None, "eV/Å"):
        sentence = (
            f"forces look like {forces}: bonds to hydrogen have a force constant of {stiffness:.3g} instead of 20 to 60"
        )
        unit = forces.rpartition("/")[0]
        return Evidence(sentence, {"energy": unit, **({"forces": forces} if "Bohr" in forces else {})})
    if energy is None or energy[0] == "eV" or (forces is None and not _scale_agrees(sample, energy[0])):
        return None
    times = f"{per_atom:.4g} per atom is {energy[1]:.3g} times the all-electron energy in eV"
    sentence = f"energies look like {energy[0]}: {times}"
    return Evidence(sentence, {"energy": energy[0], **({"forces": "eV/Å"} if forces else {})})


def _scale_agrees(structures: Sequence[Structure], unit: str) -> bool:
    """Whether the forces, where there are any, are of the size that they have in that unit of energy."""
    forces = [s.forces for s in structures if s.forces is not None]
    if not forces:
        return True
    rms = float(np.sqrt(np.mean(np.concatenate(forces) ** 2)))
    return rms < 0.2 if ENERGY[unit] > 1 else rms > 4.0
