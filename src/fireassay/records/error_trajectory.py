"""Per-atom errors over a training, as they are kept for LTAU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireassay.errors import InputError
from fireassay.records.files import read_arrays, write_arrays


@dataclass
class ErrorTrajectory:
    """Per-atom errors over the epochs of a training, as one histogram per atom (LTAU-FF, section 2).

    edges (B + 1,), ascending, in `unit`; counts (A, B + 2) with column 0 the underflow and column B + 1 the overflow.
    Atoms are numbered by the training set's order: structure by structure, atom by atom; `structure_sizes` (S,) tells
    them apart, and `frames` is the training set's fingerprint (`data.fingerprint`), empty when it is not known. An atom
    without a force label has no counts.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    structure_sizes: NDArray[np.int64]
    metric: str = "force_error_norm"
    unit: str = "eV/Å"
    frames: str = ""

    @classmethod
    def empty(
        cls,
        structure_sizes: NDArray[np.int64],
        lowest: float = 1e-8,
        highest: float = 1e3,
        bins: int = 100,
        frames: str = "",
    ) -> ErrorTrajectory:
        """No errors yet; `bins` logarithmic bins from `lowest` to `highest`."""
        edges = np.geomspace(lowest, highest, bins + 1)
        counts = np.zeros((int(structure_sizes.sum()), bins + 2), dtype=np.int64)
        return cls(edges, counts, structure_sizes, frames=frames)

    def add(self, atoms: NDArray[np.int64], errors: NDArray[np.float64]) -> None:
        """Counts one error for each of the distinct `atoms` (n,)."""
        self.counts[atoms, np.searchsorted(self.edges, errors, side="right")] += 1

    def reach(self, error: float) -> None:
        """Adds bins of the same ratio of edges above the highest until `error` has one: what was counted stays so."""
        bins = len(self.edges) - 1
        ratio = (self.edges[-1] / self.edges[0]) ** (1 / bins)
        more = 0 if error < self.edges[-1] else 1 + int(np.log(error / self.edges[-1]) / np.log(ratio) + 1e-9)
        self.edges = np.concatenate([self.edges, self.edges[-1] * ratio ** np.arange(1, more + 1)])
        self.counts = np.insert(self.counts, [bins + 1] * more, 0, axis=1)

    def save(self, path: Path) -> None:
        """Writes an npz atomically."""
        write_arrays(path, {**self.state(), "metric": self.metric, "unit": self.unit, "frames": self.frames})

    def state(self) -> dict[str, NDArray[Any]]:
        """The arrays, for a checkpoint."""
        return {"edges": self.edges, "counts": self.counts, "structure_sizes": self.structure_sizes}

    @classmethod
    def load(cls, path: Path) -> ErrorTrajectory:
        """Reads what `save` wrote."""
        data = read_arrays(path)
        try:
            sizes, texts = data["structure_sizes"], [str(data[name]) for name in ("metric", "unit", "frames")]
            return cls(data["edges"], data["counts"], sizes, *texts)
        except KeyError as error:
            raise InputError(
                f"{path} is not an error trajectory of this version: {error} is missing; train again"
            ) from error
