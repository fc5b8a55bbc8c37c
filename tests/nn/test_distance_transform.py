"""Distance transforms: limits, monotony, and the value of the published formula."""

from __future__ import annotations

import pytest
import torch
from ase.data import covalent_radii

from fireassay.nn.distance_transform import AgnesiTransform, SoftTransform

DISTANCES = torch.linspace(0.05, 8.0, 200, dtype=torch.float64)
CARBON, OXYGEN = torch.full((200,), 6), torch.full((200,), 8)


def test_agnesi_falls_from_one_to_zero():
    y = AgnesiTransform().to(torch.float64)(DISTANCES, CARBON, OXYGEN)
    assert (y.diff() < 0).all()
    assert y[0] > 0.9
    assert y[-1] < 0.2
    s = 3.0 / ((covalent_radii[6] + covalent_radii[8]) / 2)
    expected = 1 / (1 + 1.0805 * s**0.9183 / (1 + s ** (0.9183 - 4.5791)))
    got = AgnesiTransform().to(torch.float64)(torch.tensor([3.0]).double(), CARBON[:1], OXYGEN[:1])
    assert got.item() == pytest.approx(expected, rel=1e-6)
    assert torch.isfinite(AgnesiTransform()(torch.zeros(1), CARBON[:1], OXYGEN[:1])).all()


def test_soft_is_the_distance_beyond_the_radii_and_level_below():
    total = covalent_radii[6] + covalent_radii[8]
    y = SoftTransform().to(torch.float64)(DISTANCES, CARBON, OXYGEN)
    assert y[0].item() == pytest.approx(0.75 * total, rel=1e-2)
    assert y[-1].item() == pytest.approx(8.0, rel=1e-6)
    middle = torch.tensor([(3 / 4 + 4 / 3) / 2 * total], dtype=torch.float64)
    got = SoftTransform().to(torch.float64)(middle, CARBON[:1], OXYGEN[:1])
    assert got.item() == pytest.approx((0.75 * total + middle.item()) / 2, rel=1e-6)


@pytest.mark.parametrize("kind", [AgnesiTransform, SoftTransform])
def test_pairs_have_no_order_and_two_derivatives(kind):
    transform = kind().to(torch.float64)
    x = torch.tensor([0.7, 1.4, 3.0], dtype=torch.float64, requires_grad=True)
    a, b = torch.tensor([6, 8, 1]), torch.tensor([8, 1, 26])
    assert transform(x, a, b).equal(transform(x, b, a))
    assert torch.autograd.gradgradcheck(lambda d: transform(d, a, b), (x,))
