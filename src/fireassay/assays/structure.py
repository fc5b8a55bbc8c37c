"""Structure: are atoms where they should be, on average, in trajectories that the potential makes by itself?

Radial distribution functions, in total and for each pair of elements, or the density of pair distances of a molecule;
angles between neighbours; coordination numbers; of molecules bonds, angles, dihedrals and the radius of gyration. Each
beside a reference trajectory and an oracle's own run. EGraFFBench, section 4.2.1; NequIP, Figs. 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from ase.data import atomic_masses, covalent_radii
from numpy.typing import NDArray
from pydantic import Field

from fireassay import metrics
from fireassay.assays.assay import Assay, Need, Subject
from fireassay.assays.trajectories import (
    ORACLE,
    REFERENCE,
    MotionSettings,
    Sampler,
    Sums,
    check_survivors,
    described,
    moved,
    reference_of,
    sampled_from,
    summed,
    warm,
)
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.observables.angles import Angles, count_angles
from fireassay.observables.molecule import (
    Internal,
    bond_angles,
    bond_lengths,
    dihedral_angles,
    internal_coordinates,
    radius_of_gyration,
)
from fireassay.observables.pairs import Pairs, count_pairs, first_minimum, usable_reach
from fireassay.observables.trajectory import Trajectory
from fireassay.records.structure import Coordination, Distribution, StructureResult
from fireassay.records.trajectories import Likeness

Array = NDArray[np.float64]
_PARTS: Final = 10  # of a reference trajectory, which stand for independent ones
_MOST_TRIPLETS: Final = 20


class StructureSettings(MotionSettings):
    """Settings of the structure assay."""

    stride: int = Field(default=10, ge=1, description="steps between frames that are looked at")
    reach: float | None = Field(
        default=None,
        gt=0,
        description="Å, of distances; null: min((shortest edge - 1)/2, 10) as in EGraFFBench, 10 for molecules",
    )
    bin: float = Field(default=0.05, gt=0, description="Å, of distances; molecules have 0.02")
    angle_cutoff: float | None = Field(
        default=2.5, gt=0, description="Å, of the neighbours that make angles; null: 1.3 times the covalent radii"
    )
    angle_bin: float = Field(default=2.0, gt=0, description="degrees, a divisor of 180")
    internal: bool = Field(default=True, description="bonds, angles and dihedrals between nonmetals")
    hydrogens: bool = Field(default=True, description="hydrogens count in the radius of gyration")
    oracle: bool = Field(default=True, description="the oracle, if there is one, makes a run of its own")
    oracle_replicas: int | None = Field(default=None, ge=1, description="trajectories of it; null: as many as replicas")


@dataclass(frozen=True, eq=False)
class Grid:
    """What is counted, and in which bins."""

    atomic_numbers: NDArray[np.int64]
    pbc: NDArray[np.bool_]
    reach: float
    width: float
    cutoffs: Array
    angle_width: float
    internal: Internal | None
    gyration: tuple[float, bool] | None  # the largest radius in Å, and whether hydrogens count

    @classmethod
    def of(cls, start: Structure, settings: StructureSettings, cells: Array) -> Grid:
        """The grid of a start; `cells` are all in which it will be used."""
        periodic = bool(start.pbc.any())
        elements = np.unique(start.atomic_numbers)
        radii = covalent_radii[elements]
        cutoffs = (
            1.3 * (radii[:, None] + radii)
            if settings.angle_cutoff is None
            else np.full((len(elements),) * 2, settings.angle_cutoff)
        )
        internal = internal_coordinates(start) if settings.internal else None
        chosen = _counting(start.atomic_numbers, settings.hydrogens)
        widest = None
        if not periodic and chosen.sum() > 1:
            size = radius_of_gyration(start.positions[None], atomic_masses[start.atomic_numbers], chosen)[0]
            widest = (max(2.0, 2 * float(size)), settings.hydrogens)
        return cls(
            start.atomic_numbers,
            start.pbc,
            usable_reach(cells, start.pbc, settings.reach),
            settings.bin if periodic else min(settings.bin, 0.02),
            cutoffs,
            settings.angle_bin,
            internal if internal is not None and len(internal.bonds) else None,
            widest,
        )

    def sums(self, positions: Array, cell: Array, numbers: NDArray[np.int64] | None = None) -> Sums:
        """What is counted in frames (T, n, 3) in one cell (3, 3) or in cells (T, 3, 3)."""
        numbers = self.atomic_numbers if numbers is None else numbers
        cells = np.broadcast_to(cell, (len(positions), 3, 3))
        pairs = count_pairs(numbers, positions, cells, self.pbc, self.reach, self.width)
        found: Sums = {"frames": np.array(len(positions)), "pairs": pairs.counts, "weighted": pairs.weighted}
        if not self.pbc.any() or self.pbc.all():
            angles = count_angles(numbers, positions, cells, self.pbc, self.cutoffs, self.angle_width)
            found["angles"] = angles.counts
        same_order = np.array_equal(numbers, self.atomic_numbers)
        if self.internal is not None and same_order:
            found |= self._internal_sums(positions, cells)
        if self.gyration is not None:
            widest, hydrogens = self.gyration
            radius = radius_of_gyration(positions, atomic_masses[numbers], _counting(numbers, hydrogens))
            found["gyration"] = np.histogram(radius.clip(max=widest * (1 - 1e-9)), 200, (0.0, widest))[0]
        return found

    def _internal_sums(self, positions: Array, cells: Array) -> Sums:
        assert self.internal is not None
        found: Sums = {}
        kinds = (
            ("bond", bond_lengths, self.internal.bond_names, 200, (0.0, 4.0)),
            ("bond angle", bond_angles, self.internal.angle_names, 180, (0.0, 180.0)),
            ("dihedral", dihedral_angles, self.internal.dihedral_names, 72, (-180.0, 180.0)),
        )
        for kind, function, names, bins, limits in kinds:
            if not names:
                continue
            values = function(positions, self.internal, cells)
            for name in dict.fromkeys(names):
                chosen = values[:, [k for k, other in enumerate(names) if other == name]]
                found[f"{kind} {name}"] = np.histogram(chosen.clip(*limits), bins, limits)[0]
        return found

    def pairs(self, sums: Sums) -> Pairs:
        """The distances of sums."""
        elements, counts = np.unique(self.atomic_numbers, return_counts=True)
        return Pairs(elements, counts, self.width, sums["pairs"], sums["weighted"], int(sums["frames"]))

    def curves(self, sums: Sums) -> dict[tuple[str, str], tuple[str, Array, Array]]:
        """By kind and name: unit of the abscissa, abscissa, and g or density."""
        pairs = self.pairs(sums)
        found: dict[tuple[str, str], tuple[str, Array, Array]] = {}
        if self.pbc.all():
            total, partial = pairs.distribution()
            found["rdf", "all"] = ("Å", pairs.distance, total)
            if len(pairs.names) > 1:
                for name, g, counts in zip(pairs.names, partial, sums["pairs"], strict=True):
                    if counts.any():
                        found["rdf", name] = ("Å", pairs.distance, g)
        else:
            found["pair density", "all"] = ("Å", pairs.distance, pairs.density())
        if "angles" in sums:
            angles = Angles(pairs.elements, self.angle_width, sums["angles"], pairs.frames)
            most = sorted(angles.triplets(), key=lambda t: -int(angles.counts[t[1]].sum()))[:_MOST_TRIPLETS]
            for name, triplet in most:
                found["angle", name] = ("°", angles.angle, angles.density(triplet))
        for key, counts in sums.items():
            kind, _, name = key.rpartition(" ")
            if kind in ("bond", "bond angle", "dihedral"):
                low, high = {"bond": (0.0, 4.0), "bond angle": (0.0, 180.0), "dihedral": (-180.0, 180.0)}[kind]
                found[kind, name] = ("Å" if kind == "bond" else "°", *_density(counts, low, high))
        if self.gyration is not None and "gyration" in sums:
            found["gyration", "R_g"] = ("Å", *_density(sums["gyration"], 0.0, self.gyration[0]))
        return found


def _density(counts: NDArray, low: float, high: float) -> tuple[Array, Array]:
    width = (high - low) / len(counts)
    x: Array = low + (np.arange(len(counts), dtype=np.float64) + 0.5) * width
    return x, counts / max(float(counts.sum()) * width, 1e-300)


def _counting(atomic_numbers: NDArray[np.int64], hydrogens: bool) -> NDArray[np.bool_]:
    """The atoms that make the radius of gyration."""
    return np.ones(len(atomic_numbers), dtype=bool) if hydrogens else atomic_numbers != 1


def run(subject: Subject, settings: StructureSettings) -> StructureResult:
    """Trajectories of the potential, of the oracle where there is one, and the reference, on one grid.

    Raises InputError when the reference is of another system, the range does not fit the cell, or no trajectory lives
    through the equilibration.
    """
    start = subject.start
    assert start is not None
    reference = reference_of(subject, start)
    cells = start.cell[None] if reference is None else np.concatenate([start.cell[None], reference.cell])
    grid = Grid.of(start, settings, cells)
    parts, failures = _run(subject, settings, grid, start, settings.replicas, None)
    others: dict[str, list[Sums]] = {}
    notes: list[str] = []
    if reference is not None:
        others[REFERENCE] = _parts_of(reference, grid)
        if grid.internal is not None and not np.array_equal(reference.atomic_numbers, start.atomic_numbers):
            notes.append("the reference has its atoms in another order: bonds, angles and dihedrals are not compared")
    if subject.oracle is not None and settings.oracle:
        replicas = settings.oracle_replicas or settings.replicas
        try:
            found, ended = _run(subject, settings, grid, start, replicas, subject.oracle)
        except InputError as error:
            notes.append(f"the oracle's own run: {error}")
        else:
            others[ORACLE] = found
            if ended:
                notes.append(f"{len(ended)} of the oracle's own {replicas} trajectories ended early")
    if not others:
        notes.append("there is no reference trajectory and no oracle to compare with")
        subject.tell("structure: nothing to compare with; give data.reference=FILE, or --oracle")
    if start.pbc.any() and not start.pbc.all():
        notes.append("periodic in some directions only: distances of pairs instead of g(r), and no angles")
    planned = settings.replicas * _frames(settings)
    frames = sum(int(part["frames"]) for part in parts)
    return StructureResult(
        sampled_from=sampled_from(start, settings),
        frames=frames,
        sampled=frames / planned,
        references={name: sum(int(part["frames"]) for part in found) for name, found in others.items()},
        distributions=_distributions(grid, parts, others),
        coordination=_coordination(grid, parts, others) if start.pbc.all() else [],
        failures=failures,
        notes=notes,
    )


def _frames(settings: StructureSettings) -> int:
    first, steps = _steps(settings)
    return (steps - first) // settings.stride + 1


def _steps(settings: StructureSettings) -> tuple[int, int]:
    first = round(settings.equilibration / settings.timestep)
    return first, first + max(1, round(settings.duration / settings.timestep))


def _run(
    subject: Subject, settings: StructureSettings, grid: Grid, start: Structure, replicas: int, oracle: Any
) -> tuple[list[Sums], list]:
    first, steps = _steps(settings)
    sampler = Sampler(grid.sums, first, settings.stride)
    who = "oracle" if oracle is not None else subject.name
    done = moved(
        subject,
        settings,
        warm(subject, settings, start, replicas),
        steps * settings.timestep,
        predictor=oracle,
        observers=(sampler,),
        description=f"structure of {who}",
        tag=f"structure-{'oracle' if oracle is not None else 'own'}",
    )
    parts = [part for part in sampler.sums if part]
    if not parts:
        check_survivors(done, start, settings)
    return parts, [described(f) for f in done.failures]


def _parts_of(reference: Trajectory, grid: Grid) -> list[Sums]:
    """The reference in consecutive parts."""
    count = min(_PARTS, len(reference) // 2) if len(reference) >= 4 else min(2, len(reference))
    ends = np.linspace(0, len(reference), count + 1).round().astype(int)
    return [
        grid.sums(reference.positions[a:b], reference.cell[a:b], reference.atomic_numbers) for a, b in pairwise(ends)
    ]


def _distributions(grid: Grid, parts: list[Sums], others: Mapping[str, list[Sums]]) -> list[Distribution]:
    own = grid.curves(summed(parts))
    single = [grid.curves(part) for part in parts]
    theirs = {name: grid.curves(summed(found)) for name, found in others.items()}
    found = []
    for kind, name in dict.fromkeys([*own, *(key for curves in theirs.values() for key in curves)]):
        known = next(curves[kind, name] for curves in (own, *theirs.values()) if (kind, name) in curves)
        unit, x, _ = known
        zero = np.zeros_like(x)
        value = own[kind, name][2] if (kind, name) in own else zero
        each = np.stack([c[kind, name][2] if (kind, name) in c else zero for c in single])
        error = each.std(0, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.full_like(x, np.nan)
        references = {n: c[kind, name][2] for n, c in theirs.items() if (kind, name) in c}
        likeness = {}
        for other, curve in references.items():
            if value.any() and curve.any():
                likeness[other] = _likeness(kind, name, grid, parts, others[other], x, value, curve)
        found.append(
            Distribution(
                name=name, kind=kind, unit=unit, x=x, value=value, error=error, references=references, likeness=likeness
            )
        )
    return found


def _likeness(
    kind: str, name: str, grid: Grid, parts: list[Sums], others: list[Sums], x: Array, value: Array, curve: Array
) -> Likeness:
    width = float(x[1] - x[0])
    around = kind == "dihedral"

    def measures(a: Array, b: Array) -> dict[str, float]:
        found = {
            "jensen_shannon": metrics.jensen_shannon(a, b),
            "hellinger": metrics.hellinger(a, b),
            "wasserstein": metrics.wasserstein(a, b, width, around),
        }
        if kind == "rdf":
            found |= {"wright": metrics.wright_factor(a, b), "r_chi": metrics.r_chi(a, b)}
        return found

    def curve_of(some: Sequence[Sums]) -> Array | None:
        curves = grid.curves(summed(some))
        found = curves.get((kind, name))
        return None if found is None or not found[2].any() else found[2]

    now: dict[str, Any] = dict(measures(value, curve))
    n = len(parts)
    if n > 2:
        without = [curve_of([*parts[:k], *parts[k + 1 :]]) for k in range(n)]
        jack = [measures(c, curve) for c in without if c is not None]
        for key in ("wright", "jensen_shannon", "wasserstein"):
            if key in now and len(jack) == n:
                values = np.array([m[key] for m in jack])
                now[f"{key}_error"] = float(np.sqrt((n - 1) / n * np.square(values - values.mean()).sum()))
    halves = [curve_of(half) for half in (others[: len(others) // 2], others[len(others) // 2 :]) if half]
    if len(halves) == 2 and halves[0] is not None and halves[1] is not None:
        floor = measures(halves[0], halves[1])
        now |= {f"{key}_floor": floor[key] for key in ("wright", "jensen_shannon", "wasserstein") if key in floor}
    return Likeness(**now)


def _coordination(grid: Grid, parts: list[Sums], others: Mapping[str, list[Sums]]) -> list[Coordination]:
    """Up to the first minimum of each partial g, of the reference's where there is one."""
    totals = {name: grid.pairs(summed(found)) for name, found in others.items()}
    own, single = grid.pairs(summed(parts)), [grid.pairs(part) for part in parts]
    guide = next(iter(totals.values()), own)
    symbols = [name.partition("-") for name in own.names]
    found = []
    for row, (a, b) in enumerate(own.kinds):
        cutoff = first_minimum(guide.distance, guide.distribution()[1][row])
        if cutoff is None:
            continue
        place = round(cutoff / grid.width - 0.5)
        for first, second in dict.fromkeys([(a, b), (b, a)]):
            values = np.array([pairs.coordination()[first, second, place] for pairs in single])
            names = (symbols[row][0], symbols[row][2]) if first == a else (symbols[row][2], symbols[row][0])
            found.append(
                Coordination(
                    name=f"{names[0]}-{names[1]}",
                    cutoff=cutoff,
                    value=float(own.coordination()[first, second, place]),
                    error=float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None,
                    references={n: float(p.coordination()[first, second, place]) for n, p in totals.items()},
                )
            )
    return found


ASSAY = Assay("structure", StructureSettings, (Need.START,), run, by_default=False)
