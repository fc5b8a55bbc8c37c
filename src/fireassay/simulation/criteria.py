"""What counts as the end of a trajectory: criteria that are looked at after every step, all replicas at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fireassay.data.graph import Graph
from fireassay.data.molecules import Connectivity, connectivity, covalent_bonds
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.simulation.state import State, sizes, squared_norm
from fireassay.units import ACCELERATION, BOLTZMANN


class Failure(NamedTuple):
    """Why a replica ended: `atoms` are numbered within the replica; time in fs; value and limit in `unit`."""

    replica: int
    criterion: str
    atoms: tuple[int, ...]
    step: int
    time: float
    value: float
    limit: float
    unit: str
    message: str = ""  # what a calculator said whose calculation failed


class Moment(NamedTuple):
    """One step, seen from its end: kinetic energies (R,) eV, and the edges with their lengths (E,) Å after it."""

    before: State
    after: State
    kinetic_before: Tensor
    kinetic: Tensor
    graph: Graph
    length: Tensor


class Breach(NamedTuple):
    """A criterion's verdict on the replica in row `row` of the batch; atoms are rows of the batch, too."""

    row: int
    atoms: tuple[int, ...]
    value: float
    limit: float


class Criterion(Protocol):
    """A limit. `violations` runs at every step and must be cheap; `breaches` runs when one of them is true."""

    @property
    def name(self) -> str:
        """Its name in results."""
        ...

    @property
    def unit(self) -> str:
        """The unit of value and limit."""
        ...

    def violations(self, moment: Moment) -> Tensor:
        """Booleans of any shape, true where the limit is broken."""
        ...

    def breaches(self, moment: Moment) -> list[Breach]:
        """The worst violation of every replica that has one."""
        ...

    def among(self, state: State) -> Self:
        """The criterion for the replicas that are left in `state`."""
        ...


@dataclass(frozen=True)
class NotFinite:
    """Energies, forces or positions that are NaN or infinite. Every run has this one."""

    name: str = "not_finite"
    unit: str = ""

    def violations(self, moment: Moment) -> Tensor:
        """One boolean: a sum over finite numbers is finite."""
        state = moment.after
        total = state.forces.sum() + state.positions.sum() + state.energy.sum() + moment.kinetic.sum()
        if state.stress is not None:
            total = total + torch.where(state.pbc.any(1).view(-1, 1, 1), state.stress, 0.0).sum()
        return ~torch.isfinite(total).reshape(1)

    def breaches(self, moment: Moment) -> list[Breach]:
        """The replicas with such a number, and the atoms that have one."""
        state = moment.after
        atom = ~(torch.isfinite(state.forces) & torch.isfinite(state.positions)).all(1)
        rows = torch.zeros_like(state.energy).index_add(0, state.structure, atom.to(state.energy.dtype)) > 0
        rows |= ~torch.isfinite(state.energy + moment.kinetic)
        if state.stress is not None:
            rows |= ~torch.isfinite(state.stress).all(2).all(1) & state.pbc.any(1)
        found = []
        for row in rows.nonzero().flatten().tolist():
            atoms = (atom & (state.structure == row)).nonzero().flatten().tolist()
            found.append(Breach(row, tuple(atoms), float("nan"), 0.0))
        return found

    def among(self, state: State) -> NotFinite:
        """Itself."""
        return self


@dataclass(frozen=True)
class Bonds:
    """Bonds that are longer than a limit; `pairs` (B, 2) are atoms as numbered at the start, `limit` (B,) in Å.

    `shift` (B, 3) cells lead from the first atom's cell to the second's: positions are never wrapped, so it stays, also
    where the cell changes. None when no bond leads into another cell.
    """

    pairs: Tensor
    limit: Tensor
    shift: Tensor | None
    name: str = "bond_length"
    unit: str = "Å"
    rows: Tensor | None = None  # (B, 2) of the batch; None before any replica has left

    def _lengths(self, moment: Moment) -> Tensor:
        x = moment.after.positions
        rows = self.pairs if self.rows is None else self.rows
        bond = x.index_select(0, rows[:, 1]) - x.index_select(0, rows[:, 0])
        if self.shift is not None:
            cells = moment.after.cell.index_select(0, moment.after.structure.index_select(0, rows[:, 0]))
            bond = bond + torch.bmm(self.shift.to(cells.dtype).unsqueeze(1), cells).squeeze(1)
        return torch.linalg.vector_norm(bond, dim=1)

    def violations(self, moment: Moment) -> Tensor:
        """(B,)"""
        return self._lengths(moment) > self.limit

    def breaches(self, moment: Moment) -> list[Breach]:
        """The bond that is farthest beyond its limit, per replica."""
        rows = self.pairs if self.rows is None else self.rows
        length = self._lengths(moment)
        replica = moment.after.structure.index_select(0, rows[:, 0])
        return _worst(length - self.limit, replica, rows, length, self.limit)

    def among(self, state: State) -> Bonds:
        """The bonds of the replicas that are left."""
        left = torch.isin(self.pairs[:, 0], state.atom)
        pairs = self.pairs[left]
        rows = torch.searchsorted(state.atom, pairs)
        shift = None if self.shift is None else self.shift[left]
        return replace(self, pairs=pairs, limit=self.limit[left], shift=shift, rows=rows)


@dataclass(frozen=True)
class ClosestApproach:
    """Two atoms, or an atom and an image, closer than `limit` Å."""

    limit: float = 0.5
    name: str = "closest_approach"
    unit: str = "Å"

    def violations(self, moment: Moment) -> Tensor:
        """One boolean."""
        if len(moment.length) == 0:
            return moment.length.new_zeros(1, dtype=torch.bool)
        return (moment.length.min() < self.limit).reshape(1)

    def breaches(self, moment: Moment) -> list[Breach]:
        """The closest pair, per replica."""
        near = (moment.length < self.limit).nonzero().flatten()
        pairs = torch.stack([moment.graph.centre[near], moment.graph.neighbour[near]], 1)
        length = moment.length[near]
        replica = moment.after.structure.index_select(0, pairs[:, 0])
        return _worst(self.limit - length, replica, pairs, length, torch.full_like(length, self.limit))

    def among(self, state: State) -> ClosestApproach:
        """Itself."""
        return self


@dataclass(frozen=True)
class TemperatureRange:
    """A kinetic temperature outside [lowest, highest] K."""

    lowest: float = 0.1
    highest: float = 10_000.0
    name: str = "temperature"
    unit: str = "K"

    def _temperature(self, moment: Moment) -> Tensor:
        return moment.kinetic * (2 / BOLTZMANN) / moment.after.degrees_of_freedom

    def violations(self, moment: Moment) -> Tensor:
        """(R,)"""
        now = self._temperature(moment)
        return (now < self.lowest) | (now > self.highest)

    def breaches(self, moment: Moment) -> list[Breach]:
        """The replicas outside, and the atom that is fastest for its mass."""
        state, now = moment.after, self._temperature(moment)
        energy = squared_norm(state.velocities) * state.masses
        found = []
        for row in self.violations(moment).nonzero().flatten().tolist():
            hottest = int(torch.where(state.structure == row, energy, -1.0).argmax())
            value = float(now[row])
            found.append(Breach(row, (hottest,), value, self.highest if value > self.highest else self.lowest))
        return found

    def among(self, state: State) -> TemperatureRange:
        """Itself."""
        return self


@dataclass(frozen=True)
class EnergyJump:
    """A change of the total energy per atom by more than `limit` eV within one step: an integrator that has lost hold.

    A thermostat changes the total energy, too, by about (Δt/τ) k_B (T0 - T) a step, which is far less.
    """

    limit: float = 0.1
    name: str = "energy_jump"
    unit: str = "eV/atom"

    def _jump(self, moment: Moment) -> Tensor:
        total = moment.after.energy + moment.kinetic - moment.before.energy - moment.kinetic_before
        return total.abs() / sizes(moment.after)

    def violations(self, moment: Moment) -> Tensor:
        """(R,)"""
        return self._jump(moment) > self.limit

    def breaches(self, moment: Moment) -> list[Breach]:
        """The replicas that jumped, and the atom with the largest force."""
        state, jump = moment.after, self._jump(moment)
        strength = squared_norm(state.forces)
        found = []
        for row in (jump > self.limit).nonzero().flatten().tolist():
            strongest = int(torch.where(state.structure == row, strength, -1.0).argmax())
            found.append(Breach(row, (strongest,), float(jump[row]), self.limit))
        return found

    def among(self, state: State) -> EnergyJump:
        """Itself."""
        return self


@dataclass(frozen=True)
class AtomEnergyJump:
    """A change of one atom's kinetic energy within one step by more than `limit` eV.

    An atom that falls into a hole, or is hit by a wrong force, gains many electronvolts at once. Over a large cell that
    is next to nothing per atom of the cell, which is how `EnergyJump` measures; here it is not diluted.
    """

    limit: float = 2.0
    name: str = "atom_energy_jump"
    unit: str = "eV"

    def _jump(self, moment: Moment) -> Tensor:
        before, after = moment.before, moment.after
        gain = squared_norm(after.velocities) - squared_norm(before.velocities)
        return gain.mul_(after.masses).abs_().mul_(0.5 / ACCELERATION)

    def violations(self, moment: Moment) -> Tensor:
        """(N,)"""
        return self._jump(moment) > self.limit

    def breaches(self, moment: Moment) -> list[Breach]:
        """The atom that jumped farthest, per replica."""
        jump, structure = self._jump(moment), moment.after.structure
        found = []
        for row in structure[jump > self.limit].unique().tolist():
            atom = int(torch.where(structure == row, jump, -1.0).argmax())
            found.append(Breach(row, (atom,), float(jump[atom]), self.limit))
        return found

    def among(self, state: State) -> AtomEnergyJump:
        """Itself."""
        return self


def bond_criterion(
    structures: Sequence[Structure],
    state: State,
    longest: float | None = 2.0,
    stretch: float | None = 0.5,
    covalent: bool = False,
) -> Bonds | None:
    """A limit for every bond that `structures`, the starts of the replicas, have; None when they have none.

    `covalent` leaves out the bonds of what is metallic or ionic by its own connectivity (`covalent_bonds`).

    The limit is `longest` Å for bonds that are at least 0.3 Å shorter to begin with, and the starting length plus
    `stretch` Å for the others (an S-S or C-I bond is longer than 2 Å when all is well). Either may be None: then the
    other holds for all. Raises InputError when both are, or when a bond is beyond its limit to begin with.
    """
    if longest is None and stretch is None:
        raise InputError("a bond criterion needs a longest length or a stretch in Å; give one of them")
    counts = [len(s) for s in structures]
    starts = np.cumsum(counts) - counts
    bonds: dict[int, Connectivity] = {id(s): (covalent_bonds if covalent else connectivity)(s) for s in structures}
    found = [bonds[id(s)] for s in structures]
    if not sum(len(b.pairs) for b in found):
        return None
    length = np.concatenate([b.length for b in found])
    stretched = length + (0.5 if stretch is None else stretch)
    limit = stretched if longest is None else np.where(length <= longest - 0.3, longest, stretched)
    if longest is not None and stretch is None:
        limit = np.full_like(length, longest)
    beyond = np.flatnonzero(length >= limit)
    if len(beyond):
        raise InputError(
            f"{len(beyond)} bonds start beyond their limit, one at {length[beyond[0]]:.2f} Å of "
            f"{limit[beyond[0]]:.2f}; raise the limit, or give a stretch"
        )
    place = {"dtype": state.positions.dtype, "device": state.positions.device}
    pairs = np.concatenate([b.pairs + start for b, start in zip(found, starts, strict=True)])
    shift = np.concatenate([b.shift for b in found])
    return Bonds(
        pairs=torch.from_numpy(pairs).to(state.positions.device),
        limit=torch.from_numpy(limit).to(**place),
        shift=torch.from_numpy(shift).to(state.positions.device) if shift.any() else None,
    )


FAILED: Final = "calculation_failed"


def judge(
    criteria: Sequence[Criterion],
    moment: Moment,
    step: int,
    timestep: float,
    failed: Mapping[int, str] | None = None,
) -> list[Failure]:
    """The failures of this step, one per replica: the first criterion that it breaks is the one named.

    `failed` says by row which calculations failed and why: such a replica has broken no criterion of physics, it is
    named `calculation_failed`.
    """
    flags = [criterion.violations(moment).any() for criterion in criteria]
    if not bool(torch.stack(flags).any()):
        return []
    state = moment.after
    found: dict[int, Failure] = {}
    for row, message in (failed or {}).items():
        replica = int(state.replica[row])
        found[replica] = Failure(replica, FAILED, (), step, step * timestep, float("nan"), 0.0, "", message)
    first = torch.searchsorted(state.structure, torch.arange(state.n_replicas, device=state.structure.device))
    for criterion, flag in zip(criteria, flags, strict=True):
        for breach in criterion.breaches(moment) if bool(flag) else []:
            replica = int(state.replica[breach.row])
            atoms = tuple(atom - int(first[breach.row]) for atom in breach.atoms)
            failure = Failure(
                replica, criterion.name, atoms, step, step * timestep, breach.value, breach.limit, criterion.unit
            )
            found.setdefault(replica, failure)
    return [found[replica] for replica in sorted(found)]


def _worst(excess: Tensor, replica: Tensor, pairs: Tensor, value: Tensor, limit: Tensor) -> list[Breach]:
    found: dict[int, Breach] = {}
    for item in excess.argsort(descending=True).tolist():
        if not float(excess[item]) > 0:
            break
        atoms = tuple(sorted(pairs[item].tolist()))
        row = int(replica[item])
        found.setdefault(row, Breach(row, atoms, float(value[item]), float(limit[item])))
    return list(found.values())
