"""Where a training stands, and the decisions taken between epochs: which phase begins, and whether to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fireassay.training.recipe import Recipe
from fireassay.training.schedule import Rate

_SHARE = 0.97  # of the time limit that a shortened training plans with


@dataclass
class Position:
    """Where a training stands, as JSON values. Epochs count from 0 here: `epoch` of them are complete."""

    epoch: int = 0
    batch: int = 0  # of the epoch under way
    steps: int = 0  # in all
    clock: float = 0.0  # share of the time limit that is over, in a training that it may shorten
    share: float = 1.0  # of the last epoch that was done before the time limit cut it
    stage: int = 1
    averaging: bool = False  # whether SWA has begun
    early: bool = False  # whether the next phase begins before its time, because patience has run out
    phase_began: int = 0  # epoch from which patience counts
    best: float | None = None
    best_epoch: int = 0  # complete epochs at the best value
    best_row: dict[str, float | None] = field(default_factory=dict)
    last_row: dict[str, float | None] = field(default_factory=dict)
    gradient_norm: float = 0.0  # largest of the epoch under way
    seconds: float = 0.0
    finished: str = ""  # why the training has ended

    def epochs(self, recipe: Recipe) -> int:
        """Epochs that are expected in all: the recipe's, or as many as the clock will allow at the pace so far."""
        if self.epoch == 0 or self.clock <= self.epoch / recipe.epochs:
            return recipe.epochs
        return min(recipe.epochs, max(self.epoch, math.ceil(self.epoch / self.clock)))

    def has_come(self, start_epoch: int | float, recipe: Recipe) -> bool:
        """Whether the epoch at which a phase begins has come, or its share of the time."""
        if start_epoch < 1:
            return self.epoch >= int(start_epoch * recipe.epochs) or self.clock >= start_epoch
        return self.epoch + 1 >= start_epoch or (self.clock > 0 and self.clock >= (start_epoch - 1) / recipe.epochs)


def clock_of(recipe: Recipe, seconds: float) -> float:
    """The share of the time limit that is over after `seconds`; 0 unless the training is to be shortened to it."""
    stopping = recipe.stopping
    if stopping.max_seconds is None or not stopping.shorten:
        return 0.0
    return min(seconds / (_SHARE * stopping.max_seconds), 1.0)


def _pending(position: Position, recipe: Recipe) -> list[tuple[int | float, str, float | None]]:
    """The phases to come: when they begin, their names and learning rates."""
    pending: list[tuple[int | float, str, float | None]] = []
    if recipe.stage_two is not None and position.stage == 1:
        pending.append((recipe.stage_two.start_epoch, "stage_two", recipe.stage_two.lr))
    if recipe.swa is not None and not position.averaging:
        pending.append((recipe.swa.start_epoch, "swa", recipe.swa.lr))
    order = {start: start if start < 1 else (start - 1) / recipe.epochs for start, _, _ in pending}
    return sorted(pending, key=lambda phase: (order[phase[0]], phase[1]))


def phase_is_due(position: Position, recipe: Recipe) -> bool:
    """Whether the clock asks for the next phase within an epoch, which then ends early."""
    if not position.clock:
        return False
    return any(
        position.clock >= (start if start < 1 else (start - 1) / recipe.epochs)
        for start, _, _ in _pending(position, recipe)
    )


def begin_phases(position: Position, recipe: Recipe, rate: Rate) -> bool:
    """Begins stage two and SWA when their epoch has come; returns whether the best weights are to be forgotten."""
    forget = False
    for start, name, lr in _pending(position, recipe):
        if not position.has_come(start, recipe) and not position.early:
            continue
        position.early, position.phase_began = False, position.epoch
        if lr is not None:
            rate.constant = lr
        if name == "stage_two":
            position.stage, position.best, forget = 2, None, True
            rate.forget()
        else:
            position.averaging = True
    return forget


def stop_early(position: Position, recipe: Recipe, rate: Rate) -> None:
    """Ends the training, or brings the next phase forward, when one of the recipe's limits is reached."""
    stopping, reason = recipe.stopping, ""
    waited = position.epoch - max(position.best_epoch, position.phase_began)
    warm = position.epoch >= recipe.warm_up_epochs and position.steps >= recipe.warm_up_steps
    if stopping.patience is not None and waited >= stopping.patience:
        reason = "patience"
    elif stopping.lr_below is not None and warm and rate.at(position.epoch, 0.0, position.steps) < stopping.lr_below:
        reason = "lr_below"
    stage_left = recipe.stage_two is not None and position.stage == 1
    if reason and (stage_left or (recipe.swa is not None and not position.averaging)):
        position.early, reason = True, ""
    if stopping.target is not None and position.best is not None and position.best <= stopping.target:
        reason = "target"
    if stopping.max_steps is not None and position.steps >= stopping.max_steps:
        reason = "max_steps"
    position.finished = reason
