"""Relaxation of many structures at once with FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006).

| symbol | code | |
|---|---|---|
| v, f | `velocity`, `forces` | of unit mass: Å per unit of time, eV/Å |
| P = f · v | `power` | per replica |
| Δt, α, N_min | `timestep`, `mixing`, `patience` | per replica, but for N_min |
| f_inc, f_dec, α_start, f_α | `GROWTH`, `SHRINKING`, `MIXING`, `MIXING_DECAY` | |

Cells stay as they are. Constants and the cap on the length of a move are those of ASE's FIRE, which a single structure
follows step by step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.potential import Predictor
from fireassay.progress import Progress, Silent
from fireassay.simulation.forces import Forces
from fireassay.simulation.state import State, select, squared_norm, sum_per_replica

GROWTH, SHRINKING, MIXING, MIXING_DECAY = 1.1, 0.5, 0.1, 0.99
FIRST_STEP, LONGEST_STEP, LONGEST_MOVE, PATIENCE = 0.1, 1.0, 0.2, 5


class Relaxation(NamedTuple):
    """Relaxed replicas at rest, whether each converged, after how many steps, and the largest force on an atom.

    `failures` says by row whose last calculation failed, and why.
    """

    state: State
    converged: Tensor  # (R,) bool
    steps: Tensor  # (R,) int64
    largest_force: Tensor  # (R,) eV/Å
    failures: Mapping[int, str]


class _Fire(NamedTuple):
    velocity: Tensor  # (N, 3)
    timestep: Tensor  # (R,)
    mixing: Tensor  # (R,)
    downhill: Tensor  # (R,) int64, consecutive steps with P > 0


def largest_force(state: State) -> Tensor:
    """The largest norm of a force on an atom of each replica (R,) in eV/Å; NaN and infinity count as infinity."""
    norm = torch.nan_to_num(torch.linalg.vector_norm(state.forces, dim=1), nan=torch.inf)
    return norm.new_zeros(state.n_replicas).scatter_reduce_(0, state.structure, norm, "amax")


def fire_step(state: State, fire: _Fire) -> tuple[State, _Fire]:
    """One move of every replica along forces that belong to its positions; the new state's forces are stale.

    Uphill or at the start the velocity is zeroed and Δt shrinks; downhill v = (1 - α) v + α |v| f/|f| and, after N_min
    such steps, Δt grows and α decays. Then v += Δt f; x += Δt v, no longer than the cap over the whole replica.
    """

    def per_atom(values: Tensor) -> Tensor:
        return values.index_select(0, state.structure).unsqueeze(1)

    def norm(values: Tensor) -> Tensor:
        return sum_per_replica(squared_norm(values), state).sqrt()

    power = sum_per_replica((state.forces * fire.velocity) @ state.forces.new_ones(3), state)
    down = power > 0
    pull = fire.mixing * norm(fire.velocity) / norm(state.forces).clamp(min=1e-300)
    steered = fire.velocity * per_atom(1 - fire.mixing) + state.forces * per_atom(pull)
    velocity = torch.where(per_atom(down), steered, 0.0)
    patient = down & (fire.downhill > PATIENCE)
    timestep = torch.where(patient, (fire.timestep * GROWTH).clamp(max=LONGEST_STEP), fire.timestep)
    mixing = torch.where(patient, fire.mixing * MIXING_DECAY, fire.mixing)
    started = fire.downhill >= 0  # the first step neither shrinks nor resets
    timestep = torch.where(down | ~started, timestep, timestep * SHRINKING)
    mixing = torch.where(down | ~started, mixing, MIXING)
    downhill = torch.where(down, fire.downhill + 1, 0)
    velocity = velocity + per_atom(timestep) * state.forces
    move = per_atom(timestep) * velocity
    cap = (LONGEST_MOVE / norm(move).clamp(min=1e-300)).clamp(max=1.0)
    return state._replace(positions=state.positions + move * per_atom(cap)), _Fire(velocity, timestep, mixing, downhill)


def relax(
    predictor: Predictor,
    state: State,
    *,
    force_limit: float = 0.01,
    max_steps: int = 1000,
    skin: float = 0.5,
    progress: Progress | None = None,
) -> Relaxation:
    """Moves every replica downhill until its largest force is below `force_limit` eV/Å, for at most `max_steps` steps.

    Replicas that have converged, or whose forces are not finite, leave the batch. Raises InputError when the limit is
    not positive or an element is unknown to the potential.
    """
    if not force_limit > 0:
        raise InputError(f"force limit {force_limit} eV/Å; needs to be positive")
    progress = progress or Silent()
    forces = Forces(predictor, skin=skin)
    forces.check(state)
    start = state._replace(
        replica=torch.arange(state.n_replicas, device=state.replica.device),
        atom=torch.arange(state.n_atoms, device=state.atom.device),
        velocities=torch.zeros_like(state.velocities),
    )
    final = start._replace(positions=state.positions.clone(), forces=state.forces.clone(), energy=state.energy.clone())
    size = {"device": state.positions.device, "dtype": state.positions.dtype}
    steps = torch.zeros_like(start.replica)
    largest = torch.zeros(state.n_replicas, **size)
    ones = torch.ones(state.n_replicas, **size)
    fire = _Fire(start.velocities, ones * FIRST_STEP, ones * MIXING, torch.full_like(start.replica, -1))
    moving, failures = start, {}
    progress.start("relaxation", max_steps)
    try:
        for step in range(max_steps + 1):
            moving = forces(moving)
            failures |= {int(moving.replica[row]): message for row, message in forces.failures.items()}
            now = largest_force(moving)
            final.positions[moving.atom], final.forces[moving.atom] = moving.positions, moving.forces
            final.energy[moving.replica], largest[moving.replica], steps[moving.replica] = moving.energy, now, step
            go_on = (now >= force_limit) & torch.isfinite(now)
            if step == max_steps or not bool(go_on.any()):
                break
            if not bool(go_on.all()):
                atoms = go_on.index_select(0, moving.structure)
                moving = select(moving, go_on)
                fire = _Fire(fire.velocity[atoms], *(values[go_on] for values in fire[1:]))
            moving, fire = fire_step(moving, fire)
            progress.advance(1, f"largest force {float(now.max()):.3g} eV/Å")
    finally:
        progress.stop()
    numbered = final._replace(replica=state.replica, atom=state.atom)
    return Relaxation(numbered, largest < force_limit, steps, largest, failures)
