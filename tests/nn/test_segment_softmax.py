"""Softmax over the elements of each row, with an envelope."""

from __future__ import annotations

import pytest
import torch

from fireassay.nn.segment import Segments
from fireassay.nn.segment_softmax import segment_softmax


def test_softmax_is_that_of_torch_and_dies_with_its_envelope():
    index = torch.tensor([0, 0, 0, 2, 2])
    where = Segments.of(index, 4)
    logits = torch.randn(5, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    got = segment_softmax(logits, torch.ones(5, dtype=torch.float64), where)
    torch.testing.assert_close(got, torch.cat([logits[:3].softmax(0), logits[3:].softmax(0)]))
    envelope = torch.tensor([1.0, 0.0, 0.5, 0.0, 0.0], dtype=torch.float64)
    got = segment_softmax(logits, envelope, where)
    assert not got[[1, 3, 4]].any()
    torch.testing.assert_close(got[[0, 2]].sum(0), torch.ones(2, dtype=torch.float64))
    expected = logits[2].exp() * 0.5 / (logits[0].exp() + logits[2].exp() * 0.5)
    torch.testing.assert_close(got[2], expected)


@pytest.mark.parametrize("smallest", [1e-6, 1e-13, 1e-24, 1e-40, 0.0])
def test_softmax_of_a_vanishing_row_has_finite_derivatives(smallest):
    envelope = torch.tensor([smallest, smallest / 2], requires_grad=True)
    logits = torch.tensor([[40.0], [-40.0]], requires_grad=True)
    weights = segment_softmax(logits, envelope, Segments.of(torch.tensor([0, 0]), 1)) * envelope.unsqueeze(1)
    first = torch.autograd.grad(weights.sum(), (logits, envelope), create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in first), (logits, envelope))
    assert all(bool(g.isfinite().all()) for g in (weights, *first, *second))


def test_softmax_of_any_size():
    logits = torch.tensor([[1000.0], [999.0], [-1000.0]], dtype=torch.float64)
    got = segment_softmax(logits, torch.ones(3, dtype=torch.float64), Segments.of(torch.tensor([0, 0, 1]), 2))
    expected = torch.tensor([[1.0], [torch.e**-1]], dtype=torch.float64) / (1 + torch.e**-1)
    torch.testing.assert_close(got, torch.cat([expected, torch.ones(1, 1, dtype=torch.float64)]))
