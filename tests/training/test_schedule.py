"""The learning rate against torch's own schedulers, and parameter groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fireassay.errors import InputError
from fireassay.training.recipe import (
    Constant,
    Cosine,
    Exponential,
    Optimiser,
    ParameterGroup,
    Plateau,
    Recipe,
    Step,
)
from fireassay.training.schedule import Rate, make_optimiser, named_trainable, set_rate
from training.toy_frames import network

LR = 0.01


def torch_rates(scheduler: str, epochs: int, values: list[float] | None = None, **options: float) -> list[float]:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    schedule = getattr(torch.optim.lr_scheduler, scheduler)(optimiser, **options)
    rates = []
    for epoch in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step(*([] if values is None else [values[epoch]]))
    return rates


@pytest.mark.parametrize(
    ("schedule", "name", "options"),
    [
        (Exponential(factor=0.9), "ExponentialLR", {"gamma": 0.9}),
        (Step(factor=0.3, epochs=4), "StepLR", {"gamma": 0.3, "step_size": 4}),
        (Cosine(), "CosineAnnealingLR", {"T_max": 20, "eta_min": 1e-4}),
    ],
)
def test_closed_forms_equal_torch(schedule: object, name: str, options: dict) -> None:
    floor = options.get("eta_min", 0.0)
    rate = Rate(Recipe(epochs=20, optimiser=Optimiser(lr=LR), schedule=schedule, min_lr=floor))
    expected = torch_rates(name, 20, **options)
    assert [rate.at(epoch) for epoch in range(20)] == pytest.approx(expected, rel=1e-9)
    assert len(set(expected)) > 4


def test_plateau_equals_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    values = (1 / torch.arange(1, 61) + 0.2 * torch.rand(60, generator=generator)).tolist()
    rate = Rate(Recipe(optimiser=Optimiser(lr=LR), schedule=Plateau(factor=0.5, patience=3), min_lr=1e-4))
    rates = []
    for epoch, value in enumerate(values):
        rates.append(rate.at(epoch))
        rate.epoch_ended(value)
    assert rates == pytest.approx(torch_rates("ReduceLROnPlateau", 60, values, factor=0.5, patience=3, min_lr=1e-4))
    assert len(set(rates)) > 4


def test_state_is_the_whole_memory() -> None:
    recipe = Recipe(schedule=Plateau(factor=0.5, patience=1))
    rate, other = Rate(recipe), Rate(recipe)
    for value in (1.0, 2.0, 2.0, 2.0):
        rate.epoch_ended(value)
    other.restore(rate.state())
    assert other == rate
    assert other.factor == 0.5


def test_warm_up_rises_linearly_and_never_is_zero() -> None:
    rate = Rate(Recipe(optimiser=Optimiser(lr=LR), schedule=Constant(), warm_up_epochs=2))
    rates = [rate.at(step / 4, 1 / 4) for step in range(10)]
    assert rates == pytest.approx([LR * min((step + 1) / 8, 1) for step in range(10)])


def test_warm_up_and_falls_can_be_counted_in_steps() -> None:
    schedule = Step(factor=0.5, steps=6)
    rate = Rate(Recipe(optimiser=Optimiser(lr=LR), schedule=schedule, warm_up_steps=4))
    rates = [rate.at(step / 3, 1 / 3, step) for step in range(15)]  # three steps an epoch
    assert rates == pytest.approx([LR * min((k + 1) / 4, 1) * 0.5 ** (k // 6) for k in range(15)])
    both = Rate(Recipe(optimiser=Optimiser(lr=LR), schedule=Constant(), warm_up_steps=4, warm_up_epochs=2))
    slower = [both.at(step / 3, 1 / 3, step) for step in range(9)]
    assert slower == pytest.approx([LR * min((k + 1) / 6, 1) for k in range(9)])


def test_groups_by_name_pattern() -> None:
    parameters = named_trainable(network())
    settings = Optimiser(
        lr=LR,
        weight_decay=0.5,
        groups=(ParameterGroup(pattern="*.hidden", lr=1e-4), ParameterGroup(pattern="scale", weight_decay=0)),
    )
    optimiser = make_optimiser(settings, parameters)
    by_identity = {id(p): group for group in optimiser.param_groups for p in group["params"]}
    groups = {name: by_identity[id(p)] for name, p in parameters.items()}
    assert (groups["potential.hidden"]["lr"], groups["potential.hidden"]["weight_decay"]) == (1e-4, 0.5)
    assert (groups["scale"]["lr"], groups["scale"]["weight_decay"]) == (LR, 0)
    assert (groups["potential.pair"]["lr"], groups["potential.pair"]["weight_decay"]) == (LR, 0.5)
    assert len(by_identity) == len(parameters)
    set_rate(optimiser, LR / 2)
    assert groups["potential.hidden"]["lr"] == pytest.approx(5e-5)


def test_a_pattern_without_a_parameter_is_an_error() -> None:
    with pytest.raises(InputError, match=r"'potential.hiden'.*did you mean 'potential.hidden'"):
        make_optimiser(Optimiser(groups=(ParameterGroup(pattern="potential.hiden"),)), named_trainable(network()))


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(InputError, match="no trainable parameter"):
        named_trainable(network().requires_grad_(False))


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        (Optimiser(lr=LR, amsgrad=True), lambda p: torch.optim.Adam(p, lr=LR, amsgrad=True)),
        (Optimiser(lr=LR, amsgrad=False, weight_decay=0.1), lambda p: torch.optim.Adam(p, lr=LR, weight_decay=0.1)),
        (
            Optimiser(name="adamw", lr=LR, amsgrad=False, weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=0.1),
        ),
        (Optimiser(name="sgd", lr=LR, momentum=0.9), lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9)),
    ],
)
def test_optimisers_are_torchs(settings: Optimiser, reference) -> None:
    one, other = ({"w": nn.Parameter(torch.arange(5.0, dtype=torch.float64))} for _ in range(2))
    first, second = make_optimiser(settings, one), reference([other["w"]])
    for step in range(5):
        for parameters, optimiser in ((one, first), (other, second)):
            optimiser.zero_grad()
            ((parameters["w"] - step) ** 4).sum().backward()
            optimiser.step()
    torch.testing.assert_close(one["w"], other["w"], rtol=1e-12, atol=1e-14)
