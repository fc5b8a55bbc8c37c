"""Weighted harmonics against the definition, of edges and summed at centres, and all derivatives."""

from __future__ import annotations

import pytest
import torch

from fireassay.nn.segment import Segments
from fireassay.nn.so3 import Irreps
from fireassay.nn.weighted_harmonics import weighted_harmonics

HARMONICS = Irreps.harmonics(2)
CENTRES = Segments(torch.tensor([0] * 5 + [2] + [3] * 3), None, torch.tensor([0, 5, 5, 6, 9]))


def factors(channels, dtype=torch.float64, wanted=False):
    generator = torch.Generator().manual_seed(2)
    shapes = (9, HARMONICS.dim), (9, len(HARMONICS), channels)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(wanted) for shape in shapes]


@pytest.mark.parametrize("channels", [3, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [True, False])
def test_products_and_their_sums(channels, dtype, fused):
    harmonics, weights = factors(channels, dtype)
    expected = harmonics.unsqueeze(2) * weights[:, [0, 1, 1, 1, 2, 2, 2, 2, 2]]
    torch.testing.assert_close(weighted_harmonics(harmonics, weights, HARMONICS, fused=fused), expected)
    total = torch.zeros(4, HARMONICS.dim, channels, dtype=dtype).index_add(0, CENTRES.index, expected)
    torch.testing.assert_close(weighted_harmonics(harmonics, weights, HARMONICS, CENTRES, fused), total)


@pytest.mark.parametrize("centres", [None, CENTRES])
def test_first_and_second_derivatives(centres):
    def function(y, w):
        return weighted_harmonics(y, w, HARMONICS, centres)

    given = factors(2, wanted=True)
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


@pytest.mark.parametrize("centres", [None, CENTRES])
def test_third_derivatives_agree_with_the_definition(centres):
    results = []
    for fused in (True, False):
        given = factors(2, wanted=True)
        value = (weighted_harmonics(*given, HARMONICS, centres, fused) ** 3).sum()
        for _ in range(3):
            gradients = torch.autograd.grad(value, given, create_graph=True)
            value = sum((0.01 * gradient).sin().sum() for gradient in gradients)
        results.append(value.detach())
    torch.testing.assert_close(results[0], results[1])
