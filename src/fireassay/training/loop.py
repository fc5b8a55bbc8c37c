"""The training loop: steps, ends of epochs, and the whole of its state.

An epoch's order of structures depends on the seed and the epoch alone, and everything that an epoch's end changes is
changed at once, after validation; so a state is complete between any two steps, and continuing from it repeats the
uninterrupted run bit for bit.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fireassay.data.datasets import Dataset
from fireassay.errors import InputError, Interrupted
from fireassay.potential import Potential
from fireassay.progress import Progress
from fireassay.training.averaging import Ema, Swa, replaced
from fireassay.training.checkpoint import (
    Checkpoint,
    optimiser_state,
    random_state,
    restore_optimiser,
    restore_random_state,
    save_checkpoint,
    save_weights,
    weights_of,
)
from fireassay.training.distributed import Ranks
from fireassay.training.error_log import ErrorLog
from fireassay.training.evaluate import evaluate
from fireassay.training.interruption import Request
from fireassay.training.loss import Sums, errors_of, expected_denominators, metrics_of, needed, sums_of, total
from fireassay.training.metrics_log import MetricsLog
from fireassay.training.position import Position, begin_phases, clock_of, phase_is_due, stop_early
from fireassay.training.recipe import Checkpointing, ErrorLogging, Plateau, Recipe
from fireassay.training.schedule import Rate, make_optimiser, named_trainable, set_rate
from fireassay.training.terms import Weights, species_weights

CHECKPOINTS = "checkpoint"
BEST = "best.safetensors"


class Diverged(InputError):
    """The loss or its gradient is no longer a finite number; the last good checkpoint is kept."""


class _Postponed(Exception):
    """Leaves a validation that can be repeated."""


class Loop:
    """One training in one process. `run` goes on from wherever it stands; `state` and `restore` are exact inverses."""

    def __init__(
        self,
        potential: Potential,
        train: Dataset,
        validation: Dataset | None,
        recipe: Recipe,
        folder: Path,
        *,
        device: torch.device,
        ranks: Ranks,
        weights: Weights,
        error_log: ErrorLogging,
        checkpointing: Checkpointing,
        fingerprint: dict[str, Any],
        request: Request,
        progress: Progress,
        clock: Callable[[], float],
    ) -> None:
        self.potential, self.train, self.validation = potential, train, validation
        self.recipe, self.folder, self.device, self.ranks = recipe, folder, device, ranks
        self.checkpointing = checkpointing
        self.weights, self.fingerprint, self.request, self.progress = weights.to(device), fingerprint, request, progress
        named = named_trainable(potential)
        self.names, self.parameters = list(named), list(named.values())
        self.dtype = self.parameters[0].dtype
        ranks.copy_from_main_([value.detach() for value in self.parameters])
        self.optimiser = make_optimiser(recipe.optimiser, named)
        self.rate = Rate(recipe)
        self.ema = Ema(self.parameters, recipe.ema.decay, recipe.ema.warm_up) if recipe.ema else None
        self.swa = Swa(self.parameters) if recipe.swa else None
        self.species = species_weights(recipe.loss.forces, train).to(device)
        self.error_log = ErrorLog(error_log, train, folder, device, ranks) if error_log.enabled else None
        self.log = MetricsLog(folder, recipe.tensorboard and ranks.main)
        self.position = Position()
        self.best: list[Tensor] | None = None
        self.sums = Sums.zeros(device)
        self._expected = {
            stage: expected_denominators(train, recipe.loss_in(stage), self.species, weights).to(device)
            for stage in (1, 2)
        }
        self._forces, self._stress = _needed(recipe, error_log, train)
        self._clock = clock
        self._began = self._saved = clock()
        self._best_changed = False
        self._step_seconds = self._validation_seconds = 0.0  # of long ones lately, for the end before a time limit
        self._step_began, self._stepped, self._shown = 0.0, False, 0

    @property
    def seconds(self) -> float:
        """Training time in s, interruptions excluded."""
        return self.position.seconds + self._clock() - self._began

    def run(self) -> None:
        """Trains until the recipe's end. Raises Interrupted after saving when asked to stop, Diverged, InputError."""
        position = self.position
        self._show()
        try:
            while not position.finished:
                if position.epoch >= self.recipe.epochs:
                    position.finished = "epochs"
                    break
                if begin_phases(position, self.recipe, self.rate):
                    self.best = None
                self._train_epoch()
                self._end_epoch()
                last = bool(position.finished) or position.epoch >= self.recipe.epochs
                asked = self._asked(self.request.signal)
                if last or asked or self._epoch_is_saved():
                    self.save()
                if asked and not last:
                    self._leave(self.request.signal or signal.SIGTERM)
        finally:
            self.progress.stop()

    def _show(self) -> None:
        """Begins the progress display, anew when the number of epochs that is expected has changed much."""
        frames, position, most = len(self.train), self.position, self.recipe.stopping.max_steps
        epochs = position.epochs(self.recipe)
        if most is not None:
            left = max(most - position.steps, 0) / len(self.batches(position.epoch))
            epochs = min(epochs, position.epoch + math.ceil(left))
        if abs(epochs - self._shown) <= 0.1 * self._shown:
            return
        self._shown = epochs
        self.progress.start("training", epochs * frames, position.epoch * frames)

    def batches(self, epoch: int) -> list[Tensor]:
        """The epoch's structures, shuffled by seed and epoch alone and divided into global batches."""
        recipe = self.recipe
        order = np.arange(len(self.train))
        if recipe.shuffle:
            order = np.random.default_rng([recipe.seed, epoch]).permutation(order)
        if recipe.max_edges is not None:
            return self.train.batches_by_edges(recipe.max_edges, order)
        return self.train.batches_by_size(recipe.batch_size, order)

    def averaged(self) -> list[Tensor] | None:
        """The weights that are evaluated: EMA's when it is on, None for the live ones."""
        return self.ema.shadow if self.ema is not None else None

    def validate(self, values: list[Tensor] | None) -> dict[str, float]:
        """Metrics of the validation set with `values` as weights; empty when there is no validation set."""
        if self.validation is None:
            return {}
        with replaced(self.parameters, values):
            return evaluate(
                self.potential,
                self.validation,
                self.recipe.loss_in(self.position.stage),
                batch_size=self.recipe.validation_batch_size or 2 * self.recipe.batch_size,
                max_edges=self.recipe.max_edges,
                dtype=self.dtype,
                device=self.device,
                species=self.species,
                ranks=self.ranks,
                after_batch=self._postpone_if_asked if self.ranks.world == 1 else None,
            )

    def save(self) -> None:
        """Writes a checkpoint, and the best weights if they are new; all processes take part."""
        if self._best_changed:
            self.save_best()
        checkpoint = self.state()
        if self.ranks.main:
            save_checkpoint(self.folder / CHECKPOINTS, checkpoint, self.position.epoch, self.position.batch)
        self._saved = self._clock()

    def state(self) -> Checkpoint:
        """Everything that the rest of the training depends on."""
        tensors, values = random_state(self.device, self.ranks)
        tensors |= {f"model.{name}": value for name, value in self.potential.state_dict().items()}
        tensors |= optimiser_state(self.optimiser)
        tensors["sums"] = self.ranks.summed(self.sums.vector)
        content = {
            "position": {**asdict(self.position), "seconds": self.seconds},
            "rate": self.rate.state(),
            "rng": values,
            "log": self.log.position(),
            "fingerprint": self.fingerprint,
        }
        if self.ema is not None:
            tensors |= self._named("ema", self.ema.shadow)
            content["ema"] = self.ema.steps
        if self.swa is not None:
            tensors |= self._named("swa", self.swa.sums)
            content["swa"] = self.swa.count
        if self.best is not None:
            tensors |= self._named("best", self.best)
        if self.error_log is not None:
            more, content["error_log"] = self.error_log.state()
            tensors |= more
        return Checkpoint(tensors, content)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continues from `state`'s value, bit for bit; the logs are cut back to it."""
        tensors, content = checkpoint.tensors, checkpoint.values
        model = {name.removeprefix("model."): v for name, v in tensors.items() if name.startswith("model.")}
        self.potential.load_state_dict(model)
        restore_optimiser(self.optimiser, tensors)
        restore_random_state(tensors, content["rng"], self.device, self.ranks)
        self.position = Position(**content["position"])
        self._began = self._saved = self._clock()
        self.rate.restore(content["rate"])
        self.rate.clock = self.position.clock
        self.sums = Sums.of(tensors["sums"].to(self.device)) if self.ranks.main else Sums.zeros(self.device)
        if self.ema is not None:
            self.ema.steps = content["ema"]
            self._fill("ema", self.ema.shadow, tensors)
        if self.swa is not None:
            self.swa.count = content["swa"]
            self._fill("swa", self.swa.sums, tensors)
        if f"best.{self.names[0]}" in tensors:
            self.best = [value.detach().clone() for value in self.parameters]
            self._fill("best", self.best, tensors)
        if self.error_log is not None:
            self.error_log.restore(tensors, content["error_log"])
        if self.ranks.main:
            self.log.restore(content["log"])

    def save_best(self) -> None:
        """Writes the best weights so far as a state dict of their own."""
        if self.ranks.main:
            with replaced(self.parameters, self.best):
                save_weights(self.folder / CHECKPOINTS / BEST, weights_of(self.potential))
        self._best_changed = False

    def _train_epoch(self) -> None:
        position, every = self.position, self.checkpointing.every_batches
        batches = self.batches(position.epoch)
        loss = self.recipe.loss_in(position.stage)
        self.potential.train()
        while position.batch < len(batches):
            chosen = batches[position.batch]
            started = (position.epoch + position.batch / len(batches), 1 / len(batches))
            self._step_began = self.seconds
            save, leave, cut = self.step(chosen, loss, started)
            if self._stepped:  # the first one compiles kernels
                self._step_seconds = max(0.9 * self._step_seconds, self.seconds - self._step_began)
            self._stepped = True
            position.batch += 1
            position.steps += 1
            self.progress.advance(len(chosen))
            last = position.batch == len(batches)
            if cut and not leave:
                position.share = position.batch / len(batches)
                position.finished = "max_seconds"
                swa = self.recipe.swa
                position.averaging |= swa is not None and position.has_come(swa.start_epoch, self.recipe)
                return
            if not last and not leave and phase_is_due(position, self.recipe):
                return
            if leave or save or (every is not None and position.batch % every == 0 and not last):
                self.save()
            if leave:
                self._leave(leave)

    def step(self, chosen: Tensor, loss: Any, started: tuple[float, float]) -> tuple[bool, int, bool]:
        """One step on the global batch `chosen`, which began at the time `started[0]` and takes `started[1]` epochs.

        Returns whether to save, the signal that asks to stop or 0, and whether the time limit leaves room for no other.
        """
        mine = chosen[self.ranks.rank :: self.ranks.world]
        self.optimiser.zero_grad(set_to_none=True)
        sums = value = None
        if len(mine):
            batch = self.train.select(mine, self.dtype, self.device)
            prediction = self.potential.predict(batch.graph, self._forces, self._stress, differentiable=True)
            errors = errors_of(prediction, batch)
            sums = sums_of(errors, batch, loss, self.species, self.weights)
            value = total(loss, sums.numerators, len(chosen) * self._expected[self.position.stage])
            value.backward()
        save, leave, cut, clock = self._wishes()
        if self.ranks.world > 1:  # one process's clock decides for all
            mine = [save, leave, *((cut, clock) if self.ranks.main else (0.0, 0.0))]
            agreed = self.ranks.summed(torch.tensor(mine, dtype=torch.float64, device=self.device)).tolist()
            save, leave, cut, clock = agreed[0] > 0, int(agreed[1]), agreed[2] > 0, agreed[3]
        self.position.clock = self.rate.clock = clock
        norm = self._gradient_norm()
        self._check_finite(torch.zeros(()) if value is None else value.detach(), norm, chosen)
        set_rate(self.optimiser, self.rate.at(*started, self.position.steps))
        self.optimiser.step()
        if self.ema is not None:
            self.ema.update()
        if sums is not None:
            self.sums = self.sums.plus(sums)
            if self.error_log is not None:
                self.error_log.record(batch, errors)
        return save, leave, cut

    def _gradient_norm(self) -> Tensor:
        for parameter in self.parameters:
            if parameter.grad is None:  # so that one and many processes take the same step
                parameter.grad = torch.zeros_like(parameter)
        self.ranks.sum_([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        return torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_gradient_norm or math.inf)

    def _check_finite(self, value: Tensor, norm: Tensor, chosen: Tensor) -> None:
        norm_value = float(norm + 0 * value) if self.ranks.world == 1 else float(norm)
        self.position.gradient_norm = max(self.position.gradient_norm, norm_value)
        if math.isfinite(norm_value):
            return
        frames = [self.train.structures[k].where for k in chosen.tolist()]
        named = ", ".join(frames[:8]) + (f" and {len(frames) - 8} more" if len(frames) > 8 else "")
        position = self.position
        raise Diverged(
            f"loss or gradient is not finite in epoch {position.epoch + 1}, batch {position.batch + 1} ({named}); "
            "lower the learning rate, set max_gradient_norm, or check these frames; the last checkpoint is kept"
        )

    def _end_epoch(self) -> None:
        position, recipe = self.position, self.recipe
        epoch = position.epoch + 1
        due = self.validation is not None and (
            epoch % recipe.validation_interval == 0 or epoch == recipe.epochs or position.finished == "max_seconds"
        )
        began = self._clock()
        try:
            validation = self.validate(self.averaged()) if due else {}
        except _Postponed:
            self.save()
            self._leave(self.request.signal or 0)
        if due:
            self._validation_seconds = max(self._validation_seconds, self._clock() - began)
        train = metrics_of(recipe.loss_in(position.stage), Sums.of(self.ranks.summed(self.sums.vector)))
        if self.error_log is not None:
            self.error_log.end_epoch()
        if self.swa is not None and position.averaging:
            self.swa.update()
        self._log(epoch, train, validation)
        self._judge(epoch, validation if self.validation is not None else train)
        position.epoch, position.batch, position.gradient_norm = epoch, 0, 0.0
        self.sums = Sums.zeros(self.device)
        self._stop_early()

    def _log(self, epoch: int, train: dict[str, float], validation: dict[str, float]) -> None:
        position = self.position
        row: dict[str, Any] = {
            "epoch": epoch,
            "stage": position.stage,
            "seconds": round(self.seconds, 3),
            "lr": self.rate.at(math.nextafter(epoch, 0), steps=self.position.steps - 1),
            "gradient_norm": position.gradient_norm,
            "loss": train["loss"],
        }
        row |= {f"train.{name}": value for name, value in train.items() if name != "loss"}
        row |= {f"validation.{name}": value for name, value in validation.items()}
        if self.ranks.main:
            self.log.append(row)
        position.last_row = {key: v if math.isfinite(v) else None for key, v in row.items()}
        self.progress.advance(0, _note(row, position.epochs(self.recipe)))

    def _judge(self, epoch: int, metrics: dict[str, float]) -> None:
        """Tells the schedule how the epoch went, and keeps the weights when they are the best so far."""
        position, schedule = self.position, self.recipe.schedule
        watched = schedule.monitor if isinstance(schedule, Plateau) and schedule.monitor else self.recipe.monitor
        if metrics:
            self.rate.epoch_ended(_measured(metrics, watched))
        value = _measured(metrics, self.recipe.monitor) if metrics else math.inf
        if math.isfinite(value) and (position.best is None or value < position.best):
            position.best, position.best_epoch, position.best_row = value, epoch, dict(position.last_row)
            current = self.averaged() or self.parameters
            self.best = [weight.detach().clone() for weight in current]
            self._best_changed = True

    def _stop_early(self) -> None:
        position, cut = self.position, self.position.finished
        stop_early(position, self.recipe, self.rate)
        position.finished = cut or position.finished
        self._show()

    def _epoch_is_saved(self) -> bool:
        settings = self.checkpointing
        rested = self._clock() - self._saved >= settings.rest_seconds
        due = self.position.epoch % settings.every_epochs == 0
        return due and self._asked(rested and self.ranks.main)

    def _wishes(self) -> tuple[bool, int, bool, float]:
        """Whether to save, the signal to stop or 0, whether the time is over, and its share at the end of this step."""
        minutes, limit, now = self.checkpointing.every_minutes, self.recipe.stopping.max_seconds, self.seconds
        due = minutes is not None and self._clock() - self._saved > 60 * minutes
        ends = max(now, self._step_began + self._step_seconds)
        over = limit is not None and ends + self._step_seconds + self._end_seconds() >= limit
        return due and self.ranks.main, self.request.signal or 0, over, clock_of(self.recipe, ends)

    def _end_seconds(self) -> float:
        """What the validations after the last step will take: that of its epoch, and that of the SWA average."""
        if self.validation is None:
            return 0.0
        steps = len(self.validation) / self.recipe.batch_size / 3  # without a backward pass, until it is measured
        one = self._validation_seconds or self._step_seconds * steps
        return one * (2 if self.swa is not None else 1)

    def _asked(self, wish: Any) -> bool:
        """Whether any process wishes so."""
        return bool(self.ranks.largest(torch.tensor(float(bool(wish)), device=self.device)) > 0)

    def _postpone_if_asked(self) -> None:
        if self.request.signal is not None:
            raise _Postponed

    def _leave(self, number: int) -> None:
        where = f"epoch {self.position.epoch + 1}, batch {self.position.batch}"
        raise Interrupted(f"stopped at {where}; saved in {self.folder}; repeat the command to continue", number)

    def _named(self, kind: str, values: list[Tensor]) -> dict[str, Tensor]:
        return {f"{kind}.{name}": value for name, value in zip(self.names, values, strict=True)}

    def _fill(self, kind: str, values: list[Tensor], tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in zip(self.names, values, strict=True):
                value.copy_(tensors[f"{kind}.{name}"])


def _needed(recipe: Recipe, error_log: ErrorLogging, train: Dataset) -> tuple[bool, bool]:
    """Whether a training step needs forces, and stress."""
    losses = (recipe.loss_in(1), recipe.loss_in(2))
    forces, stress = (any(needed(loss, label) for loss in losses) for label in ("forces", "stress"))
    return forces or (error_log.enabled and train.labelled["forces"]), stress


def _measured(metrics: dict[str, float], name: str) -> float:
    if name not in metrics:
        raise InputError(f"monitor is {name!r}, but the data has no such label; there are {', '.join(metrics)}")
    return metrics[name]


def _note(row: dict[str, Any], epochs: int) -> str:
    kind = "validation" if "validation.loss" in row else "train"
    parts = [f"epoch {row['epoch']}/{epochs}"]
    if f"{kind}.forces_rmse" in row:
        parts.append(f"{kind} force RMSE {1000 * row[f'{kind}.forces_rmse']:.1f} meV/Å")
    if f"{kind}.energy_per_atom_rmse" in row:
        parts.append(f"energy {1000 * row[f'{kind}.energy_per_atom_rmse']:.2f} meV/atom")
    return ", ".join(parts)
