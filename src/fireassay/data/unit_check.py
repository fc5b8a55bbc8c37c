"""Evidence that a file is not in the units or of the sign that it is read in, from physics that all matter shares.

Bonded atoms are about the sum of their covalent radii apart; a bond to hydrogen has a force constant of 20 to 60
eV/Å^2 in every environment; an energy difference is the work of the forces; all-electron total energies are, to a
percent, a smooth function of Z; bonds are stiff, so that a stretched one pulls. None depends on the level of theory.
All combinations of common units are tried against what there is of this evidence, and ranked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.spatial import KDTree

from fireassay.data.neighbours import neighbour_list
from fireassay.data.similarity import Consistency, energy_force_consistency
from fireassay.data.structure import Structure
from fireassay.units import BOHR, ENERGY, HARTREE, LENGTH

_STIFFNESS: Final = (12.0, 80.0)  # eV/Å^2, Si-H to O-H with room on both sides
_TYPICAL: Final = 31.0  # eV/Å^2
_FORCES: Final = {"kcal/mol/Å": ENERGY["kcal/mol"], "kJ/mol/Å": ENERGY["kJ/mol"], "Hartree/Bohr": HARTREE / BOHR}
_ORGANIC: Final = (1, 6, 7, 8)
_NOBLE: Final = (2, 10, 18, 36, 54, 86)
_FARTHEST: Final = 15.0  # Å, or Bohr: no bond is longer, however empty the cell
_SAMPLE: Final = 300
_ATOMS: Final = 20_000  # of the sample
_TOLERANCE: Final = 0.04  # the series, correlation and bonding together move light molecules by up to this
_BOND: Final = 1.03  # length of a bond over the sum of covalent radii
_SPREAD: Final = 0.003  # of the length of bonds; crystals at rest say nothing of stretching
_BEYOND_DOUBT: Final = 9.0  # by which another combination has to explain the evidence better
_IMPOSSIBLE: Final = 16.0  # what a piece of evidence can count at most
_ENERGIES: Final = {"eV": 0.0, "kcal/mol": 0.5, "kJ/mol": 1.0, "Hartree": 0.5, "Ry": 2.0, "meV": 2.5}
_LENGTHS: Final = {"Å": 0.0, "Bohr": 1.0, "nm": 1.5}
_ALIEN: Final = 2.0  # forces that share no unit with the energies are rare
_MIXED: Final = {
    "eV/Å": 1.5, "Hartree/Bohr": 1.0, "Hartree/Å": 2.0, "kcal/mol/Å": 2.0, "kJ/mol/nm": 2.5, "kJ/mol/Å": 3.0,
    "eV/Bohr": 3.0, "Ry/Bohr": 3.0, "kcal/mol/Bohr": 3.5,
}  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """What was noticed, the units mapping to write, and the next best one."""

    sentence: str
    mapping: Mapping[str, str]
    other: str | None = None
    sign: bool = False  # whether the sign of the forces is all that is wrong


class _Measured(NamedTuple):
    """What the structures say in the units they are in; None where they say nothing."""

    bond: float | None  # length over the sum of covalent radii
    stiffness: float | None  # of bonds to hydrogen
    consistency: Consistency | None
    electronic: float | None  # median of energies over all-electron energies
    pull: float | None  # correlation of the pull of bonds with their length, where it is beyond chance
    force_rms: float | None


class _Units(NamedTuple):
    """A combination of units, how far-fetched it is, and its factors; `sign` is -1 for gradients."""

    energy: str
    length: str
    forces: str | None  # None: energy / length
    sign: int
    penalty: float

    @property
    def factors(self) -> tuple[float, float, float]:
        energy, length = ENERGY[self.energy], LENGTH[self.length]
        if self.forces is None:
            return energy, length, self.sign * energy / length
        above, _, below = self.forces.rpartition("/")
        return energy, length, self.sign * ENERGY[above] / LENGTH[below]

    @property
    def mapping(self) -> dict[str, str]:
        names = {"energy": self.energy} if self.energy != "eV" else {}
        if self.length != "Å":
            names["length"] = self.length
        if self.forces is not None or self.sign < 0:
            names["forces"] = ("-" if self.sign < 0 else "") + (self.forces or f"{self.energy}/{self.length}")
        return names or {"energy": "eV"}

    def __str__(self) -> str:
        forces = f", forces in {'-' if self.sign < 0 else ''}{self.forces or f'{self.energy}/{self.length}'}"
        return f"{self.energy} and {self.length}{forces if self.forces or self.sign < 0 else ''}"


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
    ratio = _electronic(structures)
    if ratio is None:
        return None
    return next(((unit, ratio) for unit in _ENERGIES if abs(ratio * ENERGY[unit] - 1) < _TOLERANCE), None)


def _electronic(structures: Sequence[Structure]) -> float | None:
    ratios = [s.energy / all_electron_energy(s.atomic_numbers).sum() for s in structures if s.energy is not None]
    return float(np.median(ratios)) if ratios else None


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
        distances, nearest = map(np.asarray, KDTree(s.positions[partners]).query(s.positions[hydrogens], k=2))
        itself = partners[nearest[:, 0]] == hydrogens
        rows = np.arange(len(hydrogens))
        length, partner = distances[rows, itself.astype(int)], partners[nearest[rows, itself.astype(int)]]
        lengths.append(length)
        kinds.append(s.atomic_numbers[partner])
        if s.forces is None:
            pulls.append(np.full(len(length), np.nan))
        else:
            vectors = s.positions[hydrogens] - s.positions[partner]
            pulls.append(np.einsum("hx,hx->h", s.forces[hydrogens], vectors) / np.maximum(length, 1e-9))
    if not lengths:
        return np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)
    return np.concatenate(lengths), np.concatenate(pulls), np.concatenate(kinds)


def hydrogen_stiffness(structures: Sequence[Structure], bond: float = _BOND) -> float | None:
    """Force constant of bonds to hydrogen in the data's units, negative when stretched bonds push.

    The slope of force against length, each counted from its mean over the bonds to the same element; `bond` is the
    length of a bond over the sum of covalent radii. None when there are too few bonds or no clear slope.
    """
    lengths, pulls, kinds = hydrogen_bonds(structures)
    usual = covalent_radii[1] + covalent_radii[kinds]
    bonded = (lengths < 1.35 * bond / _BOND * usual) & np.isfinite(pulls)
    lengths, pulls, kinds = lengths[bonded], pulls[bonded], kinds[bonded]
    for kind in np.unique(kinds):
        same = kinds == kind
        lengths[same] -= lengths[same].mean()
        pulls[same] -= pulls[same].mean()
    if len(lengths) < 30 or np.std(lengths) < 1e-3 * bond or np.std(pulls) == 0:
        return None
    if abs(np.corrcoef(lengths, pulls)[0, 1]) < 0.6:
        return None
    return float(-(lengths @ pulls) / (lengths @ lengths))


def force_unit(stiffness: float | None) -> str | None:
    """The unit in which the force constant is a chemical bond's; None when unknown or in no unit."""
    if stiffness is None or stiffness <= 0:
        return None
    low, high = _STIFFNESS
    if low <= stiffness <= high:
        return "eV/Å"
    middle = np.sqrt(low * high)
    fitting = [unit for unit, factor in _FORCES.items() if low <= stiffness * factor <= high]
    return min(fitting, key=lambda unit: abs(np.log(stiffness * _FORCES[unit] / middle)), default=None)


def _nearest_bonds(s: Structure) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Pairs (B, 2) of each atom and its nearest by distance over covalent radii, vectors (B, 3), and that ratio (B,).

    Each pair once; noble gases have no bonds.
    """
    n = len(s)
    if s.pbc.all():
        cutoff = min(2.0 * (abs(np.linalg.det(s.cell)) / n) ** (1 / 3), _FARTHEST)
        centre, neighbour, shift = neighbour_list(s, cutoff)
        vectors = s.positions[neighbour] - s.positions[centre] + shift @ s.cell
    else:
        k = min(n, 9)
        neighbour = np.asarray(KDTree(s.positions).query(s.positions, k=k)[1])[:, 1:].reshape(-1)
        centre = np.repeat(np.arange(n), k - 1)
        vectors = s.positions[neighbour] - s.positions[centre]
    radii = covalent_radii[s.atomic_numbers]
    ratio = np.linalg.norm(vectors, axis=1) / (radii[centre] + radii[neighbour])
    order = np.lexsort((ratio, centre))
    first = order[np.unique(centre[order], return_index=True)[1]]
    pairs = np.sort(np.stack([centre[first], neighbour[first]], axis=1), axis=1)
    once = np.unique(pairs, axis=0, return_index=True)[1]
    once = once[~np.isin(s.atomic_numbers[pairs[once]], _NOBLE).any(axis=1) & (pairs[once, 0] != pairs[once, 1])]
    chosen = first[once]
    return np.stack([centre[chosen], neighbour[chosen]], axis=1), vectors[chosen], ratio[chosen]


def _bonds(sample: Sequence[Structure]) -> tuple[float | None, float | None]:
    """Length of bonds over covalent radii, and the correlation of their pull with their length; None when unclear.

    The length is None where bonds differ much, as in gases or where hydrogen is alone; the correlation, over bonds of
    equal elements, is None where it could be chance.
    """
    ratios, stretch, pull = [], [], []
    groups: dict[tuple[int, int], list[tuple[NDArray, NDArray]]] = {}
    for s in sample:
        pairs, vectors, ratio = _nearest_bonds(s)
        if not len(pairs):
            continue
        if (s.atomic_numbers != 1).any():
            ratios.append(ratio)
        if s.forces is None:
            continue
        length = np.linalg.norm(vectors, axis=1)
        along = np.einsum("bx,bx->b", s.forces[pairs[:, 1]] - s.forces[pairs[:, 0]], vectors) / length / 2
        kinds = np.sort(s.atomic_numbers[pairs], axis=1)
        for kind in {(int(a), int(b)) for a, b in kinds}:
            of_kind = (kinds == kind).all(axis=1) & np.isfinite(along)
            groups.setdefault(kind, []).append((length[of_kind], along[of_kind]))
    for parts in groups.values():
        length, along = (np.concatenate(part) for part in zip(*parts, strict=True))
        length, along = _distinct(length, along)
        if len(length) > 2 and np.std(length) > _SPREAD * length.mean() and np.std(along) > 0:
            stretch.append((length - length.mean()) / np.std(length))
            pull.append((along - along.mean()) / np.std(along))
    return _typical(ratios), _correlation(stretch, pull)


def _distinct(length: NDArray, along: NDArray) -> tuple[NDArray, NDArray]:
    """Bonds without those that are far longer than usual, each once: bonds that symmetry repeats say a thing once."""
    near = length < 1.25 * np.median(length) if len(length) else np.zeros(0, dtype=bool)
    scale = max(float(np.abs(along[near]).max(initial=0.0)), 1e-12)
    rounded = np.stack([length[near].round(4), (along[near] / scale).round(4)], axis=1)
    first = np.unique(rounded, axis=0, return_index=True)[1]
    return length[near][first], along[near][first]


def _typical(ratios: list[NDArray]) -> float | None:
    if not ratios:
        return None
    joined = np.concatenate(ratios)
    low, middle, high = np.quantile(joined, (0.1, 0.5, 0.9))
    return float(middle) if len(joined) >= 10 and high < 1.5 * low else None


def _correlation(stretch: list[NDArray], pull: list[NDArray]) -> float | None:
    """Beyond chance: four standard errors of Fisher's z, and at least 0.3."""
    if not stretch:
        return None
    x, y = np.concatenate(stretch), np.concatenate(pull)
    if len(x) < 5 or not (x.any() and y.any()):
        return None
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -0.999, 0.999))
    return r if abs(r) >= 0.3 and abs(np.arctanh(r)) * np.sqrt(len(x) - 3) > 4 else None


def sampled(structures: Sequence[Structure]) -> list[Structure]:
    """Frames of more than an atom, evenly chosen, few enough to look at closely."""
    several = [s for s in structures if len(s) > 1]
    if not several:
        return []
    size = max(1.0, float(np.mean([len(s) for s in several])))
    count = int(np.clip(_ATOMS / size, 10, _SAMPLE))
    return [several[k] for k in np.linspace(0, len(several) - 1, min(count, len(several))).astype(int)]


def _measured(structures: Sequence[Structure]) -> _Measured:
    sample = sampled(structures)
    bond, pull = _bonds(sample)
    stiffness = hydrogen_stiffness(sample, bond or _BOND)
    consistency = energy_force_consistency(structures)
    forces = [s.forces[s.forced] for s in sample if s.forces is not None]
    rms = float(np.sqrt(np.mean(np.concatenate(forces) ** 2))) if forces else None
    return _Measured(
        bond,
        stiffness,
        consistency if consistency is not None and abs(consistency.correlation) > 0.8 else None,
        _electronic(sample),
        pull,
        rms,
    )


def foreign_unit(structures: Sequence[Structure], names: Mapping[str, str] | None = None) -> Evidence | None:
    """Strong evidence that structures are not in the units that they were read in; None when there is none.

    `names` are those units, by default eV and Å. Every combination of common units is tried.
    """
    if not any(len(s) > 1 for s in structures):
        return None
    return _judged(_measured(structures), dict(names or {}))


def _judged(measured: _Measured, names: Mapping[str, str]) -> Evidence | None:
    energy, length = names.get("energy", "eV"), names.get("length", "Å")
    now = _now(names)
    informative = _informative(measured, now)
    scores = sorted(
        ((_score(measured, units, now, informative) + units.penalty, units) for units in _combinations()),
        key=lambda pair: (pair[0], len(pair[1].mapping)),
    )
    as_read = _score(measured, None, now, informative)
    (best, units), *others = scores
    if as_read - best < _BEYOND_DOUBT or np.allclose(units.factors, now, rtol=1e-3):
        return None
    other = next((u for score, u in others if score - best < 3 and not np.allclose(u.factors, now, rtol=1e-3)), None)
    reasons = "; ".join(_reasons(measured, now, informative)) or "the evidence together"
    read_as = f"{energy} and {length}"
    sentence = f"labels look like {units} and not like {read_as}: {reasons}"
    turned = np.allclose(units.factors, (now[0], now[1], -now[2]), rtol=1e-3)
    if turned:
        sentence = f"forces have the sign of a gradient: {reasons}"
    return Evidence(sentence, units.mapping, str(other) if other else None, turned)


def _now(names: Mapping[str, str]) -> tuple[float, float, float]:
    energy, length = ENERGY.get(names.get("energy", "eV"), 1.0), LENGTH.get(names.get("length", "Å"), 1.0)
    forces = energy / length
    if "forces" in names:
        above, _, below = names["forces"].removeprefix("-").rpartition("/")
        forces = ENERGY.get(above, 1.0) / LENGTH.get(below, 1.0)
        forces = -forces if names["forces"].startswith("-") else forces
    return energy, length, forces


def _combinations() -> Iterator[_Units]:
    for energy, of_energy in _ENERGIES.items():
        for length, of_length in _LENGTHS.items():
            for sign in (1, -1):
                base = of_energy + of_length + (sign < 0)
                yield _Units(energy, length, None, sign, base)
                for forces, of_forces in _MIXED.items():
                    if forces != f"{energy}/{length}":
                        other = 0.0 if forces.startswith(energy) else _ALIEN
                        yield _Units(energy, length, forces, sign, base + of_forces + other)


def _informative(measured: _Measured, now: tuple[float, float, float]) -> bool:
    """Whether the total energies are all-electron ones in some unit."""
    ratio = measured.electronic
    return ratio is not None and any(abs(ratio * ENERGY[e] / now[0] - 1) < _TOLERANCE for e in _ENERGIES)


def _score(measured: _Measured, units: _Units | None, now: tuple[float, float, float], informative: bool) -> float:
    """How badly the evidence agrees with a combination, as squares of standard deviations; None is as read."""
    return sum(_misfits(measured, units.factors if units is not None else now, now, informative).values())


def _misfits(
    measured: _Measured, factors: tuple[float, float, float], now: tuple[float, float, float], informative: bool
) -> dict[str, float]:
    energy, length, forces = (factor / before for factor, before in zip(factors, now, strict=True))
    found: dict[str, float] = {}
    if measured.bond is not None:
        found["bond"] = _beyond(measured.bond * length / _BOND, 0.22, 0.1)
    if measured.stiffness is not None:
        k = measured.stiffness * forces / length
        found["stiffness"] = _beyond(k / _TYPICAL, 0.35, 0.15)
    if measured.consistency is not None:
        ratio = measured.consistency.slope * energy / (forces * length)
        found["work"] = _beyond(ratio * np.sign(measured.consistency.correlation), 0.25, 0.15)
    if measured.pull is not None and measured.stiffness is None:
        found["pull"] = _IMPOSSIBLE if measured.pull * np.sign(forces) > 0 else 0.0
    if measured.electronic is not None and informative:
        off = abs(measured.electronic * energy - 1) > _TOLERANCE
        found["energy"] = (10.0 if measured.force_rms is None else 6.0) * off
    if measured.force_rms is not None:
        found["size"] = min(6.0, _beyond(measured.force_rms * abs(forces) / 0.8, 2.0, 0.5))
    return found


def _beyond(ratio: float, band: float, deviation: float) -> float:
    """Squared standard deviations of the logarithm of a ratio beyond a band around 1, at most `_IMPOSSIBLE`."""
    if not ratio > 0:
        return _IMPOSSIBLE
    return float(min(_IMPOSSIBLE, (max(0.0, abs(np.log(ratio)) - band) / deviation) ** 2))


def _reasons(measured: _Measured, now: tuple[float, float, float], informative: bool) -> list[str]:
    """What speaks against the units as read, the strongest first."""
    misfits = _misfits(measured, now, now, informative)
    texts = {}
    if measured.bond is not None:
        texts["bond"] = f"atoms are {measured.bond:.2f} times a bond's length from their nearest"
    if measured.stiffness is not None:
        texts["stiffness"] = f"bonds to hydrogen have a force constant of {measured.stiffness:.3g} instead of 20 to 60"
    if measured.consistency is not None:
        c = measured.consistency
        texts["work"] = (
            f"energies change by {np.sign(c.correlation) * c.slope:.3g} times the work of the forces ({c.pairs} pairs "
            "of similar frames)"
        )
    if measured.pull is not None:
        texts["pull"] = f"stretched bonds push (correlation {measured.pull:.2f} of push and length)"
    if measured.electronic is not None:
        texts["energy"] = f"energies are {measured.electronic:.3g} times the all-electron energy in eV"
    if measured.force_rms is not None:
        texts["size"] = f"forces have a root mean square of {measured.force_rms:.3g}"
    ordered = sorted((name for name, value in misfits.items() if value >= 1), key=lambda name: -misfits[name])
    return [texts[name] for name in ordered]


def force_sign(structures: Sequence[Structure]) -> int | None:
    """1 when physics says that the forces have the sign of forces, -1 for a gradient, None when it says nothing."""
    measured = _measured(structures)
    votes = []
    if measured.consistency is not None:
        votes.append(np.sign(measured.consistency.correlation))
    if measured.stiffness is not None:
        votes.append(np.sign(measured.stiffness))
    elif measured.pull is not None:
        votes.append(-np.sign(measured.pull))
    return int(votes[0]) if votes and len(set(votes)) == 1 else None
