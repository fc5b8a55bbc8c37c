"""Heat baths that act on all velocities of a replica: Berendsen's, canonical velocity rescaling, Nosé-Hoover chains.

| symbol | code | unit |
|---|---|---|
| T, T0 | `temperature(state)`, `target` | K |
| Δt, τ | `timestep`, `time_constant` | fs |
| f | `state.degrees_of_freedom` | |
| K, K0 | kinetic energy, f k_B T0 / 2 | eV |
| λ, α | factors of the velocities | |
| ξ_k, v_k, Q_k | variables of the chain, their velocities and masses | 1, 1/fs, eV fs² |

Berendsen's weak coupling brings the temperature to its target exponentially, with τ, and does not sample the canonical
ensemble: kinetic energy fluctuates too little. It is here because published stability tests use it. The other two do
sample it: velocity rescaling by drawing the kinetic energy, whatever the system; the chain without randomness, so that
stiff systems near harmonic need care.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fireassay.errors import InputError
from fireassay.kernel_cache import cached
from fireassay.simulation.integrators import (
    ForceCall,
    Noise,
    Target,
    drift,
    kick,
    target_at,
    velocity_verlet_step,
)
from fireassay.simulation.state import State, kinetic_energy, sizes, sum_per_replica, temperature
from fireassay.units import BOLTZMANN

Array = NDArray[np.float64]
_CUBE_ROOT: Final = 2 ** (1 / 3)
SUZUKI_YOSHIDA: Final = (1 / (2 - _CUBE_ROOT), -_CUBE_ROOT / (2 - _CUBE_ROOT), 1 / (2 - _CUBE_ROOT))  # of fourth order


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
    if fix_centre_of_mass and state.fixed is None:
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
    temperature: Target
    time_constant: float
    fix_centre_of_mass: bool = True
    needs_stress: ClassVar[bool] = False

    def begin(self, state: State, forces: ForceCall) -> State:
        """The state with forces."""
        return forces(state)

    def step(self, state: State, forces: ForceCall, step: int) -> State:
        """One step of velocity Verlet with velocity rescaling."""
        return berendsen_step(
            state,
            forces,
            self.timestep,
            target_at(self.temperature, step),
            self.time_constant,
            self.fix_centre_of_mass,
        )

    def forget(self, replicas: Sequence[int]) -> None:
        """Nothing is kept."""

    def checkpoint(self) -> dict[str, Tensor]:
        """Nothing: the state is all."""
        return {}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


def rescaling_factor(
    state: State, timestep: float, target: float, time_constant: float, first: Tensor, squares: Tensor
) -> Tensor:
    """α per replica (R,), by which velocities are multiplied so that K follows its canonical dynamics.

    α² = c + (1 - c) K0/(f K) Σ R_i² + 2 R_1 sqrt(c (1 - c) K0/(f K)), with c = exp(-Δt/τ) and f normal numbers R, and
    the sign of R_1 + sqrt(c f K / ((1 - c) K0)) (Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101, 2007, eq. A7,
    A8). `first` (R,) is R_1, `squares` (R,) the sum of all R_i².
    """
    decay = math.exp(-timestep / time_constant)
    share = 0.5 * BOLTZMANN * target / kinetic_energy(state).clamp(min=1e-300)  # K0 / (f K)
    square = decay + (1 - decay) * share * squares + 2 * first * (decay * (1 - decay) * share).sqrt()
    sign = torch.sign(first + (decay / ((1 - decay) * share)).sqrt())
    return sign * square.clamp(min=0).sqrt()


@dataclass(frozen=True)
class VelocityRescaling:
    """Constant temperature (K) by canonical sampling through velocity rescaling (CSVR); time_constant in fs.

    After each step of velocity Verlet all velocities of a replica are multiplied by `rescaling_factor`. Total momentum
    and angular momentum that are zero stay so.
    """

    timestep: float
    temperature: Target
    time_constant: float
    noise: Noise
    needs_stress: ClassVar[bool] = False

    def begin(self, state: State, forces: ForceCall) -> State:
        """The state with forces."""
        self.noise.begin(state)
        return forces(state)

    def step(self, state: State, forces: ForceCall, step: int) -> State:
        """One step of velocity Verlet and one of the thermostat."""
        state = velocity_verlet_step(state, forces, self.timestep)
        target = target_at(self.temperature, step)
        factor = rescaling_factor(state, self.timestep, target, self.time_constant, *self.noise.squares(step, state))
        return state._replace(velocities=state.velocities * factor.index_select(0, state.structure).unsqueeze(1))

    def forget(self, replicas: Sequence[int]) -> None:
        """Nothing is kept."""

    def checkpoint(self) -> dict[str, Tensor]:
        """The noise."""
        return self.noise.checkpoint()

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """The noise goes on where it was."""
        self.noise.restore(arrays)


@cached(numba.njit, nogil=True)
def _half_chain(
    place: Array,
    speed: Array,
    factor: Array,
    double_kinetic: Array,
    freedom: Array,
    thermal: float,
    inertia: float,
    half_step: float,
) -> None:  # pragma: no cover (compiled)
    """ξ, v (R, links) of the chains half a step on, in place, and the factors (R,) of the velocities.

    On the host: a chain is a few hundred scalar operations, each of which would be a call or a launch of its own.
    """
    links = place.shape[1]
    weights = np.array(SUZUKI_YOSHIDA)
    for r in range(len(place)):
        scale = 1.0
        for weight in weights:
            span = weight * half_step
            for sweep in range(2):
                for k in range(links):
                    link = links - 1 - k if sweep == 0 else k
                    damp = math.exp(-span / 4 * speed[r, link + 1]) if link + 1 < links else 1.0
                    if link == 0:
                        gain, mass = double_kinetic[r] * scale * scale - freedom[r] * thermal, inertia * freedom[r]
                    else:
                        before = inertia * (freedom[r] if link == 1 else 1.0)
                        gain, mass = before * speed[r, link - 1] ** 2 - thermal, inertia
                    speed[r, link] = (speed[r, link] * damp + span / 2 * gain / mass) * damp
                if sweep == 0:
                    for k in range(links):
                        place[r, k] += span * speed[r, k]
                    scale *= math.exp(-span * speed[r, 0])
        factor[r] = scale


class NoseHooverChain:
    """Constant temperature (K) by a chain of Nosé-Hoover thermostats for each replica; time_constant in fs.

    Martyna, Tuckerman, Tobias, Klein, Mol. Phys. 87, 1117 (1996): half a step of the chain, velocity Verlet, half a
    step of the chain, each with the three weights of Suzuki and Yoshida. Q_1 = f k_B T τ² and Q_k = k_B T τ²; the sum
    of the total energy and `energy` is conserved at a constant target.

    Raises InputError for a chain shorter than one link or a time constant that is not positive.
    """

    needs_stress: ClassVar[bool] = False

    def __init__(self, timestep: float, temperature: Target, time_constant: float, links: int = 3) -> None:
        if links < 1 or not time_constant > 0:
            raise InputError(
                f"a Nosé-Hoover chain of {links} links and {time_constant} fs; needs a link or more and a positive time"
            )
        self.timestep, self.temperature, self.time_constant, self.links = timestep, temperature, time_constant, links
        # ξ and v (2, replicas at the start, links) before the steps of these numbers: the last two, so that a run that
        # is interrupted within a step finds what it began with.
        self._chains: dict[int, Tensor] = {}

    def begin(self, state: State, forces: ForceCall) -> State:
        """The state with forces; the chains at rest."""
        shape = (2, state.n_replicas, self.links)
        self._chains = {0: torch.zeros(shape, dtype=torch.float64)}
        return forces(state)

    def step(self, state: State, forces: ForceCall, step: int) -> State:
        """Half a step of the chain, one of velocity Verlet, half a step of the chain."""
        before, rows = self._chains[step], state.replica.cpu()
        chain = before.index_select(1, rows)
        thermal = BOLTZMANN * target_at(self.temperature, step)
        state, chain = self._half(state, chain, thermal)
        state = velocity_verlet_step(state, forces, self.timestep)
        state, chain = self._half(state, chain, thermal)
        self._chains = {step: before, step + 1: before.index_copy(1, rows, chain)}
        return state

    def energy(self, state: State) -> Tensor:
        """Σ Q_k v_k²/2 + f k_B T ξ_1 + k_B T (ξ_2 + ...) of the replicas (R,) in eV."""
        step = max(self._chains)
        place, speed = self._chains[step].to(state.replica.device).index_select(1, state.replica)
        thermal = BOLTZMANN * target_at(self.temperature, step)
        mass = self._masses(state, thermal)
        return (
            (0.5 * mass * speed.square()).sum(1)
            + thermal * state.degrees_of_freedom * place[:, 0]
            + thermal * place[:, 1:].sum(1)
        )

    def _masses(self, state: State, thermal: float) -> Tensor:
        mass = torch.full(
            (state.n_replicas, self.links),
            thermal * self.time_constant**2,
            dtype=torch.float64,
            device=state.positions.device,
        )
        mass[:, 0] *= state.degrees_of_freedom
        return mass

    def _half(self, state: State, chain: Tensor, thermal: float) -> tuple[State, Tensor]:
        place, speed = chain[0].clone(), chain[1].clone()
        factor = torch.empty(state.n_replicas, dtype=torch.float64)
        _half_chain(
            place.numpy(), speed.numpy(), factor.numpy(),
            (2 * kinetic_energy(state)).detach().cpu().double().numpy(),
            state.degrees_of_freedom.detach().cpu().double().numpy(),
            thermal, thermal * self.time_constant**2, self.timestep / 2,
        )  # fmt: skip
        scale = factor.to(state.velocities).index_select(0, state.structure).unsqueeze(1)
        return state._replace(velocities=state.velocities * scale), torch.stack([place, speed])

    def forget(self, replicas: Sequence[int]) -> None:
        """Their chains are at rest."""
        for chain in self._chains.values():
            chain[:, list(replicas)] = 0.0

    def checkpoint(self) -> dict[str, Tensor]:
        """The chains."""
        return {"chain.steps": torch.tensor(list(self._chains)), "chain.values": torch.stack([*self._chains.values()])}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """The chains go on where they were."""
        if "chain.steps" in arrays:
            like = next(iter(self._chains.values()), arrays["chain.values"])
            steps = arrays["chain.steps"].tolist()
            self._chains = dict(zip(steps, arrays["chain.values"].to(like), strict=True))
