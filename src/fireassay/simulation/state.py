"""The state of R replicas that move together, where it starts, and what can be read off it.

State is data, physics is functions of it. A replica is one copy of a structure; the replicas of a batch may be of
different structures and sizes, and a single one is a batch of one.

Positions, velocities and forces are float64 by default whatever the potential's dtype: a time step adds 1e-3 Å to
coordinates of 10 Å, which float32 rounds at 1e-3 of the increment, and total energies of -10^4 eV at 1e-3 eV, more
than the drift that a run is watched for. The cost is nothing beside the force call, which stays in the potential's
own dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase.data import atomic_masses
from torch import Tensor

from fireassay.data.graph import per_structure, value_of
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.units import ACCELERATION, BOLTZMANN


class State(NamedTuple):
    """R replicas with N atoms in all, sorted by replica.

    `degrees_of_freedom` counts the ones that carry thermal energy, 3n less those whose momentum is zero and stays zero;
    temperature means the same everywhere because it is part of the state. `replica` and `atom` number replicas and
    atoms as they were at the start of a run, so that a batch from which failed replicas have left can still be told
    apart.
    """

    atomic_numbers: Tensor  # (N,) int64
    masses: Tensor  # (N,) amu
    positions: Tensor  # (N, 3) Å, never wrapped
    velocities: Tensor  # (N, 3) Å/fs
    forces: Tensor  # (N, 3) eV/Å, of `positions`
    energy: Tensor  # (R,) eV, potential energy of `positions`
    cell: Tensor  # (R, 3, 3) Å
    pbc: Tensor  # (R, 3) bool
    structure: Tensor  # (N,) int64, the row of each atom's replica in this batch, ascending
    degrees_of_freedom: Tensor  # (R,) float
    replica: Tensor  # (R,) int64
    atom: Tensor  # (N,) int64
    charge: Tensor | None = None  # (R,) e, float64, and
    spin: Tensor | None = None  # (R,) float64, both as in `Graph`
    stress: Tensor | None = None  # (R, 3, 3) eV/Å^3, of `positions`, where it is asked for
    fixed: Tensor | None = None  # (N,) bool, atoms that do not move; None when all do

    @property
    def n_atoms(self) -> int:
        return self.positions.shape[0]

    @property
    def n_replicas(self) -> int:
        return self.cell.shape[0]


PER_ATOM = ("atomic_numbers", "masses", "positions", "velocities", "forces", "structure", "atom", "fixed")


def from_structures(
    structures: Sequence[Structure],
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    masses: Sequence[np.ndarray] | None = None,
    fixed: Sequence[np.ndarray] | None = None,
) -> State:
    """One replica per structure, at rest, forces and energies still NaN.

    masses, one array (n,) in amu per structure, are the elements' unless given; fixed, one array (n,) of booleans per
    structure, marks atoms that do not move.

    Raises InputError when there is no structure, a mass is not positive, or no atom of a replica can move.
    """
    if not structures:
        raise InputError("a simulation needs at least one structure")
    counts = torch.tensor([len(s) for s in structures])
    numbers = torch.from_numpy(np.concatenate([s.atomic_numbers for s in structures]).astype(np.int64))
    weights = np.concatenate(list(masses)) if masses is not None else atomic_masses[numbers.numpy()]
    if len(weights) != len(numbers) or not (np.asarray(weights) > 0).all():
        raise InputError(f"masses of {len(weights)} atoms, needs positive masses of {len(numbers)} atoms")
    positions = torch.from_numpy(np.concatenate([s.positions for s in structures])).to(device, dtype)
    n = len(structures)
    still = None if fixed is None else torch.from_numpy(np.concatenate(list(fixed)).astype(bool))
    if still is not None and (len(still) != len(numbers) or any(np.all(f) for f in fixed or ())):
        raise InputError(
            f"{int(still.sum())} of {len(numbers)} atoms are fixed; some atom of every replica has to move"
        )
    return State(
        atomic_numbers=numbers.to(device),
        masses=torch.as_tensor(np.asarray(weights)).to(device, dtype),
        positions=positions,
        velocities=torch.zeros_like(positions),
        forces=torch.full_like(positions, torch.nan),
        energy=torch.full((n,), torch.nan, dtype=torch.float64, device=device),
        cell=torch.from_numpy(np.stack([s.cell for s in structures])).to(device, dtype),
        pbc=torch.from_numpy(np.stack([s.pbc for s in structures]).astype(bool)).to(device),
        structure=torch.repeat_interleave(torch.arange(n), counts).to(device),
        degrees_of_freedom=(3 * counts).to(device, dtype),
        replica=torch.arange(n, device=device),
        atom=torch.arange(len(numbers), device=device),
        charge=_placed(per_structure([s.charge for s in structures]), device),
        spin=_placed(per_structure([s.spin for s in structures]), device),
        fixed=_placed(still, device),
    )


def _placed(values: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if values is None else values.to(device)


def replicate(structure: Structure, replicas: int, **placement: object) -> State:
    """`replicas` copies of one structure; `placement` (dtype, device, masses, fixed) as of `from_structures`."""
    if replicas < 1:
        raise InputError(f"{replicas} replicas; needs at least 1")
    return from_structures([structure] * replicas, **placement)  # type: ignore[arg-type]


def to_structures(state: State) -> list[Structure]:
    """One structure per replica of the batch, with energy and forces when they are finite."""
    host = State(*(None if value is None else value.detach().cpu() for value in state))  # type: ignore[arg-type]
    structures = []
    for row in range(state.n_replicas):
        atoms = host.structure == row
        labelled = bool(torch.isfinite(host.forces[atoms]).all()) and bool(torch.isfinite(host.energy[row]))
        strained = labelled and host.stress is not None and bool(torch.isfinite(host.stress[row]).all())
        structures.append(
            Structure(
                atomic_numbers=host.atomic_numbers[atoms].numpy(),
                positions=host.positions[atoms].double().numpy(),
                cell=host.cell[row].double().numpy(),
                pbc=host.pbc[row].numpy(),
                energy=float(host.energy[row]) if labelled else None,
                forces=host.forces[atoms].double().numpy() if labelled else None,
                stress=host.stress[row].double().numpy() if strained and host.stress is not None else None,
                charge=value_of(host.charge, row),
                spin=value_of(host.spin, row),
            )
        )
    return structures


def select(state: State, keep: Tensor) -> State:
    """The replicas for which `keep` (R,) is true, in their order; their numbers in the batch close up."""
    atoms = keep.index_select(0, state.structure)
    row = keep.cumsum(0) - 1
    chosen = {
        name: value[atoms if name in PER_ATOM else keep] for name, value in state._asdict().items() if value is not None
    }
    state = State(**chosen)
    return state._replace(structure=row.index_select(0, state.structure))


def generators(seed: int, replicas: int) -> list[torch.Generator]:
    """One independent generator per replica, on the CPU, whatever the device: replica k draws the same everywhere."""
    seeds = np.random.SeedSequence(seed).generate_state(replicas, np.uint64)
    return [torch.Generator().manual_seed(int(s >> np.uint64(1))) for s in seeds]


def sum_per_replica(values: Tensor, state: State) -> Tensor:
    """Sum of per-atom values (N, ...) over each replica: (R, ...)."""
    return values.new_zeros((state.n_replicas, *values.shape[1:])).index_add_(0, state.structure, values)


def sizes(state: State) -> Tensor:
    """Atoms of each replica (R,) int64."""
    return torch.bincount(state.structure, minlength=state.n_replicas)


def renumbered(state: State) -> State:
    """The state with its replicas and atoms numbered from 0, as at the start of a run of its own."""
    return state._replace(
        replica=torch.arange(state.n_replicas, device=state.replica.device),
        atom=torch.arange(state.n_atoms, device=state.atom.device),
    )


def moving(state: State) -> Tensor:
    """Atoms of each replica that can move (R,) int64."""
    if state.fixed is None:
        return sizes(state)
    return sum_per_replica((~state.fixed).to(torch.int64), state)


def volume(state: State) -> Tensor:
    """|det cell| (R,) in Å^3; 0 without a cell."""
    return torch.linalg.det(state.cell).abs()


def pressure_tensor(state: State) -> Tensor:
    """P = (Σ m v v^T) / V - σ (R, 3, 3) in eV/Å^3, symmetric; NaN without stress.

    Its trace / 3 is the instantaneous pressure, positive when the cell wants to grow: σ is positive in tension.
    """
    if state.stress is None:
        return torch.full_like(state.cell, torch.nan)
    weighted = state.velocities * (state.masses / ACCELERATION).unsqueeze(1)
    kinetic = sum_per_replica(weighted.unsqueeze(2) * state.velocities.unsqueeze(1), state)
    return kinetic / volume(state).view(-1, 1, 1) - state.stress


def pressure(state: State) -> Tensor:
    """The instantaneous pressure (R,) in eV/Å^3, with the kinetic part; NaN without stress."""
    return pressure_tensor(state).diagonal(dim1=1, dim2=2).mean(1)


def squared_norm(vectors: Tensor) -> Tensor:
    """|v|² (N,) of vectors (N, 3): as a product with a vector, several times faster than a sum over three columns."""
    return torch.mv(vectors.square(), vectors.new_ones(3))


def kinetic_energy(state: State) -> Tensor:
    """K = Σ m v² / 2 (R,) in eV."""
    squared = squared_norm(state.velocities) * state.masses
    return sum_per_replica(squared, state) * (0.5 / ACCELERATION)


def temperature(state: State) -> Tensor:
    """T = 2 K / (f k_B) (R,) in K, with f the state's degrees of freedom."""
    return kinetic_energy(state) * (2 / BOLTZMANN) / state.degrees_of_freedom


def maxwell_boltzmann(
    state: State,
    temperatures: float | Tensor,
    draws: Sequence[torch.Generator],
    *,
    rotation: bool | None = None,
    translation: bool = False,
    exact: bool = False,
) -> State:
    """Velocities of every component from N(0, k_B T / m), one generator per replica.

    The centre of mass is brought to rest unless `translation`; so is the rotation about it unless `rotation`, which
    None decides per replica: kept where there is periodicity, removed from molecules. The degrees of freedom are set
    accordingly: 3n, less 3 for the translation, less 3 for the rotation (2 for a linear molecule). Removing momentum
    leaves the others' temperature at T on average; `exact` rescales each replica to T. With fixed atoms only the others
    get velocities, and nothing is removed: momentum is not conserved.

    temperatures in K, one or (R,). Raises InputError when T is negative or nothing is left to move.
    """
    target = torch.as_tensor(temperatures, dtype=state.velocities.dtype, device=state.velocities.device)
    target = target.expand(state.n_replicas)
    if bool((target < 0).any()) or len(draws) != state.n_replicas:
        raise InputError(
            f"temperature {target.tolist()} K with {len(draws)} generators; needs T >= 0 and one generator for each "
            f"of the {state.n_replicas} replicas"
        )
    counts = sizes(state)
    normal = torch.cat(
        [torch.randn(n, 3, generator=g, dtype=torch.float64) for n, g in zip(counts.tolist(), draws, strict=True)]
    )
    spread = (BOLTZMANN * ACCELERATION * target.index_select(0, state.structure) / state.masses).sqrt()
    state = state._replace(
        velocities=normal.to(spread) * spread.unsqueeze(1), degrees_of_freedom=(3 * moving(state)).to(spread)
    )
    if state.fixed is not None:
        state = state._replace(velocities=torch.where(state.fixed.unsqueeze(1), 0.0, state.velocities))
    else:
        state = state if translation else stop_translation(state)
        still = ~state.pbc.any(1) if rotation is None else torch.full_like(state.pbc[:, 0], not rotation)
        state = stop_rotation(state, still)
    if bool((state.degrees_of_freedom < 1).any()):
        raise InputError("a replica of a single atom at rest has no degree of freedom; pass translation=True")
    if exact:
        ratio = (target / temperature(state).clamp(min=1e-300)).sqrt()
        state = state._replace(velocities=state.velocities * ratio.index_select(0, state.structure).unsqueeze(1))
    return state


def centre_of_mass_velocity(state: State) -> Tensor:
    """V = Σ m v / Σ m (R, 3) in Å/fs."""
    momentum = sum_per_replica(state.velocities * state.masses.unsqueeze(1), state)
    return momentum / sum_per_replica(state.masses, state).unsqueeze(1)


def stop_translation(state: State) -> State:
    """The centre of mass of each replica at rest; three degrees of freedom fewer."""
    drift = centre_of_mass_velocity(state).index_select(0, state.structure)
    return state._replace(velocities=state.velocities - drift, degrees_of_freedom=state.degrees_of_freedom - 3)


def stop_rotation(state: State, replicas: Tensor) -> State:
    """Angular momentum about the centre of mass removed where `replicas` (R,) is true.

    ω = I⁺ L with the pseudo-inverse of the inertia tensor, so that a linear molecule loses two degrees of freedom and
    any other three.
    """
    mass = state.masses.unsqueeze(1)
    centre = sum_per_replica(state.positions * mass, state) / sum_per_replica(mass, state)
    x = state.positions - centre.index_select(0, state.structure)
    outer = torch.einsum("na,nb->nab", x, x)
    eye = torch.eye(3, dtype=x.dtype, device=x.device)
    inertia = sum_per_replica(mass.unsqueeze(2) * (x.square().sum(1).view(-1, 1, 1) * eye - outer), state)  # (R, 3, 3)
    momentum = sum_per_replica(mass * torch.linalg.cross(x, state.velocities), state)
    tolerance = 1e-6 if x.dtype == torch.float64 else 1e-4
    inverse = torch.linalg.pinv(inertia, rtol=tolerance, hermitian=True)
    omega = torch.bmm(inverse, momentum.unsqueeze(2)).squeeze(2) * replicas.unsqueeze(1)
    rank = torch.linalg.matrix_rank(inertia, rtol=tolerance, hermitian=True) * replicas
    spin = torch.linalg.cross(omega.index_select(0, state.structure), x)
    return state._replace(
        velocities=state.velocities - spin, degrees_of_freedom=state.degrees_of_freedom - rank.to(x.dtype)
    )
