"""Constant pressure: stochastic cell rescaling, isotropic or of the whole cell.

| symbol | code | unit |
|---|---|---|
| h, V | `state.cell`, volume | Å, Å^3 |
| P, P0 | `pressure_tensor(state)`, `pressure` | eV/Å^3 |
| β, τ_P | `compressibility`, `pressure_time_constant` | Å^3/eV, fs |
| T, τ | `temperature`, `time_constant` | K, fs |
| ε | strain of one step | |
| W | Wiener process | |

The cell follows a first-order stochastic equation whose stationary distribution is the isothermal-isobaric one,
whatever β and τ_P; a time constant much longer than a step keeps the discretisation out of it. Positions follow the
cell, velocities its inverse, so that phase space is not compressed. Only the ratio β/τ_P matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fireassay.errors import InputError
from fireassay.simulation.integrators import ForceCall, Noise, Target, drift, kick, target_at
from fireassay.simulation.state import State, pressure, pressure_tensor, volume
from fireassay.simulation.thermostats import rescaling_factor
from fireassay.units import BOLTZMANN


def isotropic_strain(
    state: State, timestep: float, temperature: float, pressure0: float, mobility: float, noise: Tensor
) -> Tensor:
    """The factor (R,) by which lengths grow in one step; noise (R,) is normal, mobility is β/τ_P in Å^3/eV/fs.

    For λ = sqrt(V): dλ = -(β λ / 2 τ_P) (P0 - P - k_B T / 2V) dt + sqrt(k_B T β / 2 τ_P) dW, whose noise does not
    depend on V (Bernetti, Bussi, J. Chem. Phys. 153, 114107, 2020, eq. 9).
    """
    thermal, v = BOLTZMANN * temperature, volume(state)
    root = v.sqrt()
    pull = -0.5 * mobility * root * (pressure0 - pressure(state) - thermal / (2 * v))
    grown = root + timestep * pull + (0.5 * thermal * mobility * timestep) ** 0.5 * noise
    return (grown / root).clamp(0.9, 1.1) ** (2 / 3)


def flexible_strain(
    state: State, timestep: float, temperature: float, pressure0: float, mobility: float, noise: Tensor
) -> Tensor:
    """The symmetric matrix (R, 3, 3) by which cell and positions are multiplied in one step; noise (R, 3, 3).

    dh = h A with A = (β/3τ_P) (P - P0 + k_B T/V) dt + sqrt(2 k_B T β / 3 V τ_P) dW, nine independent components, in
    Itô's sense (Del Tatto, Raiteri, Bernetti, Bussi, Appl. Sci. 12, 1139, 2022). The rotation in 1 + A is divided out:
    the ensemble does not know the orientation of the cell.
    """
    thermal, v = BOLTZMANN * temperature, volume(state).view(-1, 1, 1)
    eye = torch.eye(3, dtype=v.dtype, device=v.device)
    pull = (pressure_tensor(state) - (pressure0 - thermal / v) * eye) * (mobility * timestep / 3)
    strain = pull + (2 * thermal * mobility * timestep / (3 * v)).sqrt() * noise
    grown = eye + strain.clamp(-0.1, 0.1)
    values, vectors = torch.linalg.eigh(grown @ grown.transpose(1, 2))  # of S², for 1 + A = S U with U a rotation
    return (vectors * values.clamp(min=1e-12).sqrt().unsqueeze(1)) @ vectors.transpose(1, 2)


@dataclass(frozen=True)
class CellRescaling:
    """Constant temperature (K) by canonical velocity rescaling, and constant pressure (eV/Å^3) by the cell.

    Half a kick, half a drift, the cell, half a drift, forces, half a kick, the thermostat. The cell keeps its shape
    unless `flexible`. Time constants are in fs, the compressibility is an estimate in Å^3/eV; `noise` is of the atoms,
    `cell_noise` has 3 rows for each replica.

    Raises InputError, when a run begins, for a replica that is not periodic in all directions, or has fixed atoms.
    """

    timestep: float
    temperature: Target
    time_constant: float
    pressure: Target
    pressure_time_constant: float
    compressibility: float
    noise: Noise
    cell_noise: Noise
    flexible: bool = False
    needs_stress: ClassVar[bool] = True

    def begin(self, state: State, forces: ForceCall) -> State:
        """The state with forces and stress."""
        if not bool(state.pbc.all()):
            raise InputError(
                f"constant pressure needs a cell that is periodic in all directions, got pbc {state.pbc[0].tolist()}; "
                "run at constant volume"
            )
        if state.fixed is not None:
            raise InputError("constant pressure moves every atom with the cell, some are fixed; run at constant volume")
        self.noise.begin(state)
        self.cell_noise.begin(state)
        return forces(state)

    def step(self, state: State, forces: ForceCall, step: int) -> State:
        """One step of atoms, cell and thermostat."""
        target = target_at(self.temperature, step)
        state = kick(state, self.timestep / 2)
        state = drift(state, self.timestep / 2)
        state = self._rescaled(state, target, step)
        state = drift(state, self.timestep / 2)
        state = forces(state)
        state = kick(state, self.timestep / 2)
        factor = rescaling_factor(state, self.timestep, target, self.time_constant, *self.noise.squares(step, state))
        return state._replace(velocities=state.velocities * factor.index_select(0, state.structure).unsqueeze(1))

    def _rescaled(self, state: State, temperature: float, step: int) -> State:
        noise = self.cell_noise.at(step, state)
        mobility = self.compressibility / self.pressure_time_constant
        pressure0 = target_at(self.pressure, step)
        if not self.flexible:
            length = isotropic_strain(state, self.timestep, temperature, pressure0, mobility, noise[:, 0, 0])
            per_atom = length.index_select(0, state.structure).unsqueeze(1)
            return state._replace(
                cell=state.cell * length.view(-1, 1, 1),
                positions=state.positions * per_atom,
                velocities=state.velocities / per_atom,
            )
        grown = flexible_strain(state, self.timestep, temperature, pressure0, mobility, noise)
        inverse = torch.linalg.inv(grown).index_select(0, state.structure)
        return state._replace(
            cell=state.cell @ grown,
            positions=torch.bmm(state.positions.unsqueeze(1), grown.index_select(0, state.structure)).squeeze(1),
            velocities=torch.bmm(state.velocities.unsqueeze(1), inverse).squeeze(1),
        )

    def forget(self, replicas: Sequence[int]) -> None:
        """Nothing is kept."""

    def checkpoint(self) -> dict[str, Tensor]:
        """Both kinds of noise."""
        atoms = {f"atoms.{name}": value for name, value in self.noise.checkpoint().items()}
        return atoms | {f"cell.{name}": value for name, value in self.cell_noise.checkpoint().items()}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """The noise goes on where it was."""
        for prefix, noise in (("atoms.", self.noise), ("cell.", self.cell_noise)):
            noise.restore({n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)})
