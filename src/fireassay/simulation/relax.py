"""Relaxation of many structures at once, positions and cells: FIRE and L-BFGS.

| symbol | code | |
|---|---|---|
| q, f | `Coordinates.points`, `Coordinates.forces` | Å, eV/Å: atoms, and with a cell three more rows a replica |
| F, σ, V, P0 | `deformation`, `state.stress`, volume, `pressure` | |
| v | `velocity` | of unit mass: Å per unit of time |
| P = f · v | `power` | per replica |
| Δt, α, N_min | `timestep`, `mixing`, `patience` | per replica, but for N_min |
| f_inc, f_dec, α_start, f_α | `GROWTH`, `SHRINKING`, `MIXING`, `MIXING_DECAY` | |
| s, y, ρ | changes of points and of gradients, 1 / (s · y) | the last `MEMORY` steps |

With a cell, atoms are where they would be without the deformation F, and F itself, times the number of atoms, gives the
rows of the cell: forces on them are -V (σ + P0) F⁻ᵀ / n, so that a cell under tension, σ > 0, shrinks (Tadmor et al.,
J. Appl. Phys. 85, 6379, 1999; ASE's UnitCellFilter). FIRE is that of Bitzek et al., Phys. Rev. Lett. 97, 170201
(2006), with the constants of ASE's, which a single structure follows step by step; L-BFGS is that of Liu and Nocedal,
Math. Program. 45, 503 (1989), with ASE's first curvature and longest move.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.potential import Predictor
from fireassay.progress import Progress, Silent
from fireassay.simulation.forces import Forces
from fireassay.simulation.state import State, renumbered, select, sizes, squared_norm, volume

GROWTH, SHRINKING, MIXING, MIXING_DECAY = 1.1, 0.5, 0.1, 0.99
FIRST_STEP, LONGEST_STEP, LONGEST_MOVE, PATIENCE = 0.1, 1.0, 0.2, 5
MEMORY: Final = 20  # steps that L-BFGS remembers
CURVATURE: Final = 70.0  # eV/Å², of the first guess
Method = Literal["fire", "lbfgs"]


class Relaxation(NamedTuple):
    """Relaxed replicas at rest, whether each converged, after how many steps, and the largest force on an atom.

    `failures` says by row whose last calculation failed, and why. With a cell, `largest_stress` is the largest
    component of what is left of σ + P0 in eV/Å^3; 0 without.
    """

    state: State
    converged: Tensor  # (R,) bool
    steps: Tensor  # (R,) int64
    largest_force: Tensor  # (R,) eV/Å
    failures: Mapping[int, str]
    largest_stress: Tensor  # (R,) eV/Å^3


class Coordinates(NamedTuple):
    """What is moved, of R replicas: M points with the forces on them, and the row of each point's replica."""

    points: Tensor  # (M, 3) Å
    forces: Tensor  # (M, 3) eV/Å
    owner: Tensor  # (M,) int64

    def per_point(self, values: Tensor) -> Tensor:
        """Values (R,) for every point (M, 1)."""
        return values.index_select(0, self.owner).unsqueeze(1)

    def total(self, values: Tensor, replicas: int) -> Tensor:
        """The sum of values (M,) over each replica (R,)."""
        return values.new_zeros(replicas).index_add_(0, self.owner, values)


class _Optimiser(Protocol):
    def move(self, at: Coordinates, replicas: int) -> Tensor:
        """How far each point goes (M, 3) Å."""
        ...

    def keep(self, replicas: Tensor, points: Tensor) -> None:
        """Forgets the replicas and points that have left: booleans (R,) and (M,)."""
        ...


def largest_force(state: State) -> Tensor:
    """The largest norm of a force on an atom of each replica (R,) in eV/Å; NaN and infinity count as infinity."""
    norm = torch.nan_to_num(torch.linalg.vector_norm(state.forces, dim=1), nan=torch.inf)
    return norm.new_zeros(state.n_replicas).scatter_reduce_(0, state.structure, norm, "amax")


class Fire:
    """One move of every replica along forces that belong to its points.

    Uphill or at the start the velocity is zeroed and Δt shrinks; downhill v = (1 - α) v + α |v| f/|f| and, after N_min
    such steps, Δt grows and α decays. Then v += Δt f; x += Δt v, no longer than the cap over the whole replica.
    """

    def __init__(self, points: Tensor, replicas: int) -> None:
        ones = points.new_ones(replicas)
        self.velocity = torch.zeros_like(points)
        self.timestep, self.mixing = ones * FIRST_STEP, ones * MIXING
        self.downhill = torch.full((replicas,), -1, dtype=torch.int64, device=points.device)

    def move(self, at: Coordinates, replicas: int) -> Tensor:
        """Δt v, capped."""

        def norm(values: Tensor) -> Tensor:
            return at.total(squared_norm(values), replicas).sqrt()

        power = at.total((at.forces * self.velocity) @ at.forces.new_ones(3), replicas)
        down = power > 0
        pull = self.mixing * norm(self.velocity) / norm(at.forces).clamp(min=1e-300)
        steered = self.velocity * at.per_point(1 - self.mixing) + at.forces * at.per_point(pull)
        velocity = torch.where(at.per_point(down), steered, 0.0)
        patient = down & (self.downhill > PATIENCE)
        timestep = torch.where(patient, (self.timestep * GROWTH).clamp(max=LONGEST_STEP), self.timestep)
        mixing = torch.where(patient, self.mixing * MIXING_DECAY, self.mixing)
        started = self.downhill >= 0  # the first step neither shrinks nor resets
        self.timestep = torch.where(down | ~started, timestep, timestep * SHRINKING)
        self.mixing = torch.where(down | ~started, mixing, MIXING)
        self.downhill = torch.where(down, self.downhill + 1, 0)
        self.velocity = velocity + at.per_point(self.timestep) * at.forces
        move = at.per_point(self.timestep) * self.velocity
        cap = (LONGEST_MOVE / norm(move).clamp(min=1e-300)).clamp(max=1.0)
        return move * at.per_point(cap)

    def keep(self, replicas: Tensor, points: Tensor) -> None:
        """Those that are left."""
        self.velocity = self.velocity[points]
        self.timestep, self.mixing, self.downhill = (
            values[replicas] for values in (self.timestep, self.mixing, self.downhill)
        )


class LBFGS:
    """The two-loop recursion for every replica by itself; a step that met no positive curvature is not remembered."""

    def __init__(self) -> None:
        self._history: list[tuple[Tensor, Tensor, Tensor]] = []  # s (M, 3), y (M, 3), ρ (R,)
        self._last: tuple[Tensor, Tensor] | None = None

    def move(self, at: Coordinates, replicas: int) -> Tensor:
        """-H⁻¹ g, capped so that no point goes farther than the longest move."""

        def dot(a: Tensor, b: Tensor) -> Tensor:
            return at.total((a * b) @ a.new_ones(3), replicas)

        if self._last is not None:
            s, y = at.points - self._last[0], self._last[1] - at.forces
            product = dot(s, y)
            rho = torch.where(product > 1e-12, 1 / product.clamp(min=1e-12), 0.0)
            self._history = [*self._history[1 - MEMORY :], (s, y, rho)]
        self._last = (at.points, at.forces)
        q = -at.forces
        along = []
        for s, y, rho in reversed(self._history):
            a = rho * dot(s, q)
            along.append(a)
            q = q - at.per_point(a) * y
        z = q / CURVATURE
        for (s, y, rho), a in zip(self._history, reversed(along), strict=True):
            b = rho * dot(y, z)
            z = z + at.per_point(torch.where(rho > 0, a - b, 0.0)) * s
        longest = at.points.new_zeros(replicas).scatter_reduce_(0, at.owner, torch.linalg.vector_norm(z, dim=1), "amax")
        return -z * at.per_point((LONGEST_MOVE / longest.clamp(min=1e-300)).clamp(max=1.0))

    def keep(self, replicas: Tensor, points: Tensor) -> None:
        """Those that are left."""
        self._history = [(s[points], y[points], rho[replicas]) for s, y, rho in self._history]
        if self._last is not None:
            self._last = (self._last[0][points], self._last[1][points])


class _Cells:
    """The cells of the start, which a deformation F (R, 3, 3) takes to the present ones: cell = cell0 Fᵀ."""

    def __init__(self, state: State, pressure: float) -> None:
        self.cell0, self.pressure = state.cell, pressure
        self.deformation = torch.eye(3, dtype=state.cell.dtype, device=state.cell.device).expand_as(state.cell).clone()

    def coordinates(self, state: State) -> Coordinates:
        """Atoms without the deformation, and three rows of it a replica."""
        assert state.stress is not None
        f = self.deformation
        per_atom = f.index_select(0, state.structure)
        undeformed = torch.linalg.solve(per_atom, state.positions.unsqueeze(2)).squeeze(2)
        pulled = torch.bmm(state.forces.unsqueeze(1), per_atom).squeeze(1)
        n = sizes(state).to(f.dtype).view(-1, 1, 1)
        eye = torch.eye(3, dtype=f.dtype, device=f.device)
        virial = -volume(state).view(-1, 1, 1) * (state.stress + self.pressure * eye)
        rows = torch.linalg.solve(f, virial.transpose(1, 2)).transpose(1, 2) / n
        owner = torch.arange(state.n_replicas, device=state.structure.device).repeat_interleave(3)
        return Coordinates(
            torch.cat([undeformed, (f * n).reshape(-1, 3)]),
            torch.cat([pulled, rows.reshape(-1, 3)]),
            torch.cat([state.structure, owner]),
        )

    def placed(self, state: State, points: Tensor) -> State:
        """The state with the deformation and the atoms that `points` say."""
        n = sizes(state).to(points.dtype).view(-1, 1, 1)
        self.deformation = points[state.n_atoms :].view(-1, 3, 3) / n
        per_atom = self.deformation.index_select(0, state.structure)
        positions = torch.bmm(per_atom, points[: state.n_atoms].unsqueeze(2)).squeeze(2)
        return state._replace(positions=positions, cell=self.cell0 @ self.deformation.transpose(1, 2))

    def residual(self, state: State) -> Tensor:
        """The largest component of σ + P0 (R,) in eV/Å^3; NaN counts as infinity."""
        assert state.stress is not None
        eye = torch.eye(3, dtype=state.stress.dtype, device=state.stress.device)
        left = (state.stress + self.pressure * eye).abs().flatten(1).amax(1)
        return torch.nan_to_num(left, nan=torch.inf)

    def keep(self, replicas: Tensor) -> None:
        self.cell0, self.deformation = self.cell0[replicas], self.deformation[replicas]


def relax(
    predictor: Predictor,
    state: State,
    *,
    force_limit: float = 0.01,
    max_steps: int = 1000,
    skin: float = 0.5,
    method: Method = "fire",
    cell: bool = False,
    pressure: float = 0.0,
    stress_limit: float = 6e-4,
    progress: Progress | None = None,
) -> Relaxation:
    """Moves every replica downhill until its largest force is below `force_limit` eV/Å, for at most `max_steps` steps.

    With `cell` the cell follows as well, at `pressure` eV/Å^3, until no component of the stress is off by more than
    `stress_limit` eV/Å^3 (0.1 GPa by default). Replicas that have converged, or whose forces are not finite, leave the
    batch. Raises InputError when a limit is not positive, an element is unknown to the potential, or a cell is to be
    relaxed that is not periodic in all directions or has fixed atoms.
    """
    _check(state, force_limit, stress_limit, cell)
    progress = progress or Silent()
    forces = Forces(predictor, skin=skin, stress=cell)
    forces.check(state)
    start = renumbered(state)._replace(velocities=torch.zeros_like(state.velocities))
    final = start._replace(
        positions=state.positions.clone(), forces=state.forces.clone(), energy=state.energy.clone(),
        cell=state.cell.clone(), stress=torch.full_like(state.cell, torch.nan) if cell else state.stress,
    )  # fmt: skip
    cells = _Cells(start, pressure) if cell else None
    steps = torch.zeros_like(start.replica)
    largest, strained = torch.zeros_like(start.cell[:, 0, 0]), torch.zeros_like(start.cell[:, 0, 0])
    optimiser: _Optimiser | None = None
    moving, failures = start, {}
    progress.start("relaxation", max_steps)
    try:
        for step in range(max_steps + 1):
            moving = forces(moving)
            failures |= {int(moving.replica[row]): message for row, message in forces.failures.items()}
            now = largest_force(moving)
            left = cells.residual(moving) if cells is not None else torch.zeros_like(now)
            final.positions[moving.atom], final.forces[moving.atom] = moving.positions, moving.forces
            final.energy[moving.replica], final.cell[moving.replica] = moving.energy, moving.cell
            if cells is not None and final.stress is not None and moving.stress is not None:
                final.stress[moving.replica] = moving.stress
            largest[moving.replica], strained[moving.replica], steps[moving.replica] = now, left, step
            go_on = ((now >= force_limit) | (left >= stress_limit)) & torch.isfinite(now + left)
            if step == max_steps or not bool(go_on.any()):
                break
            at = _at(moving, cells)
            if optimiser is None:
                optimiser = Fire(at.points, moving.n_replicas) if method == "fire" else LBFGS()
            if not bool(go_on.all()):
                moving = select(moving, go_on)
                optimiser.keep(go_on, go_on.index_select(0, at.owner))
                if cells is not None:
                    cells.keep(go_on)
                at = _at(moving, cells)
            points = at.points + optimiser.move(at, moving.n_replicas)
            moving = moving._replace(positions=points) if cells is None else cells.placed(moving, points)
            progress.advance(1, f"largest force {float(now.max()):.3g} eV/Å")
    finally:
        progress.stop()
    numbered = final._replace(replica=state.replica, atom=state.atom)
    converged = (largest < force_limit) & (strained < stress_limit)
    return Relaxation(numbered, converged, steps, largest, failures, strained)


def _check(state: State, force_limit: float, stress_limit: float, cell: bool) -> None:
    if not force_limit > 0 or not stress_limit > 0:
        limits = f"force limit {force_limit} eV/Å, stress limit {stress_limit} eV/Å^3"
        raise InputError(f"{limits}; each needs to be positive")
    if cell and (not bool(state.pbc.all()) or state.fixed is not None):
        raise InputError(
            f"a cell is relaxed when it is periodic in all directions and no atom is fixed, got pbc "
            f"{state.pbc[0].tolist()}{' and fixed atoms' if state.fixed is not None else ''}; relax positions alone"
        )


def _at(state: State, cells: _Cells | None) -> Coordinates:
    return Coordinates(state.positions, state.forces, state.structure) if cells is None else cells.coordinates(state)
