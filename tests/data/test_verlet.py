"""Verlet lists against lists made afresh, for molecules, slabs and crystals, while atoms move and cells change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fireassay.data.graph import edge_vectors, from_structures
from fireassay.data.structure import Structure
from fireassay.data.verlet import VerletList
from fireassay.errors import InputError


def systems(seed: int = 0) -> list[Structure]:
    rng = np.random.default_rng(seed)
    cell = np.array([[5.0, 0.4, 0], [0.9, 6.0, 0.2], [0, -0.7, 5.5]])
    found = []
    for pbc, n in (((True, True, True), 7), ((True, True, False), 5), ((False, False, False), 9), ((True,) * 3, 1)):
        box = np.where(np.array(pbc)[:, None], cell, 0.0)
        positions = rng.uniform(-2, 7, (n, 3))
        found.append(Structure(np.full(n, 18), positions, box, np.array(pbc)))
    return found


def edges(graph) -> set[tuple[int, ...]]:
    return {(int(i), int(j), *s) for i, j, s in zip(graph.centre, graph.neighbour, graph.shift.tolist(), strict=True)}


@pytest.mark.parametrize("together", [True, False])
def test_the_kept_list_is_the_fresh_one_while_atoms_walk(together: bool):
    rng = np.random.default_rng(1)
    chosen = systems() if together else systems()[1:2]
    listed = VerletList(3.0, 0.8)
    for step in range(25):
        graph = from_structures(chosen, 3.0)
        kept, length = listed.graph(*graph[:5])
        assert edges(kept) == edges(graph)
        assert len(kept.centre) == len(graph.centre)
        assert bool((kept.centre.diff() >= 0).all())
        torch.testing.assert_close(edge_vectors(kept).norm(dim=1), length)
        torch.testing.assert_close(kept.positions, graph.positions, rtol=0, atol=0)
        chosen = [
            Structure(s.atomic_numbers, s.positions + rng.normal(0, 0.05, s.positions.shape), s.cell, s.pbc)
            for s in chosen
        ]
        if step == 12:
            chosen = [Structure(s.atomic_numbers, s.positions, s.cell * 1.001, s.pbc) for s in chosen]
    assert 3 < listed.rebuilds < 20


def test_the_order_of_edges_does_not_depend_on_when_the_list_was_made():
    graph = from_structures(systems(), 3.0)
    old = VerletList(3.0, 2.0)
    old.graph(*graph[:5])
    moved = graph.positions + 0.3 * torch.randn(
        graph.positions.shape, generator=torch.Generator().manual_seed(0)
    ).clamp(-1, 1)
    first, _ = old.graph(*graph._replace(positions=moved)[:5])
    second, _ = VerletList(3.0, 0.1).graph(*graph._replace(positions=moved)[:5])
    assert old.rebuilds == 1
    for name in ("centre", "neighbour", "shift"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_other_atoms_or_periodicity_need_another_list():
    graph = from_structures(systems()[:1], 3.0)
    listed = VerletList(3.0)
    listed.graph(*graph[:5])
    open_box = graph._replace(pbc=torch.zeros_like(graph.pbc))
    found, _ = listed.graph(*open_box[:5])
    assert listed.rebuilds == 2
    assert not bool(found.shift.any())
    fewer = graph._replace(**{k: getattr(graph, k)[:3] for k in ("atomic_numbers", "positions", "structure")})
    assert listed.graph(*fewer[:5])[0].n_atoms == 3


def test_without_a_cutoff_there_are_no_edges():
    graph = from_structures(systems(), 3.0)
    found, length = VerletList(0.0).graph(*graph[:5])
    assert found.n_edges == len(length) == 0
    assert found.shift.shape == (0, 3)


def test_float32_positions():
    graph = from_structures(systems()[:3], 3.0, torch.float32)
    found, length = VerletList(3.0).graph(*graph[:5])
    assert found.positions.dtype == length.dtype == torch.float32
    assert found.n_edges > 10


def test_bad_input():
    with pytest.raises(InputError, match="the skin > 0"):
        VerletList(3.0, 0.0)
    graph = from_structures(systems()[:1], 3.0)
    graph.positions[2, 1] = torch.nan
    with pytest.raises(InputError, match="atom 2 is at"):
        VerletList(3.0).graph(*graph[:5])
