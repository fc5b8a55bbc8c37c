"""Where a training stands, and the decisions taken between epochs: which phase begins, and whether to stop."""

from __future__ import annotations

from dataclasses import dataclass, field

from fireassay.training.recipe import Recipe
from fireassay.training.schedule import Rate

_SHARE = 0.97  # of the time limit that planned epochs may fill


@dataclass
class Position:
    """Where a training stands, as JSON values. Epochs count from 0 here: `epoch` of them are complete."""

    epoch: int = 0
    batch: int = 0  # of the epoch under way
    steps: int = 0  # in all
    planned: int | None = None  # epochs, once the time limit has had a say
    next_plan: int = 3  # complete epochs at which the plan is made again
    first_seconds: float = 0.0  # time of the first epoch
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
        """Epochs in all."""
        return recipe.epochs if self.planned is None else min(self.planned, recipe.epochs)

    def start_of(self, start_epoch: int | float, recipe: Recipe) -> int:
        """The epoch (from 1) at which a phase begins, moved forward when there are fewer epochs than in the recipe."""
        if start_epoch < 1:
            return int(start_epoch * self.epochs(recipe)) + 1
        return max(1, int(start_epoch) * self.epochs(recipe) // recipe.epochs)


def begin_phases(position: Position, recipe: Recipe, rate: Rate) -> bool:
    """Begins stage two and SWA when their epoch has come; returns whether the best weights are to be forgotten."""
    pending = []
    if recipe.stage_two is not None and position.stage == 1:
        pending.append((position.start_of(recipe.stage_two.start_epoch, recipe), "stage_two", recipe.stage_two.lr))
    if recipe.swa is not None and not position.averaging:
        pending.append((position.start_of(recipe.swa.start_epoch, recipe), "swa", recipe.swa.lr))
    forget = False
    for start, name, lr in sorted(pending, key=lambda phase: phase[:2]):
        if position.epoch + 1 < start and not position.early:
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


def plan(position: Position, recipe: Recipe, seconds: float) -> bool:
    """Fits the number of epochs to the time limit, after `seconds` of training; returns whether it was time to do so.

    This is done after the third epoch and each time a third of what was left is over, by the mean time of the epochs so
    far without the first, in which kernels are compiled. Clocks decide, so the plan belongs to the state.
    """
    limit = recipe.stopping.max_seconds
    if position.epoch <= 1:
        position.first_seconds = seconds
    if limit is None or not recipe.stopping.shorten or position.epoch < position.next_plan:
        return False
    per_epoch = (seconds - position.first_seconds) / max(position.epoch - 1, 1)
    affordable = position.epoch + int(max(_SHARE * limit - seconds, 0.0) / max(per_epoch, 1e-9))
    position.planned = max(min(affordable, recipe.epochs), position.epoch)
    position.next_plan = position.epoch + max(1, (position.planned - position.epoch) // 3)
    return True
