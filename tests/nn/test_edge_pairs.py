"""Pairs of edges: found in molecules and in small cells, and weights shared within a pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fireassay.data.graph import Graph, edge_vectors, from_structures
from fireassay.data.structure import Structure
from fireassay.nn.convolution import Coupling, convolution, edge_order
from fireassay.nn.edge_pairs import edge_pairs
from fireassay.nn.so3 import Irreps, spherical_harmonics


def molecule() -> Structure:
    return Structure(np.full(9, 6), np.random.default_rng(0).normal(size=(9, 3)) * 1.5)


def crystal() -> Structure:
    """So small that two atoms are joined by many edges, and an atom to itself."""
    cell = np.array([[2.0, 0.1, 0.0], [0.3, 2.2, 0.0], [0.2, -0.4, 1.9]])
    return Structure(np.array([6, 8]), np.array([[0.1, 0, 0], [1.0, 1.1, 0.9]]), cell, np.ones(3, dtype=bool))


def graph(*structures: Structure) -> Graph:
    return from_structures(structures, 3.0)


@pytest.mark.parametrize("structures", [[molecule()], [crystal()], [molecule(), crystal(), molecule()]])
def test_every_edge_has_its_reverse(structures):
    g = graph(*structures)
    for guess in (None, edge_order(g.centre, g.neighbour, g.n_atoms).by_neighbour, torch.arange(g.n_edges)):
        pairs = edge_pairs(g.centre, g.neighbour, g.shift, guess)
        assert pairs is not None
        one, two = pairs.order.view(-1, 2).T
        assert torch.equal(one, pairs.first)
        assert torch.equal(g.centre[one], g.neighbour[two])
        assert torch.equal(g.neighbour[one], g.centre[two])
        assert torch.equal(g.shift[one], -g.shift[two])
        assert torch.equal(pairs.order.sort().values, torch.arange(g.n_edges))
        assert torch.equal(pairs.pair[pairs.order], torch.arange(g.n_edges) // 2)
        torch.testing.assert_close(edge_vectors(g)[one], -edge_vectors(g)[two])


def test_an_edge_without_its_reverse_leaves_no_pairs():
    g = graph(crystal())
    assert edge_pairs(g.centre[1:], g.neighbour[1:], g.shift[1:]) is None
    turned = torch.cat([g.shift[:1] + 7, g.shift[1:]])
    assert edge_pairs(g.centre, g.neighbour, turned) is None


def test_no_edges():
    empty = torch.zeros(0, dtype=torch.int64)
    pairs = edge_pairs(empty, empty, empty.view(0, 3))
    assert pairs is not None
    assert len(pairs.first) == 0


@pytest.mark.parametrize("channels", [16, 3])
@pytest.mark.parametrize("structures", [[molecule()], [crystal(), molecule()]])
def test_the_convolution_shares_weights_within_a_pair(structures, channels):
    """Value, first and second derivatives equal those with the weights written out for every edge."""
    g, generator = graph(*structures), torch.Generator().manual_seed(0)
    coupling = Coupling.of(Irreps("0e+1o"), Irreps.harmonics(2), Irreps("0e+1o+1e+2e"))
    pairs = edge_pairs(g.centre, g.neighbour, g.shift)
    shapes = [(g.n_atoms, 4, channels), (len(pairs.first), len(coupling.paths), channels)]
    features, weights = (torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)
    harmonics = spherical_harmonics(2, edge_vectors(g)).requires_grad_()
    seeds = torch.randn(g.n_atoms, coupling.irreps_out.dim, channels, generator=generator, dtype=torch.float64)

    def orders(shared: bool) -> list[torch.Tensor]:
        given = (weights, pairs) if shared else (weights[pairs.pair], None)
        out = convolution(features, harmonics, given[0], g.centre, g.neighbour, coupling, pairs=given[1])
        leaves = (features, harmonics, weights)
        first = torch.autograd.grad((out * seeds).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((f**3).sum() for f in first), leaves)
        return [out, *first, *second]

    for a, b in zip(orders(True), orders(False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)
