"""The pruned search against brute force, on clouds where pruning works and where it cannot."""

from __future__ import annotations

import numpy as np
import pytest

from fireassay.uncertainty.search import Clusters, build

rng = np.random.default_rng(0)


def clustered(n: int, depth: int) -> np.ndarray:
    centres = 5 * rng.normal(size=(20, depth))
    return (centres[rng.integers(0, 20, n)] + 0.1 * rng.normal(size=(n, depth))).astype(np.float32)


CLOUDS = {
    "clustered": (clustered(3000, 16), clustered(200, 16)),
    "round": (rng.normal(size=(2000, 7)).astype(np.float32), rng.normal(size=(100, 7)).astype(np.float32)),
    "many": (clustered(1000, 4), clustered(400, 4)),
    "far": (clustered(2000, 5), (100 + rng.normal(size=(50, 5))).astype(np.float32)),
    "shifted": (clustered(2000, 5) + np.float32(300), clustered(50, 5) + np.float32(300)),
    "flat": (np.repeat(rng.normal(size=(40, 3)), 5, 0).astype(np.float32), rng.normal(size=(9, 3)).astype(np.float32)),
    "few": (rng.normal(size=(12, 3)).astype(np.float32), rng.normal(size=(9, 3)).astype(np.float32)),
    "one dimension": (rng.normal(size=(500, 1)).astype(np.float32), rng.normal(size=(20, 1)).astype(np.float32)),
}


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("kind", ["exact", "flat", "auto"])
def test_neighbours_are_those_of_brute_force(name, kind):
    points, queries = CLOUDS[name]
    square, rows = build(points, kind).search(queries, 10)
    distance = np.linalg.norm(queries[:, None].astype(np.float64) - points.astype(np.float64), axis=2)
    expected = np.sort(distance, axis=1)[:, :10]
    tolerance = 1e-3 * expected + 2e-3 * np.abs(points).max() * (kind == "flat")  # FAISS expands the square
    assert (np.abs(np.sqrt(np.maximum(square, 0)) - expected) <= tolerance + 1e-6).all()
    found = np.take_along_axis(distance, rows, axis=1)
    assert (np.abs(found - expected) <= tolerance + 1e-6).all()
    assert all(len(set(row)) == 10 for row in rows.tolist())


def test_more_neighbours_than_points():
    square, rows = Clusters(np.eye(3, dtype=np.float32)).search(np.zeros((1, 3), np.float32), 5)
    assert sorted(rows[0].tolist()) == [-1, -1, 0, 1, 2]
    assert square[0, :3] == pytest.approx([1, 1, 1])


def test_clusters_hold_every_point_once():
    points, _ = CLOUDS["clustered"]
    clusters = Clusters(points)
    assert sorted(clusters.rows.tolist()) == list(range(3000))
    for c, (a, b) in enumerate(zip(clusters.starts[:-1], clusters.starts[1:], strict=True)):
        assert (np.diff(clusters.distances[a:b]) >= 0).all()
        own = np.linalg.norm(clusters.points[a:b] - clusters.centres[:, c], axis=1)
        np.testing.assert_allclose(own, clusters.distances[a:b], rtol=1e-3, atol=1e-4)
