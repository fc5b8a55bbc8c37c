"""Averages of weights against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fireassay.training.averaging import Ema, Swa, replaced


@pytest.fixture
def walk() -> tuple[nn.Linear, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return nn.Linear(3, 2).double(), [torch.randn(2, 3, generator=generator, dtype=torch.float64) for _ in range(20)]


def test_ema_equals_torch(walk) -> None:
    model, steps = walk
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(model)  # torch starts from the first weights that it is shown
    ema = Ema(list(model.parameters()), 0.9, warm_up=False)
    for step in steps:
        with torch.no_grad():
            model.weight.copy_(step)
        ema.update()
        average.update_parameters(model)
    torch.testing.assert_close(ema.shadow[0], average.module.weight, rtol=1e-13, atol=1e-15)
    assert (ema.shadow[0] != model.weight).all()


def test_ema_warm_up_follows_young_weights(walk) -> None:
    model, steps = walk
    ema, expected = Ema(list(model.parameters()), 0.99, warm_up=True), model.weight.detach().clone()
    for number, step in enumerate(steps, start=1):
        with torch.no_grad():
            model.weight.copy_(step)
        ema.update()
        decay = min(0.99, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(ema.shadow[0], expected)


def test_swa_is_the_mean(walk) -> None:
    model, steps = walk
    swa = Swa(list(model.parameters()))
    for step in steps:
        with torch.no_grad():
            model.weight.copy_(step)
        swa.update()
    torch.testing.assert_close(swa.mean()[0], torch.stack(steps).mean(0))
    assert swa.count == 20


def test_replaced_restores_every_bit(walk) -> None:
    model, steps = walk
    before = model.weight.detach().clone()
    seen = []

    def interrupted() -> None:
        with replaced(list(model.parameters()), [steps[0], torch.zeros(2)]):
            seen.append(model.weight.detach().clone())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert torch.equal(seen[0], steps[0])
    assert torch.equal(model.weight, before)
