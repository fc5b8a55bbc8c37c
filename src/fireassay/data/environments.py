"""A cheap description of frames by their atoms' neighbourhoods, for maps, outliers and what lies between files.

Radial symmetry functions (Behler and Parrinello, Phys. Rev. Lett. 98, 146401, 2007) of each pair of elements, averaged
over the atoms of an element: no learning, no parameters of a potential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from fireassay.data.neighbours import neighbour_list
from fireassay.data.structure import Structure

CUTOFF: Final = 5.0  # Å
_FUNCTIONS: Final = 10
_FIRST: Final = 0.7  # Å
_ELEMENTS: Final = 10  # the most frequent ones are told apart


class Map(NamedTuple):
    """Frames in the plane of their two largest variations (K, 2), the shares of these, and distances to others (K,).

    `outlying` is the distance to the fifth nearest frame over its median.
    """

    points: NDArray[np.float64]
    shares: tuple[float, float]
    outlying: NDArray[np.float64]


def fingerprints(structures: Sequence[Structure]) -> NDArray[np.float64]:
    """One row (K, D) for each structure: radial functions by pairs of elements, and the share of each element."""
    counts = np.sum([np.bincount(s.atomic_numbers, minlength=119) for s in structures], axis=0)
    species = sorted(np.argsort(-counts)[: min(_ELEMENTS, int((counts > 0).sum()))].tolist())
    places = np.linspace(_FIRST, CUTOFF, _FUNCTIONS)
    width = places[1] - places[0]
    n = len(species)
    place_of = np.full(119, n)
    place_of[species] = np.arange(n)
    rows = []
    for s in structures:
        centre, neighbour, shift = neighbour_list(s, CUTOFF)
        vectors = s.positions[neighbour] + shift @ s.cell - s.positions[centre]
        distance = np.linalg.norm(vectors, axis=1)
        smooth = 0.5 * (np.cos(np.pi * distance / CUTOFF) + 1)
        values = np.exp(-(((distance[:, None] - places) / width) ** 2)) * smooth[:, None]
        kind = place_of[s.atomic_numbers]
        pair = kind[centre] * (n + 1) + kind[neighbour]
        sums = np.stack([np.bincount(pair, weights=v, minlength=(n + 1) ** 2) for v in values.T], axis=1)
        atoms = np.bincount(kind, minlength=n + 1)
        means = sums.reshape(n + 1, n + 1, -1) / np.maximum(atoms, 1)[:, None, None]
        rows.append(np.concatenate([means.ravel(), atoms / len(s)]))
    return np.array(rows)


def environment_map(features: NDArray[np.float64]) -> Map:
    """The plane of the two largest variations of standardised features, and how far each row lies from others."""
    spread = features.std(axis=0)
    used = features[:, spread > 1e-9] - features[:, spread > 1e-9].mean(axis=0)
    if not used.shape[1] or len(used) < 3:
        return Map(np.zeros((len(features), 2)), (0.0, 0.0), np.ones(len(features)))
    used = used / np.sqrt(np.mean(used.var(axis=0)))
    _, values, axes = np.linalg.svd(used, full_matrices=False)
    share = values**2 / np.sum(values**2)
    points = used @ axes[:2].T
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    distance = np.asarray(KDTree(used @ axes[:20].T).query(used @ axes[:20].T, k=min(6, len(used)))[0])[:, -1]
    middle = float(np.median(distance))
    outlying = distance / middle if middle > 0 else np.ones(len(used))
    return Map(points, (float(share[0]), float(share[1]) if len(share) > 1 else 0.0), outlying)


def nearest(features: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each row (K,) to the nearest of `others`, or, where these are itself, to the nearest other row."""
    itself = others is features
    found = np.asarray(KDTree(others).query(features, k=2 if itself else 1)[0])
    return found[:, 1] if itself else found.reshape(-1)
