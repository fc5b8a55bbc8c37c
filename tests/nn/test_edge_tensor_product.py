"""Depth-wise products of edges: by definition, by the kernels, and by their derivatives."""

from __future__ import annotations

import pytest
import torch

from fireassay.nn.edge_tensor_product import (
    EdgeCoupling,
    attended_product,
    attended_product_reference,
    edge_product,
    edge_product_dense,
    edge_product_reference,
    mixed_product,
    reaching,
)
from fireassay.nn.segment import Segments
from fireassay.nn.sized_features import SizedIrreps
from fireassay.nn.so3 import Irrep, Irreps, rotation_matrix, spherical_harmonics

N_EDGES, N_ATOMS, HEADS = 38, 6, 5
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6}


def parts(text: str, dtype: torch.dtype = torch.float64, n_edges: int = N_EDGES):
    """A coupling with the harmonics up to l = 2, features, harmonics, weights of pairs, and attention."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    sizes = SizedIrreps.parse(text)
    coupling = EdgeCoupling(sizes, Irreps.harmonics(2), sizes.irreps)
    features = tuple(random(n_edges, irrep.dim, n) for irrep, n in zip(*sizes, strict=True))
    matrices = [random(n, 5) for n in coupling.sizes_out.channels]
    weights = random(n_edges // 2, coupling.n_weights)
    return coupling, features, random(n_edges, 9), weights, matrices, random(n_edges, HEADS)


def segments(n_edges: int = N_EDGES) -> Segments:
    """Edges in no order; the last atom has none."""
    return Segments.of(torch.randint(0, N_ATOMS - 1, (n_edges,), generator=torch.Generator().manual_seed(1)), N_ATOMS)


def agree(left, right, dtype):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[dtype] * b.abs().max().item())


def compare(one, two, inputs, dtype):
    """Values, gradients and the gradients of gradients of two functions."""
    left, right = one(), two()
    agree(left, right, dtype)
    upper = [torch.randn_like(value) for value in right]
    plain = torch.autograd.grad(one(), inputs, upper)
    first, second = (torch.autograd.grad(f, inputs, upper, create_graph=True) for f in (left, right))
    agree(plain, second, dtype)
    agree(first, second, dtype)
    directions = [torch.randn_like(value) for value in second]
    agree(*(torch.autograd.grad(g, inputs, directions) for g in (first, second)), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("text", ["32x0e+16x1o+48x2e", "16x0e+16x0o+32x1e"])
def test_the_kernels_are_the_definition(text, dtype):
    torch.manual_seed(0)
    coupling, x, y, w, matrices, attention = parts(text, dtype)
    assert coupling._fits(y)

    def reference():
        return edge_product_reference(x, y, coupling, w.repeat_interleave(2, 0))

    compare(lambda: edge_product(x, y, coupling, w, 2), reference, [*x, y, w], dtype)
    compare(
        lambda: mixed_product(x, y, coupling, w, matrices, 2),
        lambda: [values @ matrix for values, matrix in zip(reference(), matrices, strict=True)],
        [*x, y, w, *matrices],
        dtype,
    )
    compare(
        lambda: attended_product(x, y, coupling, attention, segments()),
        lambda: attended_product_reference(x, y, coupling, attention, segments()),
        [*x, y, attention],
        dtype,
    )


@pytest.mark.parametrize("text", ["2x0e+3x1o+1x2e", "3x0e+2x0o+4x1e+1x3o", "2x0o"])
def test_all_paths_in_one_product_are_the_definition(text):
    torch.manual_seed(0)
    coupling, x, y, w, _, _ = parts(text)
    each = w.repeat_interleave(2, 0)
    compare(
        lambda: edge_product_dense(x, y, coupling, each),
        lambda: edge_product_reference(x, y, coupling, each),
        [*x, y, w],
        torch.float64,
    )
    agree(edge_product_dense(x, y, coupling, None), edge_product_reference(x, y, coupling, None), torch.float64)


def test_chunks_of_edges_make_no_difference():
    coupling, x, y, w, matrices, _ = parts("32x0e+16x1o+16x2e", n_edges=1000)
    whole = mixed_product(x, y, coupling, w, matrices, 2)
    ends = [
        mixed_product([t[s] for t in x], y[s], coupling, w[s.start // 2 :], matrices, 2) for s in [slice(900, 1000)]
    ]
    agree([value[900:] for value in whole], ends[0], torch.float64)


@pytest.mark.parametrize("text", ["2x0e+3x1o", "16x0e+16x1o"])
def test_second_derivatives(text):
    coupling, x, y, w, matrices, attention = parts(text, n_edges=4)
    matrices = [matrix[:, :2].detach().requires_grad_() for matrix in matrices]
    n = len(x)
    options = {"nondet_tol": 1e-12, "fast_mode": True}
    mixed = lambda y, w, *t: mixed_product(t[:n], y, coupling, w, t[n:], 2)  # noqa: E731
    assert torch.autograd.gradgradcheck(mixed, (y, w, *x, *matrices), **options)
    index = Segments.of(torch.tensor([1, 0, 1, 1]), 3)
    attend = lambda y, a, *t: attended_product(t, y, coupling, a, index)  # noqa: E731
    assert torch.autograd.gradgradcheck(attend, (y, attention, *x), **options)


def test_one_path_by_hand():
    """A vector times the harmonics of degree one: to 0e their inner product, to 1e their cross product."""
    sizes = SizedIrreps.parse("1x1o")
    coupling = EdgeCoupling(sizes, Irreps("1o"), [Irrep(0, 1), Irrep(1, 1)])
    x, y = torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor([[1.5, 0.2, 0.7]])
    weights = torch.tensor([[2.0, -1.0]])
    scalar, vector = edge_product((x.unsqueeze(2),), y, coupling, weights)
    torch.testing.assert_close(scalar.flatten(), 2.0 * (x * y).sum(1) / 3**0.5)
    cross = torch.linalg.cross(x[0], y[0]) / 2**0.5
    assert torch.allclose(vector.flatten(), cross) or torch.allclose(vector.flatten(), -cross)


def test_products_turn_with_their_factors():
    coupling, x, _, w, _, _ = parts("16x0e+16x1e+16x1o+16x2e")
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    vectors = torch.randn(N_EDGES, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for matrix in (rotation, -rotation):
        turned = tuple(
            rotation_matrix(irrep, matrix) @ part for irrep, part in zip(coupling.sizes_in.irreps, x, strict=True)
        )
        before = edge_product(x, spherical_harmonics(2, vectors), coupling, w, 2)
        after = edge_product(turned, spherical_harmonics(2, vectors @ matrix.T), coupling, w, 2)
        expected = [
            rotation_matrix(irrep, matrix) @ v for irrep, v in zip(coupling.sizes_out.irreps, before, strict=True)
        ]
        agree(after, expected, torch.float64)


def test_reaching():
    sizes = SizedIrreps.parse("4x0e+3x0o+2x1e+5x1o")
    assert reaching(sizes, Irreps.harmonics(1), [Irrep(0, 1)]) == SizedIrreps.parse("4x0e+5x1o")
    assert reaching(sizes, Irreps.harmonics(1), [Irrep(0, -1)]) == SizedIrreps.parse("3x0o+2x1e")
