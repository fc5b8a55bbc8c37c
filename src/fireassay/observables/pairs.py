"""Distances between atoms: radial distribution functions, coordination numbers, densities of pair distances.

| symbol | code | |
|---|---|---|
| r, Δr | centres of the bins, `width` | Å |
| N_a, ρ_b | numbers of atoms of a kind, N_b / V | 1, 1/Å^3 |
| g_ab(r) | `Pairs.distribution` | 1 |
| n_ab(r) | `Pairs.coordination` | 1 |
| h(r) | `Pairs.density` | 1/Å |

g_ab(r) = V / (N_a N_b) ⟨Σ_i Σ_{j≠i} δ(r - r_ij)⟩ / (4π r²), all periodic images included, so that an ideal gas has 1
(1 - 1/N for a = b) everywhere. The volume of a shell is that of the bin, 4π/3 (r₂³ - r₁³).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import numba
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from fireassay.errors import InputError
from fireassay.kernel_cache import cached
from fireassay.threads import available

Array = NDArray[np.float64]
_BLOCK: Final = 512  # atoms whose distances from one atom are computed before they are counted
_FRAMES: Final = 8  # frames of one piece of work
Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Counts of distances, to be added up over frames, blocks and replicas of one system.

    `elements` (K,) are atomic numbers, ascending, `numbers` (K,) how many atoms of each. `counts` (P, B) holds for each
    pair of elements a <= b, in the order of `kinds`, the pairs of atoms at each distance, each pair once, added up over
    `frames` frames; in `weighted` each frame counts by its volume in Å^3.
    """

    elements: NDArray[np.int64]
    numbers: NDArray[np.int64]
    width: float
    counts: NDArray[np.int64]
    weighted: Array
    frames: int

    @property
    def kinds(self) -> list[tuple[int, int]]:
        """The pairs of elements, as rows of `elements`."""
        k = len(self.elements)
        return [(a, b) for a in range(k) for b in range(a, k)]

    @property
    def names(self) -> list[str]:
        """The pairs of elements, as Li-P."""
        symbols = [chemical_symbols[z] for z in self.elements.tolist()]
        return [f"{symbols[a]}-{symbols[b]}" for a, b in self.kinds]

    @property
    def distance(self) -> Array:
        """The centres (B,) of the bins in Å."""
        return (np.arange(self.counts.shape[1]) + 0.5) * self.width

    def distribution(self) -> tuple[Array, Array]:
        """g(r) of all pairs (B,), and of each kind (P, B), zero for a kind that has a single atom."""
        edges = np.arange(self.counts.shape[1] + 1) * self.width
        shell = 4 / 3 * np.pi * np.diff(edges**3) * max(self.frames, 1)
        n = self.numbers.astype(np.float64)
        ideal = np.array([n[a] * n[b] / (2 if a == b else 1) for a, b in self.kinds])  # pairs, each once, times V
        total = self.weighted.sum(0) / (shell * n.sum() ** 2 / 2)
        return total, self.weighted / (shell * ideal[:, None])

    def coordination(self) -> Array:
        """n_ab(r) (K, K, B): how many atoms of element b an atom of element a has up to the outer edge of each bin."""
        k = len(self.elements)
        found = np.zeros((k, k, self.counts.shape[1]))
        for row, (a, b) in enumerate(self.kinds):
            summed = np.cumsum(self.counts[row]) / max(self.frames, 1)
            found[a, b] = summed * (2 if a == b else 1) / self.numbers[a]
            found[b, a] = summed * (2 if a == b else 1) / self.numbers[b]
        return found

    def density(self) -> Array:
        """h(r) (B,) in 1/Å: the probability density of the distance of a pair, of those within the range."""
        counts = self.counts.sum(0).astype(np.float64)
        return counts / max(counts.sum() * self.width, 1e-300)


def count_pairs(
    atomic_numbers: NDArray[np.int64],
    positions: Array,
    cell: Array,
    pbc: NDArray[np.bool_],
    reach: float,
    width: float,
    threads: int | None = None,
) -> Pairs:
    """All distances up to `reach` Å in bins of `width` Å: positions (T, N, 3) Å, cell (T, 3, 3) Å, pbc (3,).

    Every periodic image within reach counts. The range is cut to a whole number of bins. Raises InputError when reach
    and width leave no bin, or a cell has no volume in a periodic direction.
    """
    bins = math.floor(reach / width + 1e-9)
    if bins < 1:
        raise InputError(f"distances up to {reach} Å in bins of {width} Å; needs a positive width below the range")
    elements, kind = np.unique(atomic_numbers, return_inverse=True)
    lattice, inverse, extra = prepared(cell, pbc, bins * width)
    k = len(elements)

    def counted(part: slice) -> tuple[NDArray[np.int64], Array]:
        counts = np.zeros((k * k, bins), dtype=np.int64)
        weighted = np.zeros((k * k, bins))
        for frame in range(part.start, part.stop):
            one = _pair_counts(
                np.ascontiguousarray(positions[frame], dtype=np.float64), lattice[frame], inverse[frame], pbc,
                extra[frame], kind, k, bins, width,
            )  # fmt: skip
            counts += one
            weighted += one * abs(float(np.linalg.det(lattice[frame])))
        return counts, weighted

    parts = over_frames(counted, len(positions), threads)
    square = np.sum([part[0] for part in parts], axis=0).reshape(k, k, bins)
    volume = np.sum([part[1] for part in parts], axis=0).reshape(k, k, bins)
    rows = [(a, b) for a in range(k) for b in range(a, k)]

    def folded(table: NDArray) -> NDArray:
        return np.stack([table[a, b] + (table[b, a] if a != b else 0) for a, b in rows])

    numbers = np.bincount(kind, minlength=k)
    return Pairs(elements, numbers, width, folded(square), folded(volume), len(positions))


def prepared(cell: Array, pbc: NDArray[np.bool_], reach: float) -> tuple[Array, Array, NDArray[np.int64]]:
    """Lattices (T, 3, 3) completed where nothing is periodic, their inverses, and (T, 3) how many further images of an
    atom, beyond the nearest, can be within reach along each direction.

    In fractional coordinates a vector of length r has components of at most r / h, with h the distance of two opposite
    faces; the nearest image along a direction lies within half a cell, so there are ceil(r/h - 1/2) further ones.
    """
    lattice = np.where(pbc[:, None], cell, np.eye(3))
    if not (np.abs(np.linalg.det(lattice)) > 1e-9).all():
        raise InputError(
            f"the cell {cell[0].tolist()} spans no volume with pbc {pbc.tolist()}; needs one for distances"
        )
    inverse = np.linalg.inv(lattice)
    heights = 1 / np.linalg.norm(inverse, axis=1)  # (T, 3)
    extra = np.where(pbc, np.ceil(reach / heights - 0.5 - 1e-12), 0).astype(np.int64)
    return lattice, inverse, np.maximum(extra, 0)


def over_frames(function: Callable[[slice], Part], n_frames: int, threads: int | None = None) -> list[Part]:
    """The results of `function` for slices of the frames, in their order, on as many threads as this job may use.

    Slices are the same whatever the number of threads, so that sums of the results are, too, to the last bit.
    """
    parts = [slice(start, min(start + _FRAMES, n_frames)) for start in range(0, n_frames, _FRAMES)]
    count = min(threads or available().count, len(parts))
    if count <= 1:
        return [function(part) for part in parts]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, parts))


@cached(numba.njit, nogil=True)
def fractional_coordinates(positions: Array, inverse: Array) -> Array:  # pragma: no cover (compiled)
    """Positions (n, 3) in units of the lattice, (3, n); inverse (3, 3) is that of the lattice."""
    n = len(positions)
    found = np.empty((3, n))
    for i in range(n):
        for k in range(3):
            found[k, i] = (
                positions[i, 0] * inverse[0, k] + positions[i, 1] * inverse[1, k] + positions[i, 2] * inverse[2, k]
            )
    return found


@cached(numba.njit, nogil=True, fastmath={"contract", "arcp", "nsz"})
def _pair_counts(
    positions: Array,
    lattice: Array,
    inverse: Array,
    pbc: NDArray[np.bool_],
    extra: NDArray[np.int64],
    kind: NDArray[np.int64],
    kinds: int,
    bins: int,
    width: float,
) -> NDArray[np.int64]:  # pragma: no cover (compiled)
    """Distances (kinds², bins) of one frame, row kind_i * kinds + kind_j, each pair of atoms and images once."""
    n = len(positions)
    counts = np.zeros((kinds * kinds, bins), np.int64)
    fractional = fractional_coordinates(positions, inverse)
    squared = np.empty(_BLOCK)
    reach = bins * width
    limit, per_width = reach * reach, 1.0 / width
    periodic = pbc[0] or pbc[1] or pbc[2]
    p0, p1, p2 = 1.0 if pbc[0] else 0.0, 1.0 if pbc[1] else 0.0, 1.0 if pbc[2] else 0.0
    single = extra[0] == 0 and extra[1] == 0 and extra[2] == 0
    a00, a01, a02 = lattice[0, 0], lattice[0, 1], lattice[0, 2]
    a10, a11, a12 = lattice[1, 0], lattice[1, 1], lattice[1, 2]
    a20, a21, a22 = lattice[2, 0], lattice[2, 1], lattice[2, 2]
    for i in range(n):
        row = kind[i] * kinds
        f0, f1, f2 = fractional[0, i], fractional[1, i], fractional[2, i]
        for start in range(i + 1, n, _BLOCK):
            size = min(_BLOCK, n - start)
            for s0 in range(-extra[0], extra[0] + 1):
                for s1 in range(-extra[1], extra[1] + 1):
                    for s2 in range(-extra[2], extra[2] + 1):
                        for m in range(size):
                            d0 = fractional[0, start + m] - f0
                            d1 = fractional[1, start + m] - f1
                            d2 = fractional[2, start + m] - f2
                            if periodic:
                                d0 -= p0 * np.floor(d0 + 0.5) - s0
                                d1 -= p1 * np.floor(d1 + 0.5) - s1
                                d2 -= p2 * np.floor(d2 + 0.5) - s2
                            x = d0 * a00 + d1 * a10 + d2 * a20
                            y = d0 * a01 + d1 * a11 + d2 * a21
                            z = d0 * a02 + d1 * a12 + d2 * a22
                            squared[m] = x * x + y * y + z * z
                        for m in range(size):
                            if squared[m] < limit:
                                place = int(np.sqrt(squared[m]) * per_width)
                                if place < bins:
                                    counts[row + kind[start + m], place] += 1
        if not single:  # the atom's own images, one of each opposite pair
            for s0 in range(extra[0] + 2):
                for s1 in range(-extra[1] - 1, extra[1] + 2):
                    for s2 in range(-extra[2] - 1, extra[2] + 2):
                        if s0 == 0 and (s1 < 0 or (s1 == 0 and s2 <= 0)):
                            continue
                        if (s0 and not pbc[0]) or (s1 and not pbc[1]) or (s2 and not pbc[2]):
                            continue
                        x = s0 * a00 + s1 * a10 + s2 * a20
                        y = s0 * a01 + s1 * a11 + s2 * a21
                        z = s0 * a02 + s1 * a12 + s2 * a22
                        place = int(np.sqrt(x * x + y * y + z * z) * per_width)
                        if place < bins:
                            counts[row + kind[i], place] += 1
    return counts


def first_minimum(distance: Array, g: Array) -> float | None:
    """The first minimum in Å of a radial distribution function (B,) after its first peak above 1; None without one.

    g is smoothed by a running mean over 0.15 Å, so that noise makes no minimum.
    """
    width = distance[1] - distance[0] if len(distance) > 1 else 1.0
    span = max(1, round(0.15 / width) // 2 * 2 + 1)
    smooth = np.convolve(g, np.full(span, 1 / span), mode="same")
    above = np.flatnonzero(smooth > 1)
    if not len(above):
        return None
    peak = int(above[0])
    while peak + 1 < len(smooth) and smooth[peak + 1] >= smooth[peak]:
        peak += 1
    low = peak
    while low + 1 < len(smooth) and smooth[low + 1] < smooth[low]:
        low += 1
    return float(distance[low]) if low + 1 < len(smooth) - span else None


def usable_reach(cells: Sequence[Array] | Array, pbc: NDArray[np.bool_], wanted: float | None = None) -> float:
    """How far g(r) is looked at: min((shortest cell edge - 1 Å) / 2, 10 Å) as in EGraFFBench unless `wanted` Å.

    10 Å where nothing is periodic. Raises InputError when `wanted` exceeds half the shortest distance of opposite
    faces: beyond, an atom would see images of what it has seen.
    """
    if not pbc.any():
        return 10.0 if wanted is None else wanted
    cell = np.asarray(cells, dtype=np.float64).reshape(-1, 3, 3)
    if wanted is None:
        edge = float(np.linalg.norm(cell[:, pbc], axis=2).min())
        return max(min((edge - 1) / 2, 10.0), 0.5)
    lattice = np.where(pbc[:, None], cell, np.eye(3))
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=1)
    half = float(heights[:, pbc].min()) / 2
    if wanted > half + 1e-9:
        raise InputError(
            f"distances up to {wanted:g} Å were asked for in a cell whose opposite faces are {2 * half:.4g} Å apart; "
            f"ask for at most {half:.4g} Å, or start from a supercell"
        )
    return wanted
