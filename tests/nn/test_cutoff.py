"""The envelope: its published form, and nothing left at the cutoff."""

from __future__ import annotations

import pytest
import torch

from fireassay.nn.cutoff import cosine_cutoff, polynomial_cutoff

CUTOFF = 5.0


@pytest.mark.parametrize("p", [1, 2, 3, 5, 6, 9])
def test_it_is_the_published_polynomial(p):
    d = torch.linspace(0, CUTOFF, 101, dtype=torch.float64)
    x = d / CUTOFF
    published = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    torch.testing.assert_close(polynomial_cutoff(d, CUTOFF, p), published, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_derivatives_vanish_exactly_at_and_beyond_the_cutoff(dtype):
    d = torch.tensor([4.0, CUTOFF, 5.1, 100.0], dtype=dtype, requires_grad=True)
    order = polynomial_cutoff(d, CUTOFF, 6)
    for _ in range(3):
        assert (order[1:] == 0).all()
        assert order[0] != 0
        (order,) = torch.autograd.grad(order.sum(), d, create_graph=True)


def test_it_falls_from_one():
    values = polynomial_cutoff(torch.linspace(0, CUTOFF, 200, dtype=torch.float64), CUTOFF, 6)
    assert values[0] == 1
    assert (values.diff() <= 1e-15).all()


def test_the_cosine_has_no_force_at_the_cutoff():
    d = torch.tensor([0.0, CUTOFF / 2, CUTOFF, 6.0], dtype=torch.float64, requires_grad=True)
    values = cosine_cutoff(d, CUTOFF)
    torch.testing.assert_close(values.detach(), torch.tensor([1, 0.5, 0, 0], dtype=torch.float64), rtol=0, atol=1e-15)
    (slope,) = torch.autograd.grad(values.sum(), d)
    expected = torch.tensor([0, -torch.pi / 2 / CUTOFF, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-15)
