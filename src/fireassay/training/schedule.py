"""Optimisers, and the learning rate as a function of progress.

The rate is `base · factor`, where the factor is a closed form of the time τ (in epochs, a fraction within one), or,
for a plateau, the one number that it remembers. So a schedule's state is a few JSON numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from fireassay.errors import InputError, nearest
from fireassay.training.recipe import Cosine, Exponential, Optimiser, Plateau, Recipe, Step


def named_trainable(potential: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name.

    Raises InputError when there are none.
    """
    found = {name: parameter for name, parameter in potential.named_parameters() if parameter.requires_grad}
    if not found:
        raise InputError("the potential has no trainable parameter; there is nothing to train")
    return found


def make_optimiser(settings: Optimiser, parameters: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser; each parameter group carries `ratio`, its learning rate over the recipe's.

    Raises InputError when a group's pattern matches no parameter.
    """
    members: list[list[nn.Parameter]] = [[] for _ in range(len(settings.groups) + 1)]
    for name, parameter in parameters.items():
        matches = (k for k, group in enumerate(settings.groups) if fnmatchcase(name, group.pattern))
        members[next(matches, -1)].append(parameter)
    for group in settings.groups:
        if not any(fnmatchcase(name, group.pattern) for name in parameters):
            raise InputError(
                f"no trainable parameter is called {group.pattern!r}{nearest(group.pattern, parameters)}; "
                f"there are {', '.join(sorted(parameters)[:8])}{', ...' if len(parameters) > 8 else ''}"
            )
    options: list[dict[str, Any]] = []
    for group, found in zip((*settings.groups, None), members, strict=True):
        lr = settings.lr if group is None or group.lr is None else group.lr
        decay = settings.weight_decay if group is None or group.weight_decay is None else group.weight_decay
        if found:
            options.append({"params": found, "lr": lr, "weight_decay": decay, "ratio": lr / settings.lr})
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters.values())
    if settings.name == "sgd":
        return torch.optim.SGD(options, lr=settings.lr, momentum=settings.momentum, fused=fused)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(options, lr=settings.lr, betas=settings.betas, eps=settings.eps, amsgrad=settings.amsgrad, fused=fused)


@dataclass
class Rate:
    """The learning rate of a training, and what it remembers: the plateau's factor, best value and bad epochs.

    `constant` is a rate that has replaced the schedule (in stage two or during SWA), None before.
    """

    recipe: Recipe
    factor: float = 1.0
    best: float | None = None
    bad_epochs: int = 0
    constant: float | None = None
    clock: float = 0.0  # share of the time limit that is over: a cosine is no earlier than that

    def at(self, time: float, step: float = 0.0, steps: int = 0) -> float:
        """The rate of a step that begins `time` epochs and `steps` steps after the start and takes `step` of an epoch.

        With a `step` of zero it is the rate of that moment.
        """
        recipe, base = self.recipe, self.recipe.optimiser.lr
        if self.constant is not None:
            return self.constant
        schedule, epoch = recipe.schedule, math.floor(time)
        factor, warm = self.factor, self._warm(time + step, steps + bool(step))
        if isinstance(schedule, Cosine):
            done = max(time / recipe.epochs, self.clock)
            share = (1 + math.cos(math.pi * min(done, 1.0))) / 2
            return warm * (recipe.min_lr + max(base - recipe.min_lr, 0.0) * share)
        if isinstance(schedule, Exponential):
            factor = schedule.factor**epoch
        elif isinstance(schedule, Step):
            done, between = (epoch, schedule.epochs) if schedule.steps is None else (steps, schedule.steps)
            factor = schedule.factor ** (done // between)
        return warm * max(base * factor, min(recipe.min_lr, base))

    def epoch_ended(self, value: float | None) -> None:
        """Tells a plateau the watched metric after an epoch; None when it was not measured."""
        schedule = self.recipe.schedule
        if not isinstance(schedule, Plateau) or value is None:
            return
        if self.best is None or value < self.best * (1 - schedule.threshold):
            self.best, self.bad_epochs = value, 0
        else:
            self.bad_epochs += self.recipe.validation_interval
        if self.bad_epochs > schedule.patience:
            self.factor, self.bad_epochs = self.factor * schedule.factor, 0

    def forget(self) -> None:
        """Forgets the best value, when the metric changes its meaning."""
        self.best, self.bad_epochs = None, 0

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON values."""
        return {
            "factor": self.factor,
            "best": self.best,
            "bad_epochs": self.bad_epochs,
            "constant": self.constant,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from `state`."""
        self.factor, self.best = state["factor"], state["best"]
        self.bad_epochs, self.constant = state["bad_epochs"], state["constant"]

    def _warm(self, time: float, steps: int) -> float:
        phases = (time, self.recipe.warm_up_epochs), (steps, self.recipe.warm_up_steps)
        return min([1.0, *(done / length for done, length in phases if length > 0)])


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Gives every parameter group its share of the learning rate `lr`."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["ratio"]
