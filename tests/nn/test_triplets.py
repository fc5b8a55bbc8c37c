"""The sum over triplets against an explicit list of them, and its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial.legendre import legval
from torch import Tensor

from fireassay.data.graph import Graph, edge_vectors, from_structures
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.nn.convolution import edge_order
from fireassay.nn.edge_pairs import edge_pairs
from fireassay.nn.so3 import spherical_harmonics
from fireassay.nn.triplets import Triplets, triplet_sum


def structure(n: int, crystal: bool) -> Structure:
    rng = np.random.default_rng(n)
    positions = rng.uniform(0, 3.2, (n, 3))
    cell = np.array([[2.9, 0.0, 0.0], [0.7, 3.1, 0.0], [-0.4, 0.6, 3.3]])
    return Structure(rng.choice([1, 8], n), positions, *((cell, np.ones(3, bool)) if crystal else ()))


def triplets_of(graph: Graph) -> Triplets:
    order = edge_order(graph.centre, graph.neighbour, graph.n_atoms)
    return Triplets.of(graph.centre, order.starts, edge_pairs(graph.centre, graph.neighbour, graph.shift))


def operands(graph: Graph, degrees: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(graph.n_edges, channels, generator=generator, dtype=torch.float64)
    radial = torch.randn(degrees, graph.n_edges // 2, channels, generator=generator, dtype=torch.float64)
    return features, radial, spherical_harmonics(degrees - 1, edge_vectors(graph))


def explicit(graph: Graph, features: Tensor, radial: Tensor, pair: Tensor) -> Tensor:
    """Loops over all pairs of edges, with angles from arccos and numpy's Legendre polynomials."""
    vectors = edge_vectors(graph).numpy()
    i, j, shift = graph.centre.tolist(), graph.neighbour.tolist(), graph.shift.numpy()
    out = torch.zeros_like(features)
    for e in range(graph.n_edges):
        for k in range(graph.n_edges):
            back = i[e] == j[k] and not (shift[e] + shift[k]).any()
            if i[k] != j[e] or back:
                continue
            u, v = -vectors[e], vectors[k]  # from j to i and from j to k
            cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
            for degree in range(len(radial)):
                weight = (2 * degree + 1) * legval(cosine, np.eye(degree + 1)[degree])
                out[e] += weight * radial[degree, pair[k]] * features[k]
    return out


@pytest.mark.parametrize("crystal", [False, True])
@pytest.mark.parametrize("implementation", ["reference", "fused"])
@pytest.mark.parametrize(("degrees", "channels"), [(1, 3), (4, 16), (7, 5)])
def test_it_is_the_sum_over_explicit_triplets(crystal, implementation, degrees, channels):
    graph = from_structures([structure(3 if crystal else 6, crystal), structure(2, False)], 3.0)
    triplets = triplets_of(graph)
    features, radial, harmonics = operands(graph, degrees, channels)
    expected = explicit(graph, features, radial, triplets.pairs.pair)
    assert expected.abs().max() > 1
    got = triplet_sum(features, radial, harmonics, triplets, implementation)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    single = [tensor.to(torch.float32) for tensor in (features, radial, harmonics)]
    rough = triplet_sum(*single, triplets, implementation)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), expected, rtol=0, atol=2e-6 * expected.abs().max().item())


def test_an_image_of_the_target_atom_is_another_atom():
    """In a cell with one atom every neighbour is an image of it; only the reverse edge is left out."""
    graph = from_structures([Structure(np.array([1]), np.zeros((1, 3)), np.eye(3) * 2.0, np.ones(3, bool))], 2.5)
    triplets = triplets_of(graph)
    features, radial, harmonics = torch.ones(6, 1).double(), torch.ones(1, 3, 1).double(), torch.ones(6, 1).double()
    assert triplet_sum(features, radial, harmonics, triplets).tolist() == [[5.0]] * 6


def test_derivatives():
    """Gradients and their gradients, also where the first ones are only asked for some factors."""
    graph = from_structures([structure(4, False)], 3.0)
    triplets = triplets_of(graph)
    factors = [factor.requires_grad_() for factor in operands(graph, 3, 8)]

    def fused(*given):
        return triplet_sum(*given, triplets, "fused")

    assert torch.autograd.gradcheck(fused, factors)
    assert torch.autograd.gradgradcheck(fused, factors)
    assert torch.autograd.gradgradcheck(lambda x, y: fused(x, factors[1].detach(), y), (factors[0], factors[2]))


def test_third_derivatives_are_those_of_the_reference():
    graph = from_structures([structure(4, False)], 3.0)
    triplets = triplets_of(graph)
    results = []
    for implementation in ("reference", "fused"):
        factors = [factor.requires_grad_() for factor in operands(graph, 3, 8)]
        value = triplet_sum(*factors, triplets, implementation).square().sum()
        for _ in range(3):
            gradients = torch.autograd.grad(value, factors, create_graph=True)
            value = sum((g * torch.sin(f)).sum() for g, f in zip(gradients, factors, strict=True))
        results.append(value)
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=0)


@pytest.mark.parametrize("bend", [0.0, 1e-7, 1e-3])
def test_collinear_triplets_are_smooth(bend):
    """Energy-like sums over a nearly straight chain have finite, right first and second derivatives."""
    chain = Structure(np.array([1, 8, 1]), np.array([[-1.0, bend, 0.0], [0.0, 0.0, 0.0], [1.1, 0.0, 0.0]]))
    graph = from_structures([chain], 1.5)
    triplets = triplets_of(graph)
    features, radial, _ = operands(graph, 7, 4)

    def energy(positions):
        harmonics = spherical_harmonics(6, edge_vectors(graph._replace(positions=positions)))
        return triplet_sum(features, radial, harmonics, triplets, "fused").sum()

    positions = graph.positions.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, positions)
    assert torch.autograd.gradgradcheck(energy, positions, atol=1e-4)


def test_wrong_shapes_and_edges_without_their_reverse_are_refused():
    graph = from_structures([structure(4, False)], 3.0)
    triplets = triplets_of(graph)
    features, radial, harmonics = operands(graph, 3, 8)
    with pytest.raises(InputError, match="radial weights"):
        triplet_sum(features, radial[:2], harmonics, triplets)
    order = edge_order(graph.centre[1:], graph.neighbour[1:], graph.n_atoms)
    with pytest.raises(InputError, match="reverse"):
        Triplets.of(graph.centre[1:], order.starts, edge_pairs(graph.centre[1:], graph.neighbour[1:], graph.shift[1:]))


def test_no_edges():
    graph = from_structures([Structure(np.array([1]), np.zeros((1, 3)))], 3.0)
    features, radial, harmonics = operands(graph, 3, 8)
    assert triplet_sum(features, radial, harmonics, triplets_of(graph)).shape == (0, 8)
