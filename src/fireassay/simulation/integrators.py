"""Equations of motion, one function per step: velocity Verlet (NVE) and Langevin dynamics (BAOAB).

A step maps a state whose forces belong to its positions to the next such state. It calls `forces` once.

| symbol | code | unit |
|---|---|---|
| x, v, m | `positions`, `velocities`, `masses` | Å, Å/fs, amu |
| f(x) = -dE/dx | `forces` | eV/Å |
| a = f / m | `forces * ACCELERATION / masses` | Å/fs² |
| Δt | `timestep` | fs |
| T, k_B | `temperature`, `BOLTZMANN` | K, eV/K |
| γ | `friction` | 1/fs |
| R | `noise`, N(0, 1) | |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.simulation.state import State, moving, sizes
from fireassay.units import ACCELERATION, BOLTZMANN

ForceCall = Callable[[State], State]


class Integrator(Protocol):
    """How a run moves on. `begin` prepares a state, `step` takes it from step number `step` to the next.

    `needs_stress` says whether every force call has to bring stress as well.
    """

    needs_stress: ClassVar[bool]

    @property
    def timestep(self) -> float:
        """Δt in fs."""
        ...

    def begin(self, state: State, forces: ForceCall) -> State:
        """The state with forces, and with the degrees of freedom that this motion keeps warm."""
        ...

    def step(self, state: State, forces: ForceCall, step: int) -> State:
        """The state after time step number `step`, counted from 0."""
        ...

    def forget(self, replicas: Sequence[int]) -> None:
        """These replicas, by their numbers at the start, have begun anew: what was kept of them is no more."""
        ...

    def checkpoint(self) -> dict[str, Tensor]:
        """What an exact resume needs beside the state."""
        ...

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Continues from a checkpoint."""
        ...


class Ramp(NamedTuple):
    """A target that goes in a straight line from `first` to `last` within `steps` steps, and stays there."""

    first: float
    last: float
    steps: int

    def at(self, step: int) -> float:
        """The target at the beginning of step number `step`."""
        return self.first + (self.last - self.first) * min(step / self.steps, 1.0)


Target = float | Ramp


def target_at(target: Target, step: int) -> float:
    """The target of a step."""
    return target.at(step) if isinstance(target, Ramp) else target


def kick(state: State, timestep: float | Tensor) -> State:
    """v ← v + Δt f / m."""
    gain = (timestep * ACCELERATION) / state.masses
    return state._replace(velocities=torch.addcmul(state.velocities, state.forces, gain.unsqueeze(1)))


def drift(state: State, timestep: float) -> State:
    """x ← x + Δt v."""
    return state._replace(positions=torch.add(state.positions, state.velocities, alpha=timestep))


def velocity_verlet_step(state: State, forces: ForceCall, timestep: float) -> State:
    """v += Δt/2 a; x += Δt v; a = a(x); v += Δt/2 a (Swope et al., J. Chem. Phys. 76, 637, 1982).

    Symplectic and reversible, of second order: the energy of a smooth potential oscillates by O(Δt²) without drift.
    """
    state = kick(state, timestep / 2)
    state = drift(state, timestep)
    state = forces(state)
    return kick(state, timestep / 2)


def langevin_step(
    state: State, forces: ForceCall, timestep: float, temperature: float | Tensor, friction: float, noise: Tensor
) -> State:
    """One step of BAOAB for dv = (f/m) dt - γ v dt + sqrt(2 γ k_B T / m) dW, noise (N, 3).

    B: v += Δt/2 a; A: x += Δt/2 v; O: v = c v + sqrt((1 - c²) k_B T / m) R with c = exp(-γ Δt); A; a = a(x); B
    (Leimkuhler, Matthews, Appl. Math. Res. eXpress 2013, 34). Configurations of a harmonic oscillator are sampled
    without any error in Δt; its velocities carry <v²> = (1 - (ωΔt)²/4) k_B T / m, when measured at whole steps.
    temperature in K, one number or one per atom (N,).
    """
    decay = math.exp(-friction * timestep)
    spread = (state.masses.reciprocal() * (temperature * (BOLTZMANN * ACCELERATION * (1 - decay**2)))).sqrt()
    state = kick(state, timestep / 2)
    state = drift(state, timestep / 2)
    if state.fixed is not None:
        spread = torch.where(state.fixed, 0.0, spread)
    state = state._replace(velocities=torch.addcmul(state.velocities * decay, noise, spread.unsqueeze(1)))
    state = drift(state, timestep / 2)
    state = forces(state)
    return kick(state, timestep / 2)


class Noise:
    """Standard normal numbers for every atom and step, drawn per replica from its own generator.

    With `rows` there are so many rows of three numbers for each replica instead of one for each atom.

    What a replica is given depends on its seed and on the step alone: not on the other replicas, not on which of them
    have left the batch, not on the device. Numbers are drawn in blocks of steps, so the loop over replicas is rare;
    `checkpoint` holds the generators at the start of the current block, from which the block is drawn again.
    """

    def __init__(self, draws: Sequence[torch.Generator], block: int = 64, rows: int | None = None) -> None:
        self._draws, self._steps, self._rows = list(draws), block, rows
        self._sizes: list[int] = []
        self._freedom: list[int] = []
        self._block: _Block | None = None

    def begin(self, state: State) -> None:
        """Told of the replicas' sizes while all of them are there. Raises InputError when generators are too few."""
        if len(self._draws) != state.n_replicas:
            raise InputError(f"{len(self._draws)} noise generators for {state.n_replicas} replicas; give one for each")
        self._sizes = sizes(state).tolist() if self._rows is None else [self._rows] * state.n_replicas
        self._freedom = state.degrees_of_freedom.round().to(torch.int64).tolist()

    def at(self, step: int, state: State) -> Tensor:
        """R (N, 3), or (R, rows, 3), of step number `step`; steps must not go back behind the current block."""
        values = self._of(step).values[step % self._steps].to(state.velocities)
        if self._rows is None:
            return values.index_select(0, state.atom)
        return values.view(-1, self._rows, 3).index_select(0, state.replica)

    def squares(self, step: int, state: State) -> tuple[Tensor, Tensor]:
        """Of as many numbers as a replica has degrees of freedom: the first (R,), and the sum of all squares (R,)."""
        found = self._of(step).squares[step % self._steps].to(state.velocities).index_select(0, state.replica)
        return found[:, 0], found[:, 1]

    def _of(self, step: int) -> _Block:
        """The block of a step."""
        number = step // self._steps
        block = self._block
        while block is None or block.number < number:
            block = self._block = self._next(-1 if block is None else block.number)
        if number < block.number:
            raise InputError(f"noise of step {step} was drawn and forgotten; start again from the seed")
        return block

    def _next(self, number: int) -> _Block:
        states = torch.stack([generator.get_state() for generator in self._draws])
        drawn = [
            torch.randn(self._steps, n, 3, generator=generator, dtype=torch.float64)
            for generator, n in zip(self._draws, self._sizes, strict=True)
        ]
        flat = [values.flatten(1)[:, :f] for values, f in zip(drawn, self._freedom, strict=True)]
        squares = torch.stack([torch.stack([v[:, 0], v.square().sum(1)], 1) for v in flat], 1)
        return _Block(number + 1, states, torch.cat(drawn, dim=1), squares)

    def checkpoint(self) -> dict[str, Tensor]:
        """What `restore` needs."""
        if self._block is None:
            return {}
        return {
            "noise.number": torch.tensor(self._block.number),
            "noise.sizes": torch.tensor(self._sizes),
            "noise.freedom": torch.tensor(self._freedom),
            "noise.generators": self._block.generators,
        }

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Continues where `checkpoint` was taken."""
        if "noise.number" not in arrays:
            return
        for generator, state in zip(self._draws, arrays["noise.generators"], strict=True):
            generator.set_state(state.clone())
        self._sizes = arrays["noise.sizes"].tolist()
        self._freedom = arrays["noise.freedom"].tolist()
        self._block = self._next(int(arrays["noise.number"]) - 1)


class _Block(NamedTuple):
    number: int
    generators: Tensor  # (R, bytes) their states before the block was drawn
    values: Tensor  # (steps, N, 3)
    squares: Tensor  # (steps, R, 2) the first number of each replica, and the sum of squares of its first f ones


@dataclass(frozen=True)
class VelocityVerlet:
    """Constant energy: `velocity_verlet_step` every `timestep` fs."""

    timestep: float
    needs_stress: ClassVar[bool] = False

    def begin(self, state: State, forces: ForceCall) -> State:
        """The state with forces."""
        return forces(state)

    def step(self, state: State, forces: ForceCall, step: int) -> State:
        """One step of velocity Verlet."""
        return velocity_verlet_step(state, forces, self.timestep)

    def forget(self, replicas: Sequence[int]) -> None:
        """Nothing is kept."""

    def checkpoint(self) -> dict[str, Tensor]:
        """Nothing: the state is all."""
        return {}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


@dataclass(frozen=True)
class Langevin:
    """Constant temperature (K) by `langevin_step`; friction in 1/fs. All 3n degrees of freedom are thermal."""

    timestep: float
    temperature: Target
    friction: float
    noise: Noise
    needs_stress: ClassVar[bool] = False

    def begin(self, state: State, forces: ForceCall) -> State:
        """The state with forces; the thermostat sets translation and rotation in motion, so they count."""
        self.noise.begin(state)
        return forces(state)._replace(degrees_of_freedom=(3 * moving(state)).to(state.degrees_of_freedom))

    def step(self, state: State, forces: ForceCall, step: int) -> State:
        """One step of BAOAB."""
        noise = self.noise.at(step, state)
        return langevin_step(state, forces, self.timestep, target_at(self.temperature, step), self.friction, noise)

    def forget(self, replicas: Sequence[int]) -> None:
        """Nothing is kept."""

    def checkpoint(self) -> dict[str, Tensor]:
        """The noise."""
        return self.noise.checkpoint()

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """The noise goes on where it was."""
        self.noise.restore(arrays)
