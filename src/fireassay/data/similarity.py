"""Frames that resemble each other: duplicates, and neighbours between which energies and forces must agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from fireassay.data.neighbours import completed_cell
from fireassay.data.structure import Structure

NEAR: Final = 0.01  # Å, root mean square over atom pairs or coordinates, below which two frames are near duplicates
_DIRECTIONS: Final = 8
_PAIRWISE: Final = 500  # atoms, beyond which molecules are compared by superposition and not by all distances
_CANDIDATES: Final = 8  # times as many pairs are superposed as are used
_SEED: Final = 0


class Duplicates(NamedTuple):
    """Pairs of frame numbers (K, 2), first < second; a frame is paired with the first one that it repeats."""

    identical: NDArray[np.int64]
    near: NDArray[np.int64]


class Consistency(NamedTuple):
    """How energy differences between similar frames compare with the work of the forces between them.

    `slope` is dE / (-F·dx), 1 when energies and forces belong together and have matching units; `correlation` says
    whether the slope means anything, `pairs` how many pairs it rests on.
    """

    slope: float
    correlation: float
    pairs: int


def duplicates(structures: Sequence[Structure]) -> Duplicates:
    """Frames that repeat an earlier one, exactly to 1e-6 Å or to within `NEAR`.

    Molecules are compared by their interatomic distances, whatever their orientation; periodic frames of one cell by
    their coordinates up to lattice vectors. Atoms must be in the same order. Another charge or spin is another frame.
    """
    identical: list[tuple[int, int]] = []
    near: list[tuple[int, int]] = []
    for members in _alike(structures):
        first: dict[bytes, int] = {}
        unique = []
        for k in members:
            s = structures[k]
            content = np.concatenate([s.positions, s.cell]).round(6) + 0.0  # no negative zeros
            earlier = first.setdefault(content.tobytes(), k)
            if earlier != k:
                identical.append((earlier, k))
            else:
                unique.append(k)
        if len(unique) > 1:
            near.extend(_near(structures, np.array(unique)))
    return Duplicates(_sorted(identical), _sorted(near))


def energy_force_consistency(structures: Sequence[Structure], most: int = 300) -> Consistency | None:
    """Slope of energy differences against the work of the mean force between similar frames (trapezoid rule).

    Molecules are superposed first (Kabsch, Acta Cryst. A32, 922, 1976). None when fewer than 8 pairs of frames have
    energies, forces and the same atoms.
    """
    labelled = [k for k, s in enumerate(structures) if s.energy is not None and len(s) > 1 and s.forced.all()]
    found: list[tuple[float, float, float]] = []
    pairs = [
        pair
        for members in _alike(structures, labelled)
        if len(members) > 1
        for pair in _closest(structures, np.array(members))
    ]
    for _, a, b in sorted(pairs)[: _CANDIDATES * most]:
        found.append(_work(structures[a], structures[b]))
    rows = np.array(sorted(found)[:most]).reshape(-1, 3)
    rows = rows[rows[:, 1] != 0]
    if len(rows) < 8 or np.std(rows[:, 1]) == 0 or np.std(rows[:, 2]) == 0:
        return None
    _, work, difference = rows.T
    slope = float(np.sqrt((difference @ difference) / (work @ work)))
    return Consistency(slope, float(np.corrcoef(work, difference)[0, 1]), len(rows))


def _alike(structures: Sequence[Structure], among: Sequence[int] | None = None) -> list[list[int]]:
    """Frames grouped by their elements in sequence, charge, spin, periodicity and, where periodic, their cell."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for k in range(len(structures)) if among is None else among:
        s = structures[k]
        cell = s.cell[s.pbc].round(3).tobytes() if s.pbc.any() else b""
        groups.setdefault((s.atomic_numbers.tobytes(), s.charge, s.spin, s.pbc.tobytes(), cell), []).append(k)
    return list(groups.values())


def _projected(structures: Sequence[Structure], members: NDArray[np.int64]) -> NDArray[np.float64]:
    """Frames (K, 8) such that distances here never exceed distances there: differences in shape, in Å."""
    first = structures[members[0]]
    if first.pbc.any():
        inverse = np.linalg.inv(completed_cell(first.cell, first.pbc))
        angles = 2 * np.pi * np.stack([structures[k].positions for k in members]) @ inverse
        heights = 1 / np.linalg.norm(inverse, axis=0) / (2 * np.pi)
        shape = np.concatenate([np.cos(angles) * heights, np.sin(angles) * heights], axis=1)
    else:
        positions = np.stack([structures[k].positions for k in members])
        shape = np.linalg.norm(positions - positions.mean(axis=1, keepdims=True), axis=2)
    shape = shape.reshape(len(members), -1)
    directions = np.random.default_rng(_SEED).normal(size=(shape.shape[1], min(_DIRECTIONS, shape.shape[1])))
    return shape @ np.linalg.qr(directions)[0]


def _near(structures: Sequence[Structure], members: NDArray[np.int64]) -> list[tuple[int, int]]:
    n = len(structures[members[0]])
    tree = KDTree(_projected(structures, members))
    candidates = np.asarray(tree.query_pairs(NEAR * np.sqrt(3 * n), output_type="ndarray"), dtype=np.int64)
    found: dict[int, int] = {}
    for a, b in members[np.sort(candidates, axis=1)][:100_000].tolist():
        if b not in found and _difference(structures[a], structures[b]) < NEAR:
            found[b] = a
    return [(a, b) for b, a in found.items()]


def _difference(a: Structure, b: Structure) -> float:
    if a.pbc.any():
        return float(np.sqrt(np.mean(_displacement(a, b) ** 2)))
    n = len(a)
    if n > _PAIRWISE:
        _, moved = _superposed(a, b)
        return float(np.sqrt(np.mean((moved - (a.positions - a.positions.mean(axis=0))) ** 2)))
    distances = [np.linalg.norm(s.positions[:, None] - s.positions[None], axis=2) for s in (a, b)]
    return float(np.sqrt(np.sum((distances[0] - distances[1]) ** 2) / max(n * (n - 1), 1)))


def _displacement(a: Structure, b: Structure) -> NDArray[np.float64]:
    """From a to b (N, 3) Å by the nearest images."""
    cell = completed_cell(a.cell, a.pbc)
    fractional = (b.positions - a.positions) @ np.linalg.inv(cell)
    return (fractional - np.where(a.pbc, fractional.round(), 0.0)) @ cell


def _closest(structures: Sequence[Structure], members: NDArray[np.int64]) -> list[tuple[float, int, int]]:
    """Each frame with its nearest one in shape, and with the next one of the file: the difference in shape first."""
    shape = _projected(structures, members)
    nearest = np.asarray(KDTree(shape).query(shape, k=2)[1])[:, 1]
    pairs = {(min(a, b), max(a, b)) for a, b in enumerate(nearest.tolist()) if a != b}
    pairs |= {(a, a + 1) for a in range(len(members) - 1)}
    first, second = np.array(sorted(pairs)).T
    apart = np.linalg.norm(shape[first] - shape[second], axis=1) / np.sqrt(len(structures[members[0]]))
    return list(zip(apart.tolist(), members[first].tolist(), members[second].tolist(), strict=True))


def _work(a: Structure, b: Structure) -> tuple[float, float, float]:
    """Root mean square displacement, work of the mean force from a to b, and the difference of the energies."""
    assert a.forces is not None
    assert b.forces is not None
    assert a.energy is not None
    assert b.energy is not None
    forces = b.forces
    if a.pbc.any():
        step = _displacement(a, b)
    else:
        turn, moved = _superposed(a, b)
        step, forces = moved - (a.positions - a.positions.mean(axis=0)), forces @ turn
    work = -0.5 * float(np.sum((a.forces + forces) * step))
    return float(np.sqrt(np.mean(step**2))), work, b.energy - a.energy


def _superposed(a: Structure, b: Structure) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rotation that turns b onto a, to be applied from the right, and b's centred positions after it."""
    x, y = a.positions - a.positions.mean(axis=0), b.positions - b.positions.mean(axis=0)
    u, _, vt = np.linalg.svd(y.T @ x)
    turn = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return turn, y @ turn


def _sorted(found: list[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)
