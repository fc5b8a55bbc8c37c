"""Norms of vector features and the gated equivariant block against their definitions."""

from __future__ import annotations

import pytest
import torch

from fireassay.nn.vectors import GatedEquivariant, norms


def vectors(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_norms(epsilon):
    v = vectors()
    torch.testing.assert_close(norms(v, epsilon), (torch.linalg.vector_norm(v, dim=1) ** 2 + epsilon).sqrt())
    assert torch.autograd.gradgradcheck(lambda x: norms(x, epsilon), v.requires_grad_())


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_the_gradient_of_a_vector_that_vanishes_is_zero(epsilon):
    v = torch.zeros(1, 3, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(norms(v, epsilon).sum(), v, create_graph=True)
    assert (gradient == 0).all()
    (second,) = torch.autograd.grad(gradient.sum() + v.sum(), v)
    assert torch.isfinite(second).all()


def test_the_gated_block():
    block = GatedEquivariant(5, 2, 0.0, True, torch.Generator().manual_seed(1)).double()
    s, v = vectors(2)[:, 0], vectors(3)
    scalars, gated = block(s, v)
    context = block.context(torch.cat([s, torch.linalg.vector_norm(v @ block.measured.weight.T, dim=1)], 1))
    torch.testing.assert_close(scalars, context[:, :2])
    assert block.gated is not None
    torch.testing.assert_close(gated, context[:, None, 2:] * (v @ block.gated.weight.T))


def test_the_last_block_has_scalars_only():
    block = GatedEquivariant(5, 1, 1e-6, False, torch.Generator().manual_seed(1)).double()
    scalars, gated = block(vectors(2)[:, 0], vectors(3))
    assert scalars.shape == (4, 1)
    assert gated is None
    assert block.gated is None
