"""Training: from a potential, data and a recipe to the best weights and the record of how they came about."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fireassay.data.datasets import Dataset
from fireassay.data.fingerprint import fingerprint
from fireassay.data.store import StoredFrames
from fireassay.errors import InputError
from fireassay.potential import Potential
from fireassay.progress import Progress, Silent
from fireassay.training.averaging import assign
from fireassay.training.checkpoint import checkpoints, load_checkpoint, remove_leftovers
from fireassay.training.distributed import joined
from fireassay.training.interruption import requests
from fireassay.training.loop import CHECKPOINTS, Loop
from fireassay.training.loss import check_labels, check_validation
from fireassay.training.recipe import Checkpointing, Cosine, ErrorLogging, Recipe
from fireassay.training.terms import Weights

ERRORS = "errors.npz"


@dataclass(frozen=True)
class FitResult:
    """What came out. Rows are those of metrics.jsonl (docs/records.md); a value that was not finite is None."""

    source: Literal["live", "ema", "swa"]  # which weights the potential has now
    finished: str  # epochs, patience, lr_below, max_steps, max_seconds or target
    epochs: int  # that were begun
    share: float  # of the last of them that was done; less than one when the time limit cut it
    best_epoch: int  # from 1
    best: dict[str, float | None]  # the row of the best epoch; under SWA, `validation.` of the average
    last: dict[str, float | None]  # the row of the last epoch
    seconds: float
    folder: Path
    notes: tuple[str, ...] = ()  # what the user should know of the validation


def fit(
    potential: Potential,
    train: Dataset,
    validation: Dataset | None,
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    resume: bool | Literal["auto"] = "auto",
    weights: Weights | None = None,
    error_log: ErrorLogging | None = None,
    checkpointing: Checkpointing | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FitResult:
    """Trains `potential` in place, in its own dtype, and leaves it with the best weights, in evaluation mode.

    `folder` receives metrics.jsonl, metrics.csv, errors.npz and checkpoint/ (see docs/records.md). With `resume` "auto"
    a training that the folder holds goes on exactly where it stopped, otherwise a new one begins; True demands one,
    False refuses one. `weights` weigh structures and atoms in the loss; `error_log` and `checkpointing` replace the
    recipe's. Under torchrun the processes share each batch. `clock` tells the time in s.

    Raises InputError for data, recipe or checkpoint that cannot be used; `Diverged`, one of them, when the loss is no
    longer finite; Interrupted after SIGTERM or Ctrl-C, once the state is saved.
    """
    device, error_log = torch.device(device), error_log or recipe.error_log
    notes = _check(potential, train, validation, recipe)
    potential.to(device)
    fingerprint = _fingerprint(potential, train, validation, recipe, weights, error_log)
    with joined(device) as ranks, requests() as request, _deterministic(device):
        loop = Loop(
            potential,
            train,
            validation,
            recipe,
            folder,
            device=device,
            ranks=ranks,
            weights=weights or Weights(),
            error_log=error_log,
            checkpointing=checkpointing or recipe.checkpoints,
            fingerprint=fingerprint,
            request=request,
            progress=progress if progress is not None and ranks.main else Silent(),
            clock=clock,
        )
        _resume(loop, resume)
        loop.run()
        return _finish(loop, notes)


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On the CPU, sums in one order: some of torch's backward passes add atomically from several threads otherwise.

    A switch of the whole process, turned back afterwards. On CUDA it would need a setting of the environment.
    """
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # pyright: ignore[reportAttributeAccessIssue]


def _resume(loop: Loop, resume: bool | Literal["auto"]) -> None:
    folder = loop.folder / CHECKPOINTS
    found = checkpoints(folder)
    if resume is True and not found:
        raise InputError(f"{folder} has no checkpoint to continue from; start without resume")
    if resume is False and found:
        raise InputError(f"{loop.folder} holds a training already; continue it or choose another folder")
    if found:
        checkpoint = load_checkpoint(found[-1])
        _compare(checkpoint.values["fingerprint"], loop.fingerprint, loop.recipe, found[-1])
        if loop.ranks.main:
            remove_leftovers(folder)
        loop.restore(checkpoint)
        _reopen(loop, checkpoint.values["fingerprint"])
        return
    if (loop.folder / "metrics.jsonl").exists():
        raise InputError(f"{loop.folder} holds the metrics of a training without a checkpoint; choose another folder")
    loop.save()
    if loop.error_log is not None and loop.ranks.main:
        loop.error_log.begin()


def _reopen(loop: Loop, before: Mapping[str, Any]) -> None:
    """Lets a training that has ended go on, when the limits that ended it are no longer the same."""
    stopping = loop.recipe.stopping.model_dump(mode="json")
    if before["recipe"]["stopping"] == stopping:
        return
    # Time that is over stays over: a limit that is still exceeded ends the training again after a step.
    position = loop.position
    position.finished, position.clock, position.share = "", 0.0, 1.0


def _finish(loop: Loop, notes: tuple[str, ...]) -> FitResult:
    """Chooses the final weights, gives them to the potential and writes them and the error log."""
    position, swa = loop.position, loop.recipe.swa
    source: Literal["live", "ema", "swa"] = "ema" if loop.ema is not None else "live"
    row = dict(position.best_row or position.last_row)
    if loop.best is None:
        loop.best = [weight.detach().clone() for weight in loop.averaged() or loop.parameters]
    if swa is not None and loop.swa is not None and loop.swa.count:
        mean = loop.swa.mean()
        metrics = loop.validate(mean)
        score = metrics.get(loop.recipe.monitor)
        better = score is not None and position.best is not None and score < position.best
        if swa.choose == "always" or better:
            loop.best, source = mean, "swa"
            row |= {"epoch": position.epoch, **{f"validation.{name}": value for name, value in metrics.items()}}
    loop.save_best()
    assign(loop.parameters, loop.best)
    loop.potential.eval()
    if loop.ranks.main and loop.error_log is not None:
        loop.error_log.trajectory.save(loop.folder / ERRORS)
    loop.log.close()
    return FitResult(
        source=source,
        finished=position.finished,
        epochs=position.epoch,
        share=position.share,
        best_epoch=position.epoch if source == "swa" else position.best_epoch,
        best=row,
        last=dict(position.last_row),
        seconds=loop.seconds,
        folder=loop.folder,
        notes=notes,
    )


def _check(potential: Potential, train: Dataset, validation: Dataset | None, recipe: Recipe) -> tuple[str, ...]:
    """Refuses what cannot be used, and returns what should be said of the rest."""
    cutoff = potential.cutoff
    for name, dataset in (("training", train), ("validation", validation)):
        if dataset is None:
            continue
        potential.check_species(dataset.species)
        if dataset.cutoff < cutoff:
            raise InputError(f"the {name} data has neighbours up to {dataset.cutoff} Å, the potential needs {cutoff} Å")
    for stage in (1, 2):
        check_labels(recipe.loss_in(stage), train)
    if validation is None:
        return ()
    found = (check_validation(recipe.loss_in(stage), validation, recipe.monitor) for stage in (1, 2))
    return tuple(dict.fromkeys(note for note in found if note is not None))


def _fingerprint(
    potential: Potential,
    train: Dataset,
    validation: Dataset | None,
    recipe: Recipe,
    weights: Weights | None,
    error_log: ErrorLogging,
) -> dict[str, Any]:
    shapes = {name: [str(p.dtype).removeprefix("torch."), *p.shape] for name, p in potential.named_parameters()}
    chosen = [None if value is None else value.detach().cpu().numpy() for value in weights or ()]
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"error_log", "checkpoints"}),
        "error_log": error_log.model_dump(mode="json"),
        "potential": {"type": type(potential).__name__, "parameters": shapes},
        "training data": _content(train),
        "validation data": None if validation is None else _content(validation),
        "weights of structures and atoms": [None if v is None else _hash(v) for v in chosen],
    }


def _content(dataset: Dataset) -> dict[str, Any]:
    """Size and hash of a data set. Positions and labels count, provenance does not."""
    if isinstance(dataset.structures, StoredFrames):
        content = fingerprint(dataset.structures)
        return {"structures": len(dataset), "cutoff": dataset.cutoff, "content": content}
    parts: list[Any] = [dataset.atomic_numbers.numpy(), dataset.structure_sizes.numpy()]
    parts += [value.numpy() for value in dataset.labels]
    for structure in dataset.structures:
        parts += [structure.positions, structure.cell, structure.pbc]
        parts += [value for value in (structure.charge, structure.spin) if value is not None]
    return {"structures": len(dataset), "cutoff": dataset.cutoff, "content": _hash(*parts)}


def _hash(*arrays: Any) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], recipe: Recipe, path: Path) -> None:
    """Raises InputError that lists what differs between a checkpoint and the training that wants to go on from it."""
    free = {"recipe.stopping", "recipe.tensorboard"}
    if not isinstance(recipe.schedule, Cosine):
        free.add("recipe.epochs")
    was, is_now = _flat(before), _flat(json.loads(json.dumps(now)))
    different = [
        f"{key} was {was.get(key, 'absent')}, is {is_now.get(key, 'absent')}"
        for key in sorted(was.keys() | is_now.keys())
        if was.get(key) != is_now.get(key) and not any(key == name or key.startswith(name + ".") for name in free)
    ]
    if different:
        shown = "; ".join(different[:5]) + (f"; and {len(different) - 5} more" if len(different) > 5 else "")
        raise InputError(f"{path} belongs to another training: {shown}; use the same settings or another folder")


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        items = [_flat(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()]
        return {key: leaf for item in items for key, leaf in item.items()}
    return {path: value}
