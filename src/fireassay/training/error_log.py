"""Per-atom errors over the epochs of a training (LTAU-FF, section 2), from the training pass with the live weights.

ε_i = |F_ref - F_pred| of each training atom that has a force label, once per epoch. The epoch under way is one number
per atom on the device; when it ends, the numbers go into histograms on the host, and, on request, into a raw file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fireassay.data.datasets import Batch, Dataset
from fireassay.data.fingerprint import fingerprint
from fireassay.errors import InputError
from fireassay.records import ErrorTrajectory
from fireassay.training.distributed import Ranks
from fireassay.training.recipe import ErrorLogging
from fireassay.training.terms import Errors

RAW = "errors.float32"
_ABSENT = -1.0


class ErrorLog:
    """Histograms of every training atom's errors, filled epoch by epoch; no (epochs, atoms) array is needed."""

    def __init__(
        self, settings: ErrorLogging, dataset: Dataset, folder: Path, device: torch.device, ranks: Ranks
    ) -> None:
        self.settings = settings
        self.trajectory = ErrorTrajectory.empty(
            dataset.structure_sizes.numpy(),
            settings.lowest,
            settings.highest or 10 * settings.lowest,
            settings.bins,
            fingerprint(dataset.structures),
        )
        self.epochs = 0
        self._ranks = ranks
        self._folder = folder
        self._raw = folder / RAW if settings.raw else None
        self._epoch = torch.full((dataset.n_atoms,), _ABSENT, dtype=torch.float64, device=device)

    def begin(self) -> None:
        """Removes a raw log that an earlier training left: a new one starts afresh."""
        (self._folder / RAW).unlink(missing_ok=True)

    def record(self, batch: Batch, errors: Errors) -> None:
        """Notes the force errors of a batch, without waiting for the device."""
        if errors.forces is None:
            return
        norms = torch.linalg.vector_norm(errors.forces.detach(), dim=1).to(torch.float64)
        self._epoch.index_copy_(0, batch.atoms, torch.where(batch.labels.has_forces, norms, _ABSENT))

    def end_epoch(self) -> None:
        """Moves the epoch's errors of all processes into the histograms of the main one."""
        values = self._ranks.largest(self._epoch).to("cpu", copy=True).numpy()
        self._epoch.fill_(_ABSENT)
        self.epochs += 1
        if not self._ranks.main:
            return
        atoms = np.flatnonzero(values != _ABSENT)
        self._make_room(values.max(initial=0.0))
        self.trajectory.add(atoms, values[atoms])
        if self._raw is not None:
            values[values == _ABSENT] = np.nan
            _append(self._raw, values.astype(np.float32).tobytes())

    def _make_room(self, largest: float) -> None:
        """Places the bins when the first error is to lie in them, and adds some where a later one lies beyond."""
        settings, before = self.settings, self.trajectory
        if settings.highest is not None or largest < before.edges[-1]:
            return
        if before.counts[:, 1:].any():
            before.reach(largest)
            return
        highest = float(np.nextafter(largest, np.inf))
        placed = ErrorTrajectory.empty(before.structure_sizes, settings.lowest, highest, settings.bins, before.frames)
        placed.counts[:, 0] = before.counts[:, 0]
        self.trajectory = placed

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Histograms and the epoch under way, for a checkpoint; counts as the smallest integers that hold them."""
        counts = self.trajectory.counts
        narrow = next(t for t in (np.uint8, np.int16, np.int32, np.int64) if counts.max(initial=0) <= np.iinfo(t).max)
        tensors = {
            "error_log.counts": torch.from_numpy(counts.astype(narrow)),
            "error_log.edges": torch.from_numpy(self.trajectory.edges),
            "error_log.epoch": self._ranks.largest(self._epoch),
        }
        return tensors, {"epochs": self.epochs}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continues from `state`; cuts a raw log back to the epochs that the checkpoint knows."""
        if "error_log.edges" in tensors:
            self.trajectory.edges = tensors["error_log.edges"].numpy().copy()
        self.trajectory.counts = tensors["error_log.counts"].numpy().astype(np.int64)
        self._epoch.copy_(tensors["error_log.epoch"])
        self.epochs = values["epochs"]
        if self._raw is not None and self._ranks.main:
            truncate(self._raw, self.epochs * 4 * len(self._epoch))


def raw_errors(folder: Path) -> NDArray[np.float32]:
    """The raw log of a run directory as a memory map (epochs, atoms), eV/Å; NaN where an atom has no force label.

    Raises InputError when there is none, or it is not of this training.
    """
    path = folder / RAW
    sizes = ErrorTrajectory.load(folder / "errors.npz").structure_sizes
    if not path.is_file():
        raise InputError(f"{path} is missing; train with training.error_log.raw=true")
    row = 4 * int(sizes.sum())
    if path.stat().st_size % row or not path.stat().st_size:
        raise InputError(
            f"{path} has {path.stat().st_size} bytes, no multiple of the {row} of an epoch of {sizes.sum()} atoms; "
            "it is not of this training: train again with training.error_log.raw=true"
        )
    return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, int(sizes.sum()))


def truncate(path: Path, size: int) -> None:
    """Cuts a log back to its first `size` bytes. Raises InputError when it is shorter or cannot be written."""
    try:
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise InputError(
                f"{path} has {found} bytes, the checkpoint knows of {size}; put the file back or start again"
            )
        if found > size:
            with open(path, "r+b") as file:
                file.truncate(size)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _append(path: Path, content: bytes) -> None:
    try:
        with open(path, "ab") as file:
            file.write(content)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; free space and repeat the command to continue"
        ) from error
