"""Stability in molecular dynamics: how long do trajectories last before they become unphysical?

The published protocol is Appendix B of "Data efficiency and extrapolation trends in neural network interatomic
potentials" (Vita, Schwalbe-Koda, 2023): 30 trajectories of 3BPA from its ground state, Berendsen thermostat at 1600 K
with τ = 250 fs, steps of 1 fs, 6 ps, failed when a bond of the initial connectivity exceeds 2 Å.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator
from scipy.stats import norm

from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import Predictor
from fireassay.progress import Progress, Silent
from fireassay.records import AssayResult, Quantity
from fireassay.settings import Settings
from fireassay.simulation.criteria import (
    ClosestApproach,
    Criterion,
    EnergyJump,
    Failure,
    TemperatureRange,
    bond_criterion,
)
from fireassay.simulation.integrators import Integrator, Langevin, Noise, VelocityVerlet
from fireassay.simulation.observers import LastFrames, Recorder
from fireassay.simulation.relax import relax
from fireassay.simulation.run import Simulation, simulate
from fireassay.simulation.state import State, generators, maxwell_boltzmann, replicate, to_structures
from fireassay.simulation.thermostats import Berendsen

Array = NDArray[np.float64]

PUBLISHED: dict[str, Any] = {
    "replicas": 30,
    "temperature": 1600.0,
    "timestep": 1.0,
    "duration": 6000.0,
    "thermostat": "berendsen",
    "time_constant": 250.0,
    "degrees_of_freedom": "all",
    "remove_rotation": False,
    "relax": False,
    "bonds": "on",
    "bond_limit": 2.0,
    "bond_stretch": None,
    "closest_approach": None,
    "temperature_range": None,
    "energy_jump": None,
}


class StabilitySettings(Settings):
    """Settings of the stability assay; `protocol: published` sets those of Appendix B, to be overridden one by one."""

    protocol: Literal["sound", "published"] = Field(
        default="sound",
        description="published: failure by bonds beyond 2 Å alone, and ASE's temperature, which counts 3n degrees of "
        "freedom although the centre of mass is at rest; sound: further criteria, temperature of what can move",
    )
    replicas: int = Field(default=30, ge=1, description="trajectories with different initial velocities")
    temperature: float = Field(default=1600.0, gt=0, description="K, of the velocities and of the thermostat")
    timestep: float = Field(default=1.0, gt=0, description="fs")
    duration: float = Field(default=6000.0, gt=0, description="fs")
    thermostat: Literal["berendsen", "langevin", "none"] = Field(default="berendsen", description="none: NVE")
    time_constant: float = Field(default=250.0, gt=0, description="fs, of the Berendsen thermostat")
    friction: float = Field(default=0.01, gt=0, description="1/fs, of the Langevin thermostat")
    degrees_of_freedom: Literal["moving", "all"] = Field(
        default="moving", description="what temperature is the energy of: moving, without those at rest; all, 3n"
    )
    remove_rotation: bool = Field(default=True, description="molecules start without angular momentum")
    relax: bool = Field(default=False, description="relax the start with the potential first")
    relax_force_limit: float = Field(default=0.01, gt=0, description="eV/Å")
    bonds: Literal["auto", "on", "off"] = Field(
        default="auto", description="follow the bonds between nonmetals; auto: only without periodicity"
    )
    bond_limit: float | None = Field(default=2.0, gt=0, description="Å, longest length of a bond")
    bond_stretch: float | None = Field(
        default=0.5,
        gt=0,
        description="Å beyond the start, for bonds that start less than 0.3 Å below bond_limit",
    )
    closest_approach: float | None = Field(default=0.5, gt=0, description="Å, smallest distance of two atoms")
    temperature_range: tuple[float, float] | None = Field(default=(0.1, 10_000.0), description="K")
    energy_jump: float | None = Field(default=0.1, gt=0, description="eV/atom, change of total energy in one step")
    drift_duration: float = Field(default=500.0, ge=0, description="fs of constant energy to measure drift; 0: none")
    drift_temperature: float = Field(default=300.0, gt=0, description="K, at which drift is measured")
    drift_replicas: int = Field(default=4, ge=1, description="trajectories to measure drift")
    record_every: int = Field(default=10, ge=1, description="steps between recorded temperatures and energies")
    last_frames: int = Field(default=20, ge=1, description="frames kept before the failure")
    last_frames_every: int = Field(default=5, ge=1, description="steps between them")
    skin: float = Field(default=1.0, gt=0, description="Å, how far beyond the cutoff neighbours are kept")
    max_edges: int = Field(default=20_000, ge=1, description="edges of one force call")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="level of the survival curve's band")
    seed: int = Field(default=0, ge=0, description="of velocities and noise")

    @model_validator(mode="before")
    @classmethod
    def _of_protocol(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("protocol") == "published":
            return {**PUBLISHED, **given}
        return given

    @classmethod
    def published(cls, **changes: Any) -> StabilitySettings:
        """Appendix B, with changes."""
        return cls(protocol="published", **changes)


class KaplanMeier(NamedTuple):
    """The survival curve: after `time` (K,) the share `survival` is alive, until the next; band `lower` to `upper`."""

    time: Array
    survival: Array
    lower: Array
    upper: Array

    @property
    def median(self) -> float | None:
        """The first time at which no more than half survive; None when more do to the end."""
        below = np.flatnonzero(self.survival <= 0.5)
        return float(self.time[below[0]]) if len(below) else None


def kaplan_meier(time: ArrayLike, failed: ArrayLike, confidence: float = 0.95) -> KaplanMeier:
    """Kaplan-Meier estimate from times (R,) and whether each ended in failure (R,) or was censored.

    S(t) = Π (1 - d_i/n_i) over the failure times t_i <= t, with d_i failures among n_i at risk; someone censored at a
    failure time is still at risk then. The band is Greenwood's variance on the log(-log S) scale (Kalbfleisch and
    Prentice, The Statistical Analysis of Failure Time Data, 1980): S^exp(±z σ), σ² = Σ d/(n (n - d)) / (log S)². It
    stays within [0, 1]; once all have failed the lower end is 0 and the upper end stays where it was.

    Raises InputError when there is no time, one is negative or not finite, or the lengths differ.
    """
    times, ended = np.asarray(time, dtype=np.float64), np.asarray(failed, dtype=bool)
    if times.ndim != 1 or times.shape != ended.shape or not len(times):
        raise InputError(f"{times.shape} times with {ended.shape} failures; needs as many of both, at least one")
    if not (np.isfinite(times) & (times >= 0)).all():
        raise InputError("times to failure must be finite and not negative")
    events = np.unique(times[ended])
    at_risk = (times[None, :] >= events[:, None]).sum(1)
    died = ((times[None, :] == events[:, None]) & ended[None, :]).sum(1)
    survival = np.cumprod(1 - died / at_risk)
    some = survival > 0
    variance = np.cumsum(died[some] / (at_risk[some] * (at_risk[some] - died[some])))
    logarithm = np.log(survival[some])
    spread = norm.ppf((1 + confidence) / 2) * np.sqrt(variance) / np.abs(logarithm)
    lower, upper = np.zeros(len(events)), np.zeros(len(events))
    lower[some], upper[some] = survival[some] ** np.exp(spread), survival[some] ** np.exp(-spread)
    if not some.all():
        upper[~some] = upper[some][-1] if some.any() else 1.0
    columns = [np.concatenate([[1.0], values]) for values in (survival, lower, upper)]
    steps = np.concatenate([[0.0], events])
    if times.max() > steps[-1]:  # the curve goes on to the last observation
        steps = np.append(steps, times.max())
        columns = [np.append(values, values[-1]) for values in columns]
    return KaplanMeier(steps, *columns)


def run(
    potential: Predictor,
    start: Structure,
    settings: StabilitySettings | None = None,
    *,
    name: str = "potential",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    folder: Path | None = None,
) -> AssayResult:
    """Trajectories from `start` until they fail or time is up, side by side in one batch.

    Values and arrays are listed in docs/records.md. In a `folder` the simulation is saved as it goes: interrupted and
    called again it goes on where it was. Raises InputError when an element is unknown to the potential, the start
    breaks a bond criterion, or bonds are asked for and there are none.
    """
    settings, progress = settings or StabilitySettings(), progress or Silent()
    values: dict[str, Quantity] = {}
    given = start
    if settings.relax:
        start = _relaxed(potential, start, settings, device, progress, values)
    state = _warm(start, settings.replicas, settings.temperature, settings.seed, settings, device)
    criteria = _criteria(given, state, settings, values)
    recorder = Recorder(settings.record_every, ("temperature", "potential_energy"))
    frames = LastFrames(settings.last_frames, settings.last_frames_every)
    n_steps = max(1, round(settings.duration / settings.timestep))
    done = simulate(
        potential,
        state,
        _integrator(settings),
        n_steps,
        observers=(recorder, frames),
        criteria=criteria,
        skin=settings.skin,
        reach=settings.closest_approach or 0.0,
        max_edges=settings.max_edges,
        progress=progress,
        description=f"stability of {name}",
        checkpoint=None if folder is None else folder / f".stability-{_fingerprint(settings)}.npz",
    )
    curve = _survival(done, settings, n_steps * settings.timestep, values)
    arrays = _arrays(done, curve, start, settings.replicas)
    arrays["time_to_failure"], arrays["failed"] = _times(done, settings.replicas, n_steps * settings.timestep)
    if settings.drift_duration > 0:
        _drift(potential, start, settings, device, progress, values)
    units = {"time_to_failure": "fs", "kaplan_meier.time": "fs", "time": "fs", "temperature": "K"}
    units |= {"potential_energy": "eV", "last_frames": "Å", "last_forces": "eV/Å", "start": "Å"}
    return AssayResult("stability", name, settings.model_dump(mode="json"), values, arrays, units)


def _relaxed(
    potential: Predictor,
    start: Structure,
    settings: StabilitySettings,
    device: torch.device | str,
    progress: Progress,
    values: dict[str, Quantity],
) -> Structure:
    state = replicate(start, 1, device=device)
    done = relax(potential, state, force_limit=settings.relax_force_limit, max_steps=2000, progress=progress)
    values["start.largest_force"] = Quantity(float(done.largest_force[0]), "eV/Å")
    values["start.relaxed"] = Quantity(bool(done.converged[0]))
    return to_structures(done.state)[0]


def _warm(
    start: Structure,
    replicas: int,
    temperature: float,
    seed: int,
    settings: StabilitySettings,
    device: torch.device | str,
) -> State:
    state = replicate(start, replicas, device=device)
    rotation = None if settings.remove_rotation else True
    single = len(start) == 1
    state = maxwell_boltzmann(state, temperature, generators(seed, replicas), rotation=rotation, translation=single)
    if settings.degrees_of_freedom == "all":
        state = state._replace(degrees_of_freedom=torch.full_like(state.degrees_of_freedom, 3 * len(start)))
    return state


def _criteria(
    start: Structure, state: State, settings: StabilitySettings, values: dict[str, Quantity]
) -> list[Criterion]:
    criteria: list[Criterion] = []
    follow = settings.bonds == "on" or (settings.bonds == "auto" and not start.pbc.any())
    wanted = follow and (settings.bond_limit is not None or settings.bond_stretch is not None)
    if wanted:
        found = bond_criterion([start] * settings.replicas, state, settings.bond_limit, settings.bond_stretch)
        if found is not None:
            criteria.append(found)
        elif settings.bonds == "on":
            raise InputError(f"{start.where}: bonds are to be followed but there are none; set bonds to off or auto")
        values["n_bonds"] = Quantity(0 if found is None else len(found.pairs) // settings.replicas)
    if settings.closest_approach is not None:
        criteria.append(ClosestApproach(settings.closest_approach))
    if settings.temperature_range is not None:
        criteria.append(TemperatureRange(*settings.temperature_range))
    if settings.energy_jump is not None:
        criteria.append(EnergyJump(settings.energy_jump))
    values["criteria"] = Quantity(["not_finite", *(criterion.name for criterion in criteria)])
    return criteria


def _integrator(settings: StabilitySettings) -> Integrator:
    if settings.thermostat == "berendsen":
        return Berendsen(settings.timestep, settings.temperature, settings.time_constant)
    if settings.thermostat == "langevin":
        noise = Noise(generators(settings.seed + 1, settings.replicas))
        return Langevin(settings.timestep, settings.temperature, settings.friction, noise)
    return VelocityVerlet(settings.timestep)


def _fingerprint(settings: StabilitySettings) -> str:
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:12]


def _times(done: Simulation, replicas: int, duration: float) -> tuple[Array, NDArray[np.bool_]]:
    time, failed = np.full(replicas, duration), np.zeros(replicas, dtype=bool)
    for failure in done.failures:
        time[failure.replica], failed[failure.replica] = failure.time, True
    return time, failed


def _survival(
    done: Simulation, settings: StabilitySettings, duration: float, values: dict[str, Quantity]
) -> KaplanMeier:
    time, failed = _times(done, settings.replicas, duration)
    curve = kaplan_meier(time, failed, settings.confidence)
    q25, median, q75 = np.quantile(time, [0.25, 0.5, 0.75])
    values |= {
        "survival_fraction": Quantity(float(1 - failed.mean())),
        "n_replicas": Quantity(settings.replicas),
        "duration": Quantity(duration, "fs"),
        "time_to_failure.mean": Quantity(float(time.mean()), "fs"),
        "time_to_failure.std": Quantity(float(time.std(ddof=1)) if len(time) > 1 else None, "fs"),
        "time_to_failure.median": Quantity(float(median), "fs"),
        "time_to_failure.q25": Quantity(float(q25), "fs"),
        "time_to_failure.q75": Quantity(float(q75), "fs"),
        "median_survival": Quantity(curve.median, "fs"),
        "failures": Quantity([_described(failure) for failure in done.failures]),
        "replica_steps_per_second": Quantity(done.replica_steps / done.seconds, "1/s"),
        "integrator_share": Quantity(1 - done.force_seconds / done.seconds),
        "neighbour_rebuilds": Quantity(done.rebuilds),
    }
    counts = Counter(failure.criterion for failure in done.failures)
    values |= {f"failures.{criterion}": Quantity(count) for criterion, count in sorted(counts.items())}
    return curve


def _described(failure: Failure) -> dict[str, Any]:
    return {**failure._asdict(), "atoms": list(failure.atoms)}


def _arrays(done: Simulation, curve: KaplanMeier, start: Structure, replicas: int) -> dict[str, NDArray]:
    seen = done.arrays
    shape = (-1, replicas, len(start), 3)
    return {
        "kaplan_meier.time": curve.time,
        "kaplan_meier.survival": curve.survival,
        "kaplan_meier.lower": curve.lower,
        "kaplan_meier.upper": curve.upper,
        "time": seen["time"],
        "temperature": seen["temperature"],
        "potential_energy": seen["potential_energy"],
        "atomic_numbers": start.atomic_numbers,
        "start": start.positions,
        "last_frames": seen["last_positions"].reshape(shape).swapaxes(0, 1),
        "last_forces": seen["last_forces"].reshape(shape).swapaxes(0, 1),
        "last_steps": seen["last_step"].T,
    }


def _drift(
    potential: Predictor,
    start: Structure,
    settings: StabilitySettings,
    device: torch.device | str,
    progress: Progress,
    values: dict[str, Quantity],
) -> None:
    """Drift and fluctuation of the total energy at constant energy, at the time step and at half of it."""
    state = _warm(start, settings.drift_replicas, settings.drift_temperature, settings.seed + 2, settings, device)
    fluctuation = {}
    for label, timestep in (("", settings.timestep), ("_half_step", settings.timestep / 2)):
        recorder = Recorder(1, ("total_energy",))
        simulate(
            potential,
            state,
            VelocityVerlet(timestep),
            max(2, round(settings.drift_duration / timestep)),
            observers=(recorder,),
            skin=settings.skin,
            max_edges=settings.max_edges,
            progress=progress,
            description=f"energy drift at {timestep:g} fs",
        )
        seen = recorder.arrays()
        rate, fluctuation[label] = energy_drift(seen["time"], seen["total_energy"], len(start))
        values[f"drift.rate{label}"] = Quantity(rate, "meV/atom/ps")
        values[f"drift.fluctuation{label}"] = Quantity(fluctuation[label], "meV/atom")
    whole, half = fluctuation[""], fluctuation["_half_step"]
    values["drift.fluctuation_ratio"] = Quantity(whole / half if whole is not None and half else None)


def energy_drift(time: Array, energy: Array, n_atoms: int) -> tuple[float | None, float | None]:
    """Drift in meV/atom/ps and fluctuation in meV/atom of total energies (T, R) in eV at times (T,) in fs.

    The drift is the least-squares slope, averaged over the replicas with its sign; the fluctuation is the root mean
    square about that line. With velocity Verlet on a smooth potential the fluctuation falls fourfold when the time step
    is halved. None when no replica has finite energies throughout.
    """
    whole = np.isfinite(energy).all(0)
    if not whole.any():
        return None, None
    centred = energy[:, whole] - energy[:, whole].mean(0)
    t = time - time.mean()
    slope = t @ centred / (t @ t)
    residual = centred - t[:, None] * slope
    return float(slope.mean()) * 1e6 / n_atoms, float(np.sqrt((residual**2).mean())) * 1e3 / n_atoms
