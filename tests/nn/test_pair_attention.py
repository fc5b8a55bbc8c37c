"""Attention between neighbours against its definition by einsum, in every derivative, in both precisions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fireassay.nn.convolution import edge_order
from fireassay.nn.edge_pairs import edge_pairs
from fireassay.nn.pair_attention import AttentionEdges, attention_coefficients, attention_sum

CENTRE = torch.tensor([0, 0, 1, 1, 2, 2, 2, 4])
NEIGHBOUR = torch.tensor([1, 2, 0, 2, 0, 1, 4, 2])


def edges(paired: bool, n_atoms: int = 5) -> AttentionEdges:
    order = edge_order(CENTRE, NEIGHBOUR, n_atoms)
    pairs = edge_pairs(CENTRE, NEIGHBOUR, torch.zeros(len(CENTRE), 3, dtype=torch.int64), order.by_neighbour)
    assert pairs is not None
    return AttentionEdges.of(CENTRE, NEIGHBOUR, order, pairs if paired else None)


def tensors(paired: bool, heads: int, width: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(heads * width)
    shapes = [(5, heads, width)] * 3 + [(4 if paired else 8, heads, width)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("heads", "width"), [(1, 1), (4, 33), (3, 44), (2, 64)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_it_is_its_definition(paired, heads, width, dtype, tolerance):
    where = edges(paired)
    q, k, v, w = tensors(paired, heads, width, dtype)
    alpha = attention_coefficients(q, k, w, where)
    expected = torch.einsum("ehc,ehc,ehc->eh", q[CENTRE], k[NEIGHBOUR], w[where.pair])
    torch.testing.assert_close(alpha, expected, rtol=tolerance, atol=tolerance)
    out = attention_sum(alpha, v, where)
    summed = torch.zeros_like(v).index_add(0, CENTRE, expected.unsqueeze(2) * v[NEIGHBOUR])
    torch.testing.assert_close(out, summed, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_under_filters(paired, dtype):
    where = edges(paired)
    _, _, v, w = (t.detach() for t in tensors(paired, 2, 21))
    alpha = v[CENTRE, :, 0]
    expected = torch.zeros_like(v).index_add(0, CENTRE, alpha.unsqueeze(2) * v[NEIGHBOUR] * w[where.pair])
    got = attention_sum(alpha.to(dtype), v.to(dtype), where, w.to(dtype)).to(torch.float64)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_derivatives_under_filters():
    where, (_, _, v, w) = edges(True), tensors(True, 2, 5)
    alpha = v.detach()[CENTRE, :, 0].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda a, v, w: attention_sum(a, v, where, w), (alpha, v, w))


@pytest.mark.parametrize("paired", [True, False])
def test_derivatives_of_every_order(paired):
    where = edges(paired)

    def attention(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return attention_sum(attention_coefficients(q, k, w, where), v, where)

    given = tensors(paired, 2, 5)
    assert torch.autograd.gradcheck(attention, given)
    assert torch.autograd.gradgradcheck(attention, given)


def test_another_device_has_the_same_sums():
    """The plain sums that serve other devices, here by a dtype that the kernels do not take."""
    where = edges(True)
    q, k, v, w = (t.detach() for t in tensors(True, 2, 5))
    coarse = attention_sum(*(t.to(torch.bfloat16) for t in (attention_coefficients(q, k, w, where), v)), where)
    expected = attention_sum(attention_coefficients(q, k, w, where), v, where)
    torch.testing.assert_close(coarse.to(torch.float64), expected, rtol=0.05, atol=0.1)
    low = attention_coefficients(*(t.to(torch.bfloat16) for t in (q, k, w)), where).to(torch.float64)
    torch.testing.assert_close(low, attention_coefficients(q, k, w, where), rtol=0.05, atol=0.1)
