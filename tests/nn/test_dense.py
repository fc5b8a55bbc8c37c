"""Dense layers: the distributions they promise, the same weights from the same seed."""

from __future__ import annotations

from math import sqrt

import pytest
import torch

from fireassay.nn.dense import dense


@pytest.mark.parametrize(
    ("initial", "deviation"),
    [
        ("xavier_uniform", 2 * sqrt(2 / 400)),
        ("xavier_normal", 2 * sqrt(2 / 400)),
        ("fan_in_uniform", 2 / sqrt(300 * 3)),
        ("zeros", 0.0),
    ],
)
def test_distributions(initial, deviation):
    layer = dense(300, 100, torch.Generator().manual_seed(0), initial=initial, gain=2.0)
    assert layer.weight.shape == (100, 300)
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert not layer.bias.any()


def test_orthogonal_rows():
    weight = dense(30, 10, torch.Generator().manual_seed(0), bias=False, initial="orthogonal").weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(10), rtol=0, atol=1e-5)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    one, two, three = (dense(4, 5, torch.Generator().manual_seed(seed)).weight for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(torch.get_rng_state(), before)
