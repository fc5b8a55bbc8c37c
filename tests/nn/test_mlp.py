"""The scalar networks of both packages, and e3nn's constants."""

from __future__ import annotations

from math import sqrt

import numpy as np
import torch

from fireassay.nn.mlp import SILU_NORM, TANH_NORM, ScalarMLP


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_constants_are_e3nns_estimate_of_the_second_moment():
    z = torch.randn(1_000_000, generator=generator(), dtype=torch.float64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    for function, constant in ((torch.nn.functional.silu, SILU_NORM), (torch.tanh, TANH_NORM)):
        assert abs(function(z).square().mean().item() ** -0.5 - constant) < 1e-9
        exact = (weights / weights.sum()) @ function(torch.from_numpy(nodes)).square().numpy()
        assert abs(exact**-0.5 / constant - 1) < 2e-3


def test_layers_are_scaled_as_in_nequip():
    mlp = ScalarMLP((3, 5, 2), generator()).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    first, second = mlp.weights
    hidden = torch.nn.functional.silu(x @ first / sqrt(3))
    torch.testing.assert_close(mlp(x), hidden @ second * sqrt(2 / 5))


def test_layers_are_scaled_as_in_e3nn():
    mlp = ScalarMLP((3, 5, 2), generator(), SILU_NORM, distribution="normal").double()
    x = torch.randn(4, 3, dtype=torch.float64)
    first, second = mlp.weights
    hidden = SILU_NORM * torch.nn.functional.silu(x @ first / sqrt(3))
    torch.testing.assert_close(mlp(x), hidden @ second / sqrt(5))


def test_without_activation_it_is_linear_and_unscaled():
    mlp = ScalarMLP((3, 5, 2), generator(), activation=None).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(mlp(x), x @ mlp.weights[0] @ mlp.weights[1] / sqrt(15))


def test_nothing_in_nothing_out():
    assert (ScalarMLP((3, 5, 2), generator())(torch.zeros(4, 3)) == 0).all()


def test_weights_have_unit_variance_and_come_from_the_seed():
    for distribution in ("uniform", "normal"):
        a, b = (ScalarMLP((200, 300), generator(), distribution=distribution).weights[0] for _ in range(2))
        assert torch.equal(a, b)
        assert abs(a.var().item() - 1) < 0.02


def test_it_is_twice_differentiable():
    mlp = ScalarMLP((2, 4, 3), generator()).double()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(mlp, x)
