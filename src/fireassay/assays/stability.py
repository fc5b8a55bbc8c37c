"""Stability in molecular dynamics: how long do trajectories last before they become unphysical?

The published protocol is Appendix B of "Data efficiency and extrapolation trends in neural network interatomic
potentials" (Vita, Schwalbe-Koda, 2023): 30 trajectories of 3BPA from its ground state, Berendsen thermostat at 1600 K
with τ = 250 fs, steps of 1 fs, 6 ps, failed when a bond of the initial connectivity exceeds 2 Å.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fireassay.assays.assay import Assay, Need, Subject
from fireassay.assays.distribution_windows import RDF, DistributionWindows
from fireassay.assays.trajectories import reference_of
from fireassay.data.fingerprint import fingerprint
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.records.stability import (
    Drift,
    FailedTrajectory,
    StabilityProtocol,
    StabilityResult,
    Start,
    SurvivalCurve,
    Times,
)
from fireassay.settings import Settings
from fireassay.simulation.criteria import (
    FAILED,
    AtomEnergyJump,
    ClosestApproach,
    Criterion,
    EnergyJump,
    Failure,
    TemperatureRange,
    bond_criterion,
)
from fireassay.simulation.ensemble import Thermostat, integrator
from fireassay.simulation.integrators import Integrator, VelocityVerlet
from fireassay.simulation.observers import LastFrames, Recorder
from fireassay.simulation.relax import relax
from fireassay.simulation.run import Simulation, simulate
from fireassay.simulation.state import State, generators, maxwell_boltzmann, replicate, to_structures
from fireassay.statistics.survival import kaplan_meier
from fireassay.units import BOLTZMANN

Array = NDArray[np.float64]

# Appendix B. Every setting is either here or among INCIDENTAL: one that is in neither stops this module's import, so
# that a new criterion cannot join the published protocol unnoticed.
PUBLISHED: Final[Mapping[str, Any]] = {
    "temperature": 1600.0,
    "timestep": 1.0,
    "duration": 6000.0,
    "thermostat": "berendsen",
    "time_constant": 250.0,
    "friction": 0.01,
    "degrees_of_freedom": "all",
    "remove_rotation": False,
    "relax": False,
    "relax_force_limit": 0.01,
    "bonds": "on",
    "bond_limit": 2.0,
    "bond_stretch": None,
    "closest_approach": None,
    "temperature_range": None,
    "energy_jump": None,
    "atom_energy_jump": None,
    "rdf_limit": None,
    "rdf_window": 1000.0,
    "rdf_of": "all",
}
_THERMAL: Final = 10.0  # k_B T that an atom may gain from its neighbours in a step, beside the limit
INCIDENTAL: Final = frozenset(  # what does not decide when a trajectory fails
    (
        "protocol",
        "replicas",
        "seed",
        "drift_duration",
        "drift_temperature",
        "drift_replicas",
        "record_every",
        "last_frames",
        "last_frames_every",
        "skin",
        "max_edges",
        "confidence",
    )
)


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
    thermostat: Thermostat = Field(
        default="berendsen",
        description="rescaling: canonical velocity rescaling (CSVR); nose_hoover: a chain of three; none: NVE",
    )
    time_constant: float = Field(default=250.0, gt=0, description="fs, of all thermostats but Langevin's")
    friction: float = Field(default=0.01, gt=0, description="1/fs, of the Langevin thermostat")
    degrees_of_freedom: Literal["moving", "all"] = Field(
        default="moving", description="what temperature is the energy of: moving, without those at rest; all, 3n"
    )
    remove_rotation: bool = Field(default=True, description="molecules start without angular momentum")
    relax: bool = Field(default=False, description="relax the start with the potential first")
    relax_force_limit: float = Field(default=0.01, gt=0, description="eV/Å")
    bonds: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="follow the bonds between nonmetals, through periodic images too; auto: not in what is metallic or "
        "ionic by its own connectivity",
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
    atom_energy_jump: float | None = Field(
        default=2.0,
        gt=0,
        description="eV, change of one atom's kinetic energy in one step, beside 10 k_B T; null: not looked at",
    )
    rdf_limit: float | None = Field(
        default=None,
        gt=0,
        description="Å, a periodic system has failed when the mean |g - g_ref| of a window times the range exceeds it "
        "(MDsim: 3.0 for pairs of water, 1.0 for LiPS); needs data.reference; null: not looked at",
    )
    rdf_window: float = Field(default=1000.0, gt=0, description="fs, of the windows for rdf_limit")
    rdf_of: Literal["all", "pairs"] = Field(
        default="all", description="for rdf_limit: g of all atoms, or each pair of elements by itself"
    )
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
            return {"replicas": 30, **PUBLISHED, **given}
        return given

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.temperature_range is not None and self.temperature_range[0] >= self.temperature_range[1]:
            raise ValueError(f"temperature_range is {list(self.temperature_range)} K; the first has to be the lower")
        if self.bonds == "on" and self.bond_limit is None and self.bond_stretch is None:
            raise ValueError("bonds is on, but bond_limit and bond_stretch are both null; give one of them")
        return self

    @classmethod
    def published(cls, **changes: Any) -> StabilitySettings:
        """Appendix B, with changes."""
        return cls(protocol="published", **changes)

    @classmethod
    def defined_by(cls, protocol: str) -> frozenset[str]:
        """The settings that a protocol decides: naming it anew resets them."""
        return frozenset(PUBLISHED) | {"replicas"} if protocol in ("published", "sound") else frozenset()


def _sorted_out(fields: Mapping[str, Any]) -> None:
    """Raises TypeError when a setting is neither part of the published protocol nor incidental."""
    lost = set(fields) - set(PUBLISHED) - INCIDENTAL
    if lost:
        raise TypeError(f"stability settings {sorted(lost)} must be in PUBLISHED or in INCIDENTAL")


_sorted_out(StabilitySettings.model_fields)


def run(subject: Subject, settings: StabilitySettings) -> StabilityResult:
    """Trajectories from the subject's start until they fail or time is up, side by side in one batch.

    In the subject's folder the simulation is saved as it goes: interrupted and called again it goes on where it was.
    Raises InputError when an element is unknown to the potential, the start breaks a bond criterion, or bonds are asked
    for and there are none.
    """
    given = subject.start
    assert given is not None
    start, relaxed, largest = _relaxed(subject, given, settings) if settings.relax else (given, None, None)
    state = _warm(start, settings.replicas, settings.temperature, settings.seed, settings, subject.device)
    criteria, n_bonds = _criteria(given, state, settings)
    recorder = Recorder(settings.record_every, ("temperature", "potential_energy"))
    frames = LastFrames(settings.last_frames, settings.last_frames_every)
    n_steps = max(1, round(settings.duration / settings.timestep))
    windows = None if settings.rdf_limit is None else _windows(subject, given, settings)
    done = simulate(
        subject.predictor,
        state,
        _integrator(settings),
        n_steps,
        observers=(recorder, frames) if windows is None else (recorder, frames, windows),
        criteria=criteria,
        skin=settings.skin,
        reach=settings.closest_approach or 0.0,
        max_edges=settings.max_edges,
        progress=subject.progress,
        description=f"stability of {subject.name}",
        checkpoint=None if subject.folder is None else subject.folder / f".stability-{_fingerprint(settings)}.npz",
    )
    if len(done.failures) == settings.replicas and all(f.criterion == FAILED and f.step == 0 for f in done.failures):
        raise InputError(f"{given.where}: no calculation succeeds at the start: {done.failures[0].message}")
    duration = n_steps * settings.timestep
    if windows is not None:
        done = done._replace(failures=windows.judged(done.failures, settings.rdf_limit or np.inf))
    time, failed = _times(done, settings.replicas, duration)
    return StabilityResult(
        protocol=_protocol(
            settings, duration, ["not_finite", *(c.name for c in criteria), *([] if windows is None else [RDF])]
        ),
        start=_start(given, relaxed, largest),
        time_to_failure=time,
        failed=failed,
        curve=_curve(time, failed, settings.confidence),
        times=_summary(time),
        failures=[_described(failure) for failure in done.failures],
        n_bonds=n_bonds,
        drift=_drift(subject, start, settings) if settings.drift_duration > 0 else None,
        replica_steps_per_second=done.replica_steps / done.seconds,
        integrator_share=1 - done.force_seconds / done.seconds,
        neighbour_rebuilds=done.rebuilds,
        **_traces(done, start, settings.replicas),
    )


ASSAY = Assay("stability", StabilitySettings, (Need.START,), run)


def _protocol(settings: StabilitySettings, duration: float, criteria: list[str]) -> StabilityProtocol:
    return StabilityProtocol(
        temperature=settings.temperature,
        timestep=settings.timestep,
        duration=duration,
        thermostat=settings.thermostat,
        criteria=criteria,
        settings={name: value for name, value in settings.model_dump(mode="json").items() if name not in INCIDENTAL},
    )


def _start(given: Structure, relaxed: bool | None, largest_force: float | None) -> Start:
    return Start(
        fingerprint=fingerprint([given]),
        atomic_numbers=given.atomic_numbers,
        positions=given.positions,
        cell=given.cell,
        pbc=given.pbc,
        relaxed=relaxed,
        largest_force=largest_force,
    )


def _relaxed(subject: Subject, start: Structure, settings: StabilitySettings) -> tuple[Structure, bool, float]:
    """The relaxed start, whether it converged, and the largest force that is left."""
    state = replicate(start, 1, device=subject.device)
    done = relax(
        subject.predictor,
        state,
        force_limit=settings.relax_force_limit,
        max_steps=2000,
        progress=subject.progress,
    )
    if done.failures:
        raise InputError(
            f"{start.where}: the relaxation of the start failed after {int(done.steps[0])} steps: {done.failures[0]}; "
            "set stability.relax=false, or choose another start"
        )
    return to_structures(done.state)[0], bool(done.converged[0]), float(done.largest_force[0])


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


def _criteria(start: Structure, state: State, settings: StabilitySettings) -> tuple[list[Criterion], int | None]:
    """The criteria, and the number of bonds that are followed in each trajectory; None when bonds are not."""
    n_bonds = None
    criteria: list[Criterion] = []
    wanted = settings.bonds != "off" and (settings.bond_limit is not None or settings.bond_stretch is not None)
    if wanted:
        starts = [start] * settings.replicas
        limits = (settings.bond_limit, settings.bond_stretch)
        found = bond_criterion(starts, state, *limits, covalent=settings.bonds == "auto")
        if found is not None:
            criteria.append(found)
        elif settings.bonds == "on":
            raise InputError(f"{start.where}: bonds are to be followed but there are none; set bonds to off or auto")
        n_bonds = 0 if found is None else len(found.pairs) // settings.replicas
    if settings.closest_approach is not None:
        criteria.append(ClosestApproach(settings.closest_approach))
    if settings.temperature_range is not None:
        criteria.append(TemperatureRange(*settings.temperature_range))
    if settings.energy_jump is not None:
        criteria.append(EnergyJump(settings.energy_jump))
    if settings.atom_energy_jump is not None:
        thermal = BOLTZMANN * settings.temperature
        criteria.append(AtomEnergyJump(settings.atom_energy_jump + _THERMAL * thermal))
    return criteria, n_bonds


def _windows(subject: Subject, start: Structure, settings: StabilitySettings) -> DistributionWindows:
    """What watches the radial distribution. Raises InputError without a periodic start and a reference."""
    if not start.pbc.all():
        raise InputError(f"{start.where}: rdf_limit is for systems that are periodic in all directions; set it to null")
    if not len(subject.reference):
        raise InputError("rdf_limit needs a reference trajectory; give data.reference, or set stability.rdf_limit=null")
    reference = reference_of(subject, start)
    assert reference is not None
    return DistributionWindows(start, reference, settings.rdf_window, settings.rdf_of == "pairs")


def _integrator(settings: StabilitySettings) -> Integrator:
    return integrator(
        settings.thermostat,
        settings.timestep,
        settings.temperature,
        replicas=settings.replicas,
        seed=settings.seed + 1,
        time_constant=settings.time_constant,
        friction=settings.friction,
    )


def _fingerprint(settings: StabilitySettings) -> str:
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:12]


def _times(done: Simulation, replicas: int, duration: float) -> tuple[Array, NDArray[np.bool_]]:
    time, failed = np.full(replicas, duration), np.zeros(replicas, dtype=bool)
    for failure in done.failures:
        time[failure.replica], failed[failure.replica] = failure.time, True
    return time, failed


def _curve(time: Array, failed: NDArray[np.bool_], confidence: float) -> SurvivalCurve:
    curve = kaplan_meier(time, failed, confidence)
    mean = curve.mean(float(time.max()))
    return SurvivalCurve(confidence=confidence, **curve._asdict(), median=curve.median, mean=mean)


def _summary(time: Array) -> Times:
    q25, median, q75 = np.quantile(time, [0.25, 0.5, 0.75]).tolist()
    std = float(time.std(ddof=1)) if len(time) > 1 else None
    return Times(mean=float(time.mean()), std=std, median=median, q25=q25, q75=q75)


def _described(failure: Failure) -> FailedTrajectory:
    return FailedTrajectory(**{**failure._asdict(), "atoms": list(failure.atoms)})


def _traces(done: Simulation, start: Structure, replicas: int) -> dict[str, Any]:
    seen = done.arrays
    shape = (-1, replicas, len(start), 3)
    return {
        "time": seen["time"],
        "temperature": seen["temperature"],
        "potential_energy": seen["potential_energy"],
        "last_frames": seen["last_positions"].reshape(shape).swapaxes(0, 1),
        "last_forces": seen["last_forces"].reshape(shape).swapaxes(0, 1),
        "last_steps": seen["last_step"].T,
    }


def _drift(subject: Subject, start: Structure, settings: StabilitySettings) -> Drift:
    """Drift and fluctuation of the total energy at constant energy, at the time step and at half of it."""
    temperature, seed = settings.drift_temperature, settings.seed + 2
    state = _warm(start, settings.drift_replicas, temperature, seed, settings, subject.device)
    found = []
    for timestep in (settings.timestep, settings.timestep / 2):
        recorder = Recorder(1, ("total_energy",))
        simulate(
            subject.predictor,
            state,
            VelocityVerlet(timestep),
            max(2, round(settings.drift_duration / timestep)),
            observers=(recorder,),
            skin=settings.skin,
            max_edges=settings.max_edges,
            progress=subject.progress,
            description=f"energy drift at {timestep:g} fs",
        )
        seen = recorder.arrays()
        found.append(energy_drift(seen["time"], seen["total_energy"], len(start)))
    (rate, fluctuation), (rate_half, fluctuation_half) = found
    return Drift(
        rate=rate,
        rate_half_step=rate_half,
        fluctuation=fluctuation,
        fluctuation_half_step=fluctuation_half,
        fluctuation_ratio=fluctuation / fluctuation_half if fluctuation is not None and fluctuation_half else None,
    )


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
