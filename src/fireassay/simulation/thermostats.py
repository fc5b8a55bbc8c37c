"""Weak coupling to a heat bath after Berendsen.

| symbol | code | unit |
|---|---|---|
| T, T0 | `temperature(state)`, `target` | K |
| Δt, τ | `timestep`, `time_constant` | fs |
| λ | `scaling` | |

Weak coupling brings the temperature to its target exponentially, with τ, and does not sample the canonical ensemble:
kinetic energy fluctuates too little. It is here because published stability tests use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fireassay.simulation.integrators import ForceCall, drift, kick
from fireassay.simulation.state import State, sizes, sum_per_replica, temperature


def berendsen_scaling(state: State, timestep: float, target: float, time_constant: float) -> Tensor:
    """λ = sqrt(1 + (Δt/τ) (T0/T - 1)) per replica (R,), kept within [0.9, 1.1].

    Berendsen et al., J. Chem. Phys. 81, 3684 (1984), eq. 11; the bounds are ASE's, and matter far from T0 only.
    """
    ratio = target / temperature(state).clamp(min=1e-12)
    return (1 + (timestep / time_constant) * (ratio - 1)).clamp(min=0).sqrt().clamp(0.9, 1.1)


def berendsen_step(
    state: State,
    forces: ForceCall,
    timestep: float,
    target: float,
    time_constant: float,
    fix_centre_of_mass: bool = True,
) -> State:
    """v ← λ v, then velocity Verlet: the order of ASE's NVTBerendsen.

    With `fix_centre_of_mass` the total momentum is shared out equally over the atoms and subtracted after the first
    half kick, so that rounding errors in the forces do not make the replica drift.
    """
    scaling = berendsen_scaling(state, timestep, target, time_constant)
    state = state._replace(velocities=state.velocities * scaling.index_select(0, state.structure).unsqueeze(1))
    state = kick(state, timestep / 2)
    if fix_centre_of_mass:
        state = _share_out_momentum(state)
    state = drift(state, timestep)
    state = forces(state)
    return kick(state, timestep / 2)


def _share_out_momentum(state: State) -> State:
    mass = state.masses.unsqueeze(1)
    mean = sum_per_replica(state.velocities * mass, state) / sizes(state).unsqueeze(1)
    return state._replace(velocities=state.velocities - mean.index_select(0, state.structure) / mass)


@dataclass(frozen=True)
class Berendsen:
    """Constant temperature (K) by `berendsen_step`; time_constant in fs."""

    timestep: float
    temperature: float
    time_constant: float
    fix_centre_of_mass: bool = True

    def begin(self, state: State, forces: ForceCall) -> State:
        """The state with forces."""
        return forces(state)

    def step(self, state: State, forces: ForceCall, step: int) -> State:
        """One step of velocity Verlet with velocity rescaling."""
        return berendsen_step(
            state, forces, self.timestep, self.temperature, self.time_constant, self.fix_centre_of_mass
        )

    def checkpoint(self) -> dict[str, Tensor]:
        """Nothing: the state is all."""
        return {}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""
