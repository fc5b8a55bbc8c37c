"""Is the structure of a periodic system still that of its reference? Radial distributions of consecutive windows.

A trajectory of a liquid or an ion conductor can go wrong without any bond that breaks. MDsim (Fu et al., Trans. Mach.
Learn. Res. 2023) calls it unstable once the radial distribution of a window of 1 ps is too far from the reference's:
mean |g - g_ref| times the range beyond a limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fireassay.data.structure import Structure
from fireassay.observables.pairs import Pairs, count_pairs, usable_reach
from fireassay.observables.trajectory import Trajectory
from fireassay.simulation.criteria import Failure
from fireassay.simulation.state import State

RDF: Final = "radial_distribution"
_FRAMES: Final = 50  # of a window that are looked at
_WIDTH: Final = 0.1  # Å


class DistributionWindows:
    """An observer that counts distances in windows of `window` fs, for each replica by itself.

    `judged` adds a failure at the end of the first window whose distribution is too far from the reference's.
    """

    def __init__(self, start: Structure, reference: Trajectory, window: float, pairs: bool) -> None:
        self._start, self._window, self._each = start, window, pairs
        self._reach = usable_reach(np.concatenate([start.cell[None], reference.cell]), start.pbc)
        self._reference = self._curves(
            count_pairs(
                reference.atomic_numbers, reference.positions, reference.cell, reference.pbc, self._reach, _WIDTH
            )
        )
        self._counts: NDArray[np.int64] = np.zeros((0, 0, 0, 0), dtype=np.int64)
        self._frames: NDArray[np.int64] = np.zeros((0, 0), dtype=np.int64)
        self._timestep, self._steps, self._stride = 1.0, 1, 1

    def _curves(self, pairs: Pairs) -> dict[str, NDArray[np.float64]]:
        total, each = pairs.distribution()
        return dict(zip(pairs.names, each, strict=True)) if self._each else {"all": total}

    def begin(self, state: State, n_steps: int, timestep: float) -> None:
        """Room for the counts of all windows."""
        self._timestep, self._steps = timestep, max(1, round(self._window / timestep))
        self._stride = max(1, self._steps // _FRAMES)
        kinds = len(np.unique(self._start.atomic_numbers))
        bins = int(self._reach / _WIDTH + 1e-9)
        windows = n_steps // self._steps
        self._counts = np.zeros((windows, state.n_replicas, kinds * (kinds + 1) // 2, bins), dtype=np.int64)
        self._frames = np.zeros((windows, state.n_replicas), dtype=np.int64)

    def see(self, state: State, step: int, failed: Sequence[int] = ()) -> None:
        """Counts the distances of a step that is due."""
        window = (step - 1) // self._steps
        if step == 0 or step % self._stride or window >= len(self._counts):
            return
        replicas = state.replica.tolist()
        positions = state.positions.detach().cpu().double().numpy().reshape(len(replicas), -1, 3)
        for replica, x in zip(replicas, positions, strict=True):
            if replica not in failed:
                s = self._start
                found = count_pairs(s.atomic_numbers, x[None], s.cell[None], s.pbc, self._reach, _WIDTH, 1)
                self._counts[window, replica] += found.counts
                self._frames[window, replica] += 1

    def judged(self, failures: Sequence[Failure], limit: float) -> tuple[Failure, ...]:
        """The failures with those of windows that went wrong before, one for each replica, in the order of replicas."""
        found = {failure.replica: failure for failure in failures}
        elements, numbers = np.unique(self._start.atomic_numbers, return_counts=True)
        volume = abs(float(np.linalg.det(self._start.cell)))
        for replica in range(self._frames.shape[1]):
            for window in range(len(self._frames)):
                step = (window + 1) * self._steps
                before = found.get(replica)
                if not self._frames[window, replica] or (before is not None and before.step < step):
                    break
                counts = self._counts[window, replica]
                pairs = Pairs(elements, numbers, _WIDTH, counts, counts * volume, int(self._frames[window, replica]))
                value = max(
                    float(np.abs(g - self._reference[name]).mean() * len(g) * _WIDTH)
                    for name, g in self._curves(pairs).items()
                )
                if value > limit:
                    found[replica] = Failure(replica, RDF, (), step, step * self._timestep, value, limit, "Å")
                    break
        return tuple(found[replica] for replica in sorted(found))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Nothing: `judged` tells."""
        return {}

    def checkpoint(self) -> dict[str, Tensor]:
        """The counts."""
        return {"counts": torch.from_numpy(self._counts), "frames": torch.from_numpy(self._frames)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The counts of then."""
        self._counts, self._frames = tensors["counts"].numpy().copy(), tensors["frames"].numpy().copy()
