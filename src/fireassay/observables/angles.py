"""Angles between neighbours: the angular distribution function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numba
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from fireassay.errors import InputError
from fireassay.kernel_cache import cached
from fireassay.observables.pairs import fractional_coordinates, over_frames, prepared

Array = NDArray[np.float64]
_MOST: Final = 256  # neighbours of one atom within the cutoff


@dataclass(frozen=True, eq=False)
class Angles:
    """Counts of angles by the elements of centre and ends, to be added up over frames.

    `counts` (K, K, K, B): centre, then the two ends a <= b, as rows of `elements`; bins of `width` degrees.
    """

    elements: NDArray[np.int64]
    width: float
    counts: NDArray[np.int64]
    frames: int

    @property
    def angle(self) -> Array:
        """The centres (B,) of the bins in degrees."""
        return (np.arange(self.counts.shape[3]) + 0.5) * self.width

    def triplets(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Names such as S-P-S, with centre and ends as rows of `elements`, of all triplets that occur."""
        symbols = [chemical_symbols[z] for z in self.elements.tolist()]
        k = len(symbols)
        rows = [(c, a, b) for c in range(k) for a in range(k) for b in range(a, k)]
        return [
            (f"{symbols[a]}-{symbols[c]}-{symbols[b]}", (c, a, b)) for c, a, b in rows if self.counts[c, a, b].any()
        ]

    def density(self, triplet: tuple[int, int, int] | None = None) -> Array:
        """The probability density (B,) in 1/degree of the angle, of one triplet or of all, over all frames together.

        It integrates to 1 over [0, 180]; zero without any angle.
        """
        counts = (self.counts.sum((0, 1, 2)) if triplet is None else self.counts[triplet]).astype(np.float64)
        return counts / max(counts.sum() * self.width, 1e-300)


def count_angles(
    atomic_numbers: NDArray[np.int64],
    positions: Array,
    cell: Array,
    pbc: NDArray[np.bool_],
    cutoff: float | NDArray[np.float64] = 2.5,
    width: float = 1.0,
    threads: int | None = None,
) -> Angles:
    """All angles at an atom between two neighbours closer than `cutoff` Å, in bins of `width` degrees.

    positions (T, N, 3) Å, cell (T, 3, 3) Å, pbc (3,); a cutoff (K, K) is one for each pair of elements, ascending.
    Every periodic image is a neighbour of its own. Raises InputError when an atom has more than 256 neighbours.
    """
    bins = round(180 / width)
    if bins < 1 or abs(bins * width - 180) > 1e-6:
        raise InputError(f"bins of {width} degrees do not divide 180 degrees")
    elements, kind = np.unique(atomic_numbers, return_inverse=True)
    k = len(elements)
    cutoffs = np.broadcast_to(np.asarray(cutoff, dtype=np.float64), (k, k)).copy()
    lattice, inverse, extra = prepared(cell, pbc, float(cutoffs.max()))

    def counted(part: slice) -> NDArray[np.int64]:
        counts = np.zeros((k, k, k, bins), dtype=np.int64)
        for frame in range(part.start, part.stop):
            place = np.ascontiguousarray(positions[frame], dtype=np.float64)
            if not _angle_counts(
                place, lattice[frame], inverse[frame], pbc, extra[frame], kind, cutoffs, counts, width
            ):
                raise InputError(
                    f"an atom has more than {_MOST} neighbours within {cutoffs.max():g} Å; lower the cutoff"
                )
        return counts

    parts = over_frames(counted, len(positions), threads)
    return Angles(elements, width, np.sum(parts, axis=0), len(positions))


@cached(numba.njit, nogil=True, fastmath={"contract", "arcp", "nsz"})
def _angle_counts(
    positions: Array,
    lattice: Array,
    inverse: Array,
    pbc: NDArray[np.bool_],
    extra: NDArray[np.int64],
    kind: NDArray[np.int64],
    cutoffs: Array,
    counts: NDArray[np.int64],
    width: float,
) -> bool:  # pragma: no cover (compiled)
    """Adds the angles of one frame; false when an atom has too many neighbours."""
    n = len(positions)
    bins = counts.shape[3]
    fractional = fractional_coordinates(positions, inverse)
    vectors = np.empty((_MOST, 3))
    ends = np.empty(_MOST, np.int64)
    squared = np.empty(n)
    p0, p1, p2 = 1.0 if pbc[0] else 0.0, 1.0 if pbc[1] else 0.0, 1.0 if pbc[2] else 0.0
    a00, a01, a02 = lattice[0, 0], lattice[0, 1], lattice[0, 2]
    a10, a11, a12 = lattice[1, 0], lattice[1, 1], lattice[1, 2]
    a20, a21, a22 = lattice[2, 0], lattice[2, 1], lattice[2, 2]
    longest = cutoffs.max() ** 2
    for i in range(n):
        found = 0
        f0, f1, f2 = fractional[0, i], fractional[1, i], fractional[2, i]
        for s0 in range(-extra[0], extra[0] + 1):
            for s1 in range(-extra[1], extra[1] + 1):
                for s2 in range(-extra[2], extra[2] + 1):
                    for j in range(n):
                        d0, d1, d2 = fractional[0, j] - f0, fractional[1, j] - f1, fractional[2, j] - f2
                        d0 -= p0 * np.floor(d0 + 0.5) - s0
                        d1 -= p1 * np.floor(d1 + 0.5) - s1
                        d2 -= p2 * np.floor(d2 + 0.5) - s2
                        x = d0 * a00 + d1 * a10 + d2 * a20
                        y = d0 * a01 + d1 * a11 + d2 * a21
                        z = d0 * a02 + d1 * a12 + d2 * a22
                        squared[j] = x * x + y * y + z * z
                    for j in range(n):
                        if squared[j] >= longest or (i == j and s0 == 0 and s1 == 0 and s2 == 0):
                            continue
                        length = np.sqrt(squared[j])
                        if length >= cutoffs[kind[i], kind[j]]:
                            continue
                        if found == _MOST:
                            return False
                        d0, d1, d2 = fractional[0, j] - f0, fractional[1, j] - f1, fractional[2, j] - f2
                        d0 -= p0 * np.floor(d0 + 0.5) - s0
                        d1 -= p1 * np.floor(d1 + 0.5) - s1
                        d2 -= p2 * np.floor(d2 + 0.5) - s2
                        vectors[found, 0] = (d0 * a00 + d1 * a10 + d2 * a20) / length
                        vectors[found, 1] = (d0 * a01 + d1 * a11 + d2 * a21) / length
                        vectors[found, 2] = (d0 * a02 + d1 * a12 + d2 * a22) / length
                        ends[found] = kind[j]
                        found += 1
        for p in range(found):
            for q in range(p + 1, found):
                dot = vectors[p, 0] * vectors[q, 0] + vectors[p, 1] * vectors[q, 1] + vectors[p, 2] * vectors[q, 2]
                angle = np.degrees(np.arccos(min(1.0, max(-1.0, dot))))
                place = min(int(angle / width), bins - 1)
                a, b = min(ends[p], ends[q]), max(ends[p], ends[q])
                counts[kind[i], a, b, place] += 1
    return True
