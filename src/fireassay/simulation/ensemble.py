"""How atoms are set in motion and kept warm, from names and numbers: one place for every simulation asked for."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from fireassay.errors import InputError
from fireassay.simulation.barostats import CellRescaling
from fireassay.simulation.integrators import Integrator, Langevin, Noise, Target, VelocityVerlet
from fireassay.simulation.state import generators
from fireassay.simulation.thermostats import Berendsen, NoseHooverChain, VelocityRescaling
from fireassay.units import GIGAPASCAL

Thermostat = Literal["berendsen", "rescaling", "nose_hoover", "langevin", "none"]
Barostat = Literal["none", "isotropic", "flexible"]
COMPRESSIBILITY: Final = 0.45 / GIGAPASCAL  # Å^3/eV, of water; it sets the pace of a barostat and nothing else


class Pressing(NamedTuple):
    """Constant pressure: eV/Å^3, the barostat's time constant in fs, an estimate of the compressibility in Å^3/eV."""

    barostat: Barostat
    pressure: Target = 0.0
    time_constant: float = 1000.0
    compressibility: float = COMPRESSIBILITY


def integrator(
    thermostat: Thermostat,
    timestep: float,
    temperature: Target,
    *,
    replicas: int,
    seed: int,
    time_constant: float = 100.0,
    friction: float = 0.01,
    pressing: Pressing | None = None,
) -> Integrator:
    """The integrator of a thermostat's name; fs, K, 1/fs. Noise is drawn from `seed`, for each replica by itself.

    Raises InputError for a barostat with another thermostat than canonical velocity rescaling.
    """
    if pressing is not None and pressing.barostat != "none":
        if thermostat != "rescaling":
            raise InputError(
                f"a barostat goes with the thermostat rescaling, not with {thermostat}; set it, or leave it"
            )
        return CellRescaling(
            timestep, temperature, time_constant, pressing.pressure, pressing.time_constant, pressing.compressibility,
            Noise(generators(seed, replicas)), Noise(generators(seed + 1, replicas), rows=3),
            pressing.barostat == "flexible",
        )  # fmt: skip
    if thermostat == "berendsen":
        return Berendsen(timestep, temperature, time_constant)
    if thermostat == "nose_hoover":
        return NoseHooverChain(timestep, temperature, time_constant)
    if thermostat == "langevin":
        return Langevin(timestep, temperature, friction, Noise(generators(seed, replicas)))
    if thermostat == "rescaling":
        return VelocityRescaling(timestep, temperature, time_constant, Noise(generators(seed, replicas)))
    return VelocityVerlet(timestep)
