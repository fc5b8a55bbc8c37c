"""Nearest training atoms in descriptor space: exact with pruning, or by FAISS.

Descriptors of one kind of atom in one kind of environment lie close together, so most of a training set is ruled out
without looking: points are sorted into clusters, and within a cluster by the distance r to its centre. By the triangle
inequality no point of a cluster is nearer to a query at distance d from the centre than d - max r, and only points with
d - w <= r <= d + w can be within w. For the 13 500 atoms of 3BPA that leaves about 3 % of them.
"""

from __future__ import annotations

from typing import Literal, Protocol

import faiss
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Index = Literal["auto", "exact", "flat", "hnsw"]
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

HNSW = (32, 40, 16)  # M, efConstruction, efSearch of LTAU-FF
LARGE = 200_000  # points from which `auto` searches approximately
FAR = np.float32(3e38)
MANY = 256  # queries from which threads are worth their start
SLACK = np.float32(1 + 1e-5)  # of bounds computed in float32


class Search(Protocol):
    """Squared distances (N, k), ascending, and rows (N, k) of the k nearest of the points that it holds."""

    def search(self, queries: Floats, k: int, /) -> tuple[Floats, Rows]:
        """queries (N, D), contiguous."""
        ...


def build(points: Floats, kind: Index) -> Search:
    """A search among points (A, D): `exact` by clusters, FAISS `flat` or `hnsw`, or `auto`: exact unless very many."""
    if kind == "exact" or (kind == "auto" and len(points) < LARGE):
        return Clusters(points)
    if kind == "flat":
        index = faiss.IndexFlatL2(points.shape[1])
    else:
        links, construction, search = HNSW
        index = faiss.IndexHNSWFlat(points.shape[1], links)
        index.hnsw.efConstruction, index.hnsw.efSearch = construction, search
    index.add(points)  # type: ignore[call-arg]
    return index  # type: ignore[return-value]


class Clusters:
    """Exact search (to float32 rounding) among points (A, D), sorted into about sqrt(A) clusters by k-means."""

    def __init__(self, points: Floats) -> None:
        self.origin = points.mean(0)
        shifted = np.ascontiguousarray(points - self.origin)
        count = max(int(np.sqrt(len(points))), 1)
        means = faiss.Kmeans(points.shape[1], count, niter=10, seed=0, min_points_per_centroid=1)
        means.train(shifted)
        centres = np.ascontiguousarray(means.centroids, dtype=np.float32)
        cluster = means.index.search(shifted, 1)[1][:, 0]  # type: ignore[union-attr]
        distance = np.linalg.norm(shifted - centres[cluster], axis=1).astype(np.float32)
        self.rows = np.lexsort((distance, cluster)).astype(np.int64)
        self.starts = np.searchsorted(cluster[self.rows], np.arange(count + 1)).astype(np.int64)
        self.points, self.distances = np.ascontiguousarray(shifted[self.rows]), distance[self.rows]
        self.centres = np.ascontiguousarray(centres.T)  # (D, C)
        last = np.maximum(self.starts[1:] - 1, 0)
        self.radii = np.where(np.diff(self.starts) > 0, self.distances[last], -FAR).astype(np.float32)

    def search(self, queries: Floats, k: int, /) -> tuple[Floats, Rows]:
        """Squared distances (N, k), ascending, and rows (N, k); -1 where there are fewer than k points."""
        shifted = np.ascontiguousarray(queries - self.origin, dtype=np.float32)
        kernel = _parallel if len(shifted) >= MANY else _serial
        square, found = kernel(shifted, self.centres, self.radii, self.starts, self.points, self.distances, k)
        return square, np.where(found >= 0, self.rows[found], -1)


def _search(queries, centres, radii, starts, points, distances, k):  # type: ignore[no-untyped-def] # pragma: no cover
    n, depth = queries.shape
    count = centres.shape[1]
    square = np.empty((n, k), np.float32)
    found = np.empty((n, k), np.int64)
    for i in prange(n):
        to_centre = np.zeros(count, np.float32)
        for d in range(depth):
            for c in range(count):
                step = centres[d, c] - queries[i, d]
                to_centre[c] += step * step
        nearest = 0
        for c in range(count):
            to_centre[c] = np.sqrt(to_centre[c])
            if to_centre[c] < to_centre[nearest]:
                nearest = c
        best = square[i]
        rows = found[i]
        best[:] = FAR
        rows[:] = -1
        worst = FAR
        for turn in range(-1, count):
            c = nearest if turn < 0 else turn
            if turn >= 0 and (c == nearest or to_centre[c] - radii[c] > worst):
                continue
            first, last = starts[c], starts[c + 1]
            if worst < FAR:
                here = distances[starts[c] : starts[c + 1]]
                first = starts[c] + np.searchsorted(here, to_centre[c] - worst)
                last = starts[c] + np.searchsorted(here, to_centre[c] + worst)
            for p in range(first, last):
                total = np.float32(0)
                for d in range(depth):
                    step = points[p, d] - queries[i, d]
                    total += step * step
                if total < best[k - 1]:
                    place = k - 1
                    while place > 0 and best[place - 1] > total:
                        best[place] = best[place - 1]
                        rows[place] = rows[place - 1]
                        place -= 1
                    best[place] = total
                    rows[place] = p
                    if best[k - 1] < FAR:
                        worst = np.sqrt(best[k - 1]) * SLACK
    return square, found


_FAST = {"reassoc", "contract", "nsz"}
_serial = njit(fastmath=_FAST, nogil=True)(_search)
_parallel = njit(parallel=True, fastmath=_FAST)(_search)
