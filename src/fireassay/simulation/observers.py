"""What a run writes down while it goes: quantities at a stride, and the last frames before a failure.

The observers of this file store by step number into arrays of the size of the whole run: writing the same step twice
changes nothing. Others may add up or append: a run that is interrupted ends between two steps, each of which has been
seen once. Replicas and atoms keep the numbers that they had at the start; what a replica has left undone is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from fireassay.errors import InputError, nearest
from fireassay.simulation.state import State, kinetic_energy, pressure, temperature, volume

Arrays = dict[str, NDArray]


class Observer(Protocol):
    """Told of every state; `begin` of the first, which has all replicas."""

    def begin(self, state: State, n_steps: int, timestep: float) -> None:
        """Allocates what a run of `n_steps` from `state` needs."""
        ...

    def see(self, state: State, step: int, failed: Sequence[int] = ()) -> None:
        """The state after step number `step` (0 is the start); `failed` lists the replicas that end with it."""
        ...

    def arrays(self) -> Arrays:
        """What was seen, on the host."""
        ...

    def checkpoint(self) -> dict[str, Tensor]:
        """What an exact resume needs."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continues from a checkpoint, after `begin`."""
        ...


_PER_REPLICA = {
    "temperature": temperature,
    "kinetic_energy": kinetic_energy,
    "potential_energy": lambda state: state.energy,
    "total_energy": lambda state: state.energy + kinetic_energy(state),
    "pressure": pressure,
    "volume": volume,
}
_PER_ATOM = ("positions", "velocities", "forces")


class Recorder:
    """Quantities every `stride` steps, step 0 included.

    `quantities` are among temperature (K), kinetic_energy, potential_energy, total_energy (eV), pressure (eV/Å^3, NaN
    in a run without stress), volume (Å^3), each (T, R), and positions (Å), velocities (Å/fs), forces (eV/Å), each
    (T, N, 3); `time` (T,) fs comes with them. Raises InputError for another name.
    """

    def __init__(self, stride: int = 1, quantities: Sequence[str] = ("temperature", "potential_energy")) -> None:
        known = [*_PER_REPLICA, *_PER_ATOM]
        for name in quantities:
            if name not in known:
                raise InputError(f"{name!r} is not recorded; needs one of {known}{nearest(name, known)}")
        if stride < 1:
            raise InputError(f"stride {stride}; needs at least 1 step")
        self.stride, self.quantities = stride, tuple(quantities)
        self._store: dict[str, Tensor] = {}

    def begin(self, state: State, n_steps: int, timestep: float) -> None:
        """Allocates the arrays on the host."""
        rows = n_steps // self.stride + 1
        self._store = {"time": torch.arange(rows, dtype=torch.float64) * (self.stride * timestep)}
        for name in self.quantities:
            shape = (rows, state.n_replicas) if name in _PER_REPLICA else (rows, state.n_atoms, 3)
            dtype = torch.float64 if name in _PER_REPLICA else state.positions.dtype
            self._store[name] = torch.full(shape, torch.nan, dtype=dtype)

    def see(self, state: State, step: int, failed: Sequence[int] = ()) -> None:
        """Stores the state when its step is due."""
        if step % self.stride:
            return
        row = step // self.stride
        for name in self.quantities:
            if name in _PER_REPLICA:
                values, where = _PER_REPLICA[name](state), state.replica
            else:
                values, where = getattr(state, name), state.atom
            store = self._store[name]
            store[row].index_copy_(0, where.to(store.device), values.detach().to(store))

    def arrays(self) -> Arrays:
        """`time` and one array per quantity."""
        return {name: tensor.numpy() for name, tensor in self._store.items()}

    def checkpoint(self) -> dict[str, Tensor]:
        """The arrays."""
        return dict(self._store)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continues."""
        for name, store in self._store.items():
            store.copy_(tensors[name])


class LastFrames:
    """A ring of the last `frames` frames, `stride` steps apart, of every replica; the frame of a failure comes last.

    Arrays, atoms as in the initial batch: `last_positions` (F, N, 3) Å, `last_forces` (F, N, 3) eV/Å and `last_step`
    (F, R), in the order of time for each replica; NaN and -1 in front where a replica has lived for fewer frames.
    """

    def __init__(self, frames: int = 20, stride: int = 5) -> None:
        if frames < 1 or stride < 1:
            raise InputError(f"{frames} frames every {stride} steps; needs at least 1 of both")
        self.frames, self.stride = frames, stride
        self._structure = torch.zeros(0, dtype=torch.int64)

    def begin(self, state: State, n_steps: int, timestep: float) -> None:
        """Allocates the ring."""
        device, n = state.positions.device, state.n_atoms
        self._positions = torch.full((self.frames, n, 3), torch.nan, dtype=state.positions.dtype, device=device)
        self._forces = torch.full_like(self._positions, torch.nan)
        self._step = torch.full((self.frames, state.n_replicas), -1, dtype=torch.int64, device=device)
        self._structure = state.structure.clone()

    def see(self, state: State, step: int, failed: Sequence[int] = ()) -> None:
        """Stores a frame when it is due, or when a replica fails: its last frame may come early."""
        if step % self.stride and not failed:
            return
        slot = -(-step // self.stride) % self.frames  # the next slot to come, for a failure between two
        if step % self.stride:
            gone = torch.isin(state.replica, torch.tensor(failed, device=state.replica.device))
            atoms = gone.index_select(0, state.structure)
        else:
            gone = torch.ones_like(state.replica, dtype=torch.bool)
            atoms = torch.ones_like(state.atom, dtype=torch.bool)
        self._positions[slot, state.atom[atoms]] = state.positions[atoms].detach()
        self._forces[slot, state.atom[atoms]] = state.forces[atoms].detach()
        self._step[slot, state.replica[gone]] = step

    def arrays(self) -> Arrays:
        """The frames in the order of time."""
        order = self._step.argsort(stable=True, dim=0)  # (F, R)
        atoms = order.index_select(1, self._structure).unsqueeze(2).expand_as(self._positions)
        return {
            "last_positions": self._positions.gather(0, atoms).cpu().numpy(),
            "last_forces": self._forces.gather(0, atoms).cpu().numpy(),
            "last_step": self._step.gather(0, order).cpu().numpy(),
        }

    def checkpoint(self) -> dict[str, Tensor]:
        """The ring as it lies."""
        return {"positions": self._positions, "forces": self._forces, "step": self._step}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continues."""
        for store, name in ((self._positions, "positions"), (self._forces, "forces"), (self._step, "step")):
            store.copy_(tensors[name])
