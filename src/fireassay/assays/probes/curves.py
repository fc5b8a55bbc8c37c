"""Curves that everybody can judge: two atoms alone, bonds pulled and pressed, an atom carried away.

Dimers start at 0.4 of the sum of covalent radii, far inside the wall that keeps atoms apart, and end beyond the cutoff.
A jump is an energy difference between neighbouring points that no force explains and that does not shrink as the points
come closer. Tortuosity is that of the MLIP Arena (Chiang et al., arXiv:2509.20630): the way of the energy over the
shortest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any, Final

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fireassay.assays.probes.inquiry import Answer, Array, Inquiry, attempted, left_out
from fireassay.data.molecules import connectivity
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.records.probes import Curve, Probe, Verdict

GROUP: Final = "curves"
_FROM: Final = 0.4  # of the sum of covalent radii
_BEYOND: Final = 1.1  # cutoffs
_STRETCH: Final = (0.5, 2.0)  # of a bond's length
_FINE: Final = 16  # parts of an interval that is looked at closely
_SUSPECTS: Final = 3  # intervals of each curve
_STAYS: Final = (
    0.7  # of a jump, when points come twice as close; what is smooth falls to an eighth, a wrong force to half
)
_FLAT: Final = 0.03  # eV/Å, forces that have no sign
_DROP: Final = 0.1  # eV, by which energy falls inwards of the wall, that make a hole
_SHORTEST: Final = 0.7  # of the sum of covalent radii, below which there are no bonds, triple ones included
_NO_BOND: Final = 2.0  # eV above the far end, behind which there is no bond
_EASY: Final = 5.0  # eV, over which atoms come in a simulation now and then
_LEAST_JUMP: Final = 1e-4  # eV
_LOWER: Final = 0.1  # eV below the start, that make a minimum on a bond's curve a trap
_AWAY: Final = 0.05  # eV/Å on an atom that is far from all others


@dataclass(frozen=True)
class _Path:
    """Structures along a coordinate in Å, and the force along it."""

    kind: str
    name: str
    atoms: tuple[int, ...]
    natural: float
    x: Array
    make: Callable[[float], Structure]
    along: Callable[[Array], float]


@dataclass(frozen=True)
class _Scan:
    path: _Path
    energy: Array
    force: Array

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.energy).all() and np.isfinite(self.force).all())


def probes(inquiry: Inquiry) -> tuple[list[Probe], list[Curve]]:
    """Dimers, bonds and an atom carried away."""
    settings = inquiry.settings
    wanted = {
        "dimers": list(_dimers(inquiry)) if settings.dimers else [],
        "bonds": list(_bonds(inquiry)) if settings.bonds else [],
        "an atom carried away": list(_pulled(inquiry)),
    }
    curves: dict[str, list[Curve]] = {}
    found: list[Probe] = []
    for name, paths in wanted.items():
        if not paths:
            found.append(left_out(name, GROUP, _REASONS[name]))
            continue
        scans = _scanned(inquiry, paths)
        if isinstance(scans, str):
            found.append(left_out(name, GROUP, scans))
            continue
        curves[name] = _studied(inquiry, scans)
    found += _judged_dimers(curves.get("dimers", []))
    found += _judged_bonds(curves.get("bonds", []))
    found += _judged_pulled(curves.get("an atom carried away", []))
    every = [curve for of_kind in curves.values() for curve in of_kind]
    if every:
        found.append(_continuity(every))
    return found, every


_REASONS: Final = {
    "dimers": "dimers are switched off",
    "bonds": "the start has no bonds between nonmetals, or they are switched off",
    "an atom carried away": "the start is periodic",
}


def _dimers(inquiry: Inquiry) -> Iterator[_Path]:
    given = inquiry.settings.elements
    for name in given or ():
        if name not in atomic_numbers or name == "X":
            raise InputError(f"probes.elements: {name!r} is no chemical element")
    species = sorted({atomic_numbers[name] for name in given} if given else set(inquiry.start.atomic_numbers.tolist()))
    end = _BEYOND * (inquiry.subject.predictor.cutoff or inquiry.settings.reach)
    for one, other in combinations_with_replacement(species, 2):
        natural = float(covalent_radii[one] + covalent_radii[other])
        numbers = np.array([one, other])

        def make(r: float, numbers: Any = numbers) -> Structure:
            return Structure(numbers, np.array([[0.0, 0, 0], [0, 0, r]]))

        name = f"{chemical_symbols[one]}-{chemical_symbols[other]}"
        x = np.linspace(_FROM * natural, max(end, 1.5 * natural), inquiry.settings.points)
        yield _Path("dimer", name, (one, other), natural, x, make, lambda f: float(f[1, 2] - f[0, 2]) / 2)


def _bonds(inquiry: Inquiry) -> Iterator[_Path]:
    start, n = inquiry.start, len(inquiry.start)
    bonds = connectivity(start)
    seen: dict[tuple[int, int], int] = {}
    count = 0
    for k in np.argsort(-bonds.length).tolist():  # of a kind the longest, which is the weakest
        i, j = bonds.pairs[k].tolist()
        kind = (min(start.atomic_numbers[[i, j]]), max(start.atomic_numbers[[i, j]]))
        if seen.get(kind, 0) >= 2 or count >= inquiry.settings.bonds or i == j:
            continue
        seen[kind], count = seen.get(kind, 0) + 1, count + 1
        others = np.delete(bonds.pairs, k, axis=0)
        graph = coo_array((np.ones(len(others)), (others[:, 0], others[:, 1])), (n, n))
        label = connected_components(graph, directed=False)[1]
        yield _bond(start, i, j, bonds.image[k], float(bonds.length[k]), label, inquiry.settings.points)


def _bond(start: Structure, i: int, j: int, image: Array, length: float, label: Array, points: int) -> _Path:
    """The part beyond the bond moves; of a ring, in which there is none, the two atoms alone."""
    direction = (start.positions[j] + image - start.positions[i]) / length
    share = np.zeros(len(start))
    if label[i] == label[j] or start.pbc.any():
        share[i], share[j] = -0.5, 0.5
    else:
        beyond = j if (label == label[j]).sum() <= (label == label[i]).sum() else i
        share[label == label[beyond]] = 1.0 if beyond == j else -1.0
    step = share[:, None] * direction

    def make(r: float) -> Structure:
        return replace(start, positions=start.positions + (r - length) * step)

    symbols = [chemical_symbols[z] for z in start.atomic_numbers[[i, j]]]
    x = np.linspace(_STRETCH[0] * length, _STRETCH[1] * length, points)
    name = f"{symbols[0]}{i}-{symbols[1]}{j}"
    return _Path("bond", name, (i, j), length, x, make, lambda f: float((f * step).sum()))


def _pulled(inquiry: Inquiry) -> Iterator[_Path]:
    start = inquiry.start
    if start.pbc.any() or len(start) < 2:
        return
    away = start.positions - start.positions.mean(axis=0)
    atom = int(np.argmax(np.linalg.norm(away, axis=1)))
    direction = away[atom] / max(np.linalg.norm(away[atom]), 1e-6)
    end = 2 * (inquiry.subject.predictor.cutoff or inquiry.settings.reach)

    def make(d: float) -> Structure:
        positions = start.positions.copy()
        positions[atom] += d * direction
        return replace(start, positions=positions)

    name = f"{chemical_symbols[start.atomic_numbers[atom]]}{atom}"
    x = np.linspace(0.0, end, 2 * inquiry.settings.points)
    yield _Path("pulled atom", name, (atom,), 0.0, x, make, lambda f: float(f[atom] @ direction))


def _scanned(inquiry: Inquiry, paths: Sequence[_Path]) -> list[_Scan] | str:
    """Energies and forces along the paths, or why there are none."""
    answer = attempted(inquiry, [path.make(x) for path in paths for x in path.x])
    if isinstance(answer, str):
        return answer
    scans = list(_parts(answer, paths))
    return scans if any(scan.finite for scan in scans) else answer.why or "energies are not finite"


def _parts(answer: Answer, paths: Sequence[_Path]) -> Iterator[_Scan]:
    first = 0
    for path in paths:
        last = first + len(path.x)
        forces = np.array([path.along(f) for f in answer.forces[first:last]])
        yield _Scan(path, answer.energy[first:last], forces)
        first = last


def _studied(inquiry: Inquiry, scans: Sequence[_Scan]) -> list[Curve]:
    jumps = _jumps(inquiry, scans)
    oracle = _oracle(inquiry, [scan.path for scan in scans])
    return [_curve(scan, jump, truth) for scan, jump, truth in zip(scans, jumps, oracle, strict=True)]


def _oracle(inquiry: Inquiry, paths: Sequence[_Path]) -> list[Array | None]:
    truth = inquiry.subject.oracle
    if truth is None or paths[0].kind == "dimer":
        return [None] * len(paths)
    answer = attempted(inquiry, [path.make(x) for path in paths for x in path.x], truth)
    if isinstance(answer, str):
        return [None] * len(paths)
    return [scan.energy - scan.energy[_origin(scan.path)] for scan in _parts(answer, paths)]


def _origin(path: _Path) -> int:
    """Where energies are counted from: the far end of a dimer, else the start."""
    return len(path.x) - 1 if path.kind == "dimer" else int(np.argmin(np.abs(path.x - path.natural)))


def _unexplained(x: Array, energy: Array, force: Array) -> Array:
    """Energy differences of neighbouring points and the work of the forces between them, which should cancel."""
    return np.diff(energy) + np.diff(x) * (force[1:] + force[:-1]) / 2


def _jumps(inquiry: Inquiry, scans: Sequence[_Scan]) -> list[tuple[float, float]]:
    """For each scan the largest step in energy that stays when points come closer, and where; (0, NaN) without one."""
    cutoff = inquiry.subject.predictor.cutoff
    close: list[_Path] = []
    owners: list[int] = []
    for number, scan in enumerate(scans):
        if not scan.finite:
            continue
        x = scan.path.x
        step = np.abs(_unexplained(x, scan.energy, scan.force))
        bend = np.pad(np.abs(np.diff(scan.force, 2)), 1, mode="edge")
        smooth = np.diff(x) * np.maximum(bend[1:], bend[:-1]) / 12  # what the trapezoid rule itself misses
        suspects = {int(k) for by in (step, step - 2 * smooth) for k in np.argsort(-by)[:_SUSPECTS]}
        if scan.path.kind == "dimer" and x[0] < cutoff < x[-1]:
            suspects.add(int(np.searchsorted(x, cutoff)) - 1)
        for k in sorted(suspects):
            close.append(replace(scan.path, x=np.linspace(x[k], x[k + 1], _FINE + 1)))
            owners.append(number)
    found = [(0.0, np.nan)] * len(scans)
    fine = _scanned(inquiry, close) if close else []
    for number, scan in zip(owners, fine if not isinstance(fine, str) else (), strict=False):
        x, e, f = scan.path.x, scan.energy, scan.force
        once = np.abs(_unexplained(x, e, f))
        twice = np.abs(_unexplained(x[::2], e[::2], f[::2]))
        worst = int(np.argmax(once))
        if np.isfinite(once).all() and once[worst] > _STAYS * twice[worst // 2] and once[worst] > found[number][0]:
            found[number] = float(once[worst]), float((x[worst] + x[worst + 1]) / 2)
    return found


def _curve(scan: _Scan, jump: tuple[float, float], oracle: Array | None) -> Curve:
    path = scan.path
    energy, force, x = scan.energy - scan.energy[_origin(path)], scan.force, path.x
    faults: list[tuple[str, float]] = []
    if not scan.finite:
        faults.append(("energy or forces are not finite", float(x[~np.isfinite(energy + force)][0])))
        extra: dict[str, Any] = {"flips": 0}
    else:
        extra = {"flips": _flips(force), "tortuosity": _tortuosity(energy)}
        if path.kind == "dimer":
            extra["wall"] = float(energy[0] - energy[-1])
            hole = _hole(x, energy, path.natural)
            if hole is not None:
                extra["hole"] = hole[0]
                faults.append((f"a hole behind {hole[0]:.2g} eV", hole[1]))
        if jump[0] > max(_LEAST_JUMP, 5e-3 * min(max(-float(energy.min()), 0.02), 1.0)):
            extra["jump"] = jump[0]
            faults.append((f"a jump of {jump[0]:.2g} eV", jump[1]))
    return Curve(
        kind=path.kind,
        name=path.name,
        atoms=np.array(path.atoms),
        natural=path.natural,
        distance=x,
        energy=energy,
        force=force,
        faults=[text for text, _ in faults],
        fault_at=np.array([place for _, place in faults], dtype=float),
        oracle=oracle,
        **extra,
    )


def _flips(force: Array) -> int:
    """Changes of the force's sign, small forces left aside, beyond the one from repulsion to attraction."""
    signs = np.sign(force[np.abs(force) > _FLAT])
    changes = int((np.diff(signs) != 0).sum()) if len(signs) else 0
    return max(0, changes - (1 if len(signs) and signs[0] > 0 else 0))


def _tortuosity(energy: Array) -> float | None:
    shortest = energy[0] + energy[-1] - 2 * energy.min()
    return float(np.abs(np.diff(energy)).sum() / shortest) if shortest > 1e-6 else None


def _hole(x: Array, energy: Array, natural: float) -> tuple[float, float] | None:
    """The barrier from outside, behind which energy falls inwards, and where it does; None without a hole.

    Below the shortest bonds no energy may fall inwards. Further out a bond is no hole, even one behind a low barrier;
    what is behind more than `_NO_BOND` is no bond.
    """
    edge = int(np.searchsorted(x, _SHORTEST * natural))
    for last, least in ((edge, -np.inf), (len(x) - 1, energy[-1] + _NO_BOND)):
        inwards = energy[: last + 1][::-1]
        highest = np.maximum.accumulate(inwards)
        fallen = np.flatnonzero((highest - inwards > _DROP) & (highest > least))
        if len(fallen):
            place = last - int(np.argmax(inwards[: fallen[0] + 1]))
            top = place + int(np.argmax(energy[place:]))
            return float(energy[top] - energy[top:].min()), float(x[place])
    return None


def _judged_dimers(every: Sequence[Curve]) -> list[Probe]:
    curves = [curve for curve in every if np.isfinite(curve.energy).mean() > 0.5]
    absent = [curve.name for curve in every if curve not in curves]
    if not curves:
        return [left_out("dimers", GROUP, "no pair of atoms alone can be calculated")] if absent else []
    holes = [curve for curve in curves if curve.hole is not None]
    lost = [curve.name for curve in curves if any("finite" in fault for fault in curve.faults)]
    thin = [curve for curve in curves if curve.wall is not None and curve.hole is None and curve.wall < _EASY]
    lowest = min((curve.hole for curve in holes if curve.hole is not None), default=None)
    verdict: Verdict = "broken" if lost or (lowest is not None and lowest < _EASY) else "doubtful" if holes else "sound"
    if thin:
        verdict = "broken"
    parts = [f"{c.name} falls in behind {c.hole or 0:.2g} eV at {c.fault_at[0]:.2f} Å" for c in holes]
    parts += [f"the wall of {c.name} is only {c.wall:.2g} eV high" for c in thin]
    parts += [f"{name} is not finite at some distances" for name in lost]
    walls = [curve.wall for curve in curves if curve.wall is not None]
    least = min(walls, default=0.0)
    sound = f"atoms of {len(curves)} pairs repel each other down to {_FROM:g} covalent radii, by {least:.3g} eV or more"
    wall = Probe(
        name="short-range wall",
        group=GROUP,
        verdict=verdict,
        sentence="; ".join(parts or [sound]) + (f" ({', '.join(absent)} cannot be calculated)" if absent else ""),
        meaning="" if verdict == "sound" else
        "hot or dense trajectories let atoms fall onto each other; add a short-range repulsion such as ZBL, or frames "
        "of close contacts",
        value=lowest,
        unit="eV" if lowest is not None else "",
    )  # fmt: skip
    crooked = [curve for curve in curves if curve.flips]
    worst = max(crooked, key=lambda curve: curve.flips, default=None)
    shape = Probe(
        name="shape of dimers",
        group=GROUP,
        verdict="doubtful" if worst is not None else "sound",
        sentence="no pair has more than one minimum" if worst is None else
        f"{len(crooked)} of {len(curves)} pairs have minima or maxima too many, {worst.name} the most ({worst.flips})",
        meaning="" if worst is None else
        "two atoms alone are outside the training data: do not trust gases, surfaces and fragments without a test",
        value=float(worst.flips) if worst is not None else 0.0,
    )  # fmt: skip
    return [wall, shape]


def _judged_bonds(curves: Sequence[Curve]) -> list[Probe]:
    if not curves:
        return []
    traps: list[str] = []
    soft: list[str] = []
    for curve in curves:
        near = np.abs(curve.distance / curve.natural - 1) < 0.15
        outside = float(curve.energy[~near].min()) if np.isfinite(curve.energy).all() else -np.inf
        lowest = float(curve.energy[near].min()) if np.isfinite(curve.energy).all() else 0.0
        if outside < lowest - _LOWER:
            place = float(curve.distance[~near][np.argmin(curve.energy[~near])])
            traps.append(f"{curve.name} is lower by {lowest - outside:.2g} eV at {place:.2f} Å")
        elif curve.flips:
            soft.append(curve.name)
    verdict: Verdict = "broken" if traps else "doubtful" if soft else "sound"
    sentence = f"{len(curves)} bonds have one minimum from half to twice their length"
    if traps:
        sentence = "; ".join(traps)
    elif soft:
        sentence = f"{len(soft)} of {len(curves)} bonds have a second minimum or maximum: {', '.join(soft)}"
    meaning = ("stretched or pressed bonds fall into a state that is not there: trajectories end in it" if traps else
               "pressed or stretched bonds meet forces of the wrong sign, which hot trajectories find")  # fmt: skip
    found = [Probe(name="bonds", group=GROUP, verdict=verdict, sentence=sentence,
                   meaning="" if verdict == "sound" else meaning, value=float(len(traps) or len(soft)))]  # fmt: skip
    off = [float(np.abs(c.energy - c.oracle).max()) for c in curves if c.oracle is not None]
    if off:
        text = f"along the bonds energies differ from the oracle's by up to {max(off):.3g} eV"
        close: Verdict = "sound" if max(off) < 1 else "doubtful"
        name = "bonds against the oracle"
        found.append(Probe(name=name, group=GROUP, verdict=close, sentence=text, value=max(off), unit="eV"))
    return found


def _judged_pulled(curves: Sequence[Curve]) -> list[Probe]:
    found = []
    for curve in curves:
        left = abs(float(curve.force[-1]))
        verdict: Verdict = "sound" if left < _AWAY else "doubtful"
        text = f"a force of {left:.2g} eV/Å acts on {curve.name} when it is {curve.distance[-1]:.1f} Å away"
        if not np.isfinite(left):
            verdict, text = "broken", f"{curve.name} carried away has no finite energy"
        found.append(
            Probe(
                name="an atom carried away", group=GROUP, verdict=verdict, sentence=text, value=left, unit="eV/Å",
                meaning="" if verdict == "sound" else "fragments attract or repel each other at any distance",
            )
        )  # fmt: skip
    return found


def _continuity(curves: Sequence[Curve]) -> Probe:
    torn = [curve for curve in curves if curve.jump is not None]
    worst = max(torn, key=lambda curve: curve.jump or 0.0, default=None)
    if worst is None:
        text = f"no jump of the energy on {len(curves)} curves"
        return Probe(name="continuity", group=GROUP, verdict="sound", sentence=text, value=0.0, unit="eV")
    assert worst.jump is not None
    place = next(float(at) for text, at in zip(worst.faults, worst.fault_at, strict=True) if "jump" in text)
    return Probe(
        name="continuity",
        group=GROUP,
        verdict="broken" if worst.jump > 1e-3 else "doubtful",
        sentence=f"the energy jumps by {worst.jump:.2g} eV on the {worst.kind} curve of {worst.name} at {place:.3f} Å, "
        f"and on {len(torn)} of {len(curves)} curves in all",
        meaning="atoms that cross it gain or lose energy, which is not conserved; often a hard cutoff or low precision",
        value=worst.jump,
        unit="eV",
    )
