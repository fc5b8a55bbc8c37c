"""SiLU against torch's, at every order."""

from __future__ import annotations

import pytest
import torch

from fireassay.nn.activation import silu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_those_of_torch(dtype):
    x = torch.tensor([-200.0, -3.0, -0.0, 0.1, 5.0, 300.0], dtype=dtype)
    assert torch.equal(silu(x), torch.nn.functional.silu(x))


def test_derivatives():
    x = torch.linspace(-8, 8, 33, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(silu, x)
    assert torch.autograd.gradgradcheck(silu, x)


def test_derivatives_up_to_the_fourth_are_those_of_torch():
    results = []
    for function in (silu, torch.nn.functional.silu):
        x = torch.linspace(-6, 6, 25, dtype=torch.float64, requires_grad=True)
        value, out = function(x).sum(), []
        for _ in range(4):
            (slope,) = torch.autograd.grad(value, x, create_graph=True)
            out.append(slope)
            value = (slope * slope).sum()
        results.append(torch.stack(out))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_far_from_zero_every_derivative_is_finite():
    x = torch.tensor([-500.0, 500.0], requires_grad=True)
    (slope,) = torch.autograd.grad(silu(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    assert slope.tolist() == [0.0, 1.0]
    assert curvature.tolist() == [0.0, 0.0]
