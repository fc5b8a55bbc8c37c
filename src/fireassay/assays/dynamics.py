"""Dynamics: do atoms move as they should? Displacements, diffusion, vibrations, pressure, and violations of the truth.

Trajectories at constant energy after an equilibration; beside a reference trajectory and an oracle. EGraFFBench,
section 4.2.2 and A.9; NequIP, the diffusivity of LiPS.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from pydantic import Field

from fireassay import metrics
from fireassay.assays.assay import Assay, Need, Subject
from fireassay.assays.predictions import dataset_for, predict
from fireassay.assays.stability import energy_drift
from fireassay.assays.trajectories import (
    REFERENCE,
    described,
    equilibrated,
    forget,
    moved,
    reference_of,
    sampled_from,
)
from fireassay.assays.violations import ViolationSettings, violations
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.observables import motion
from fireassay.observables.molecule import molecular_fraction
from fireassay.observables.trajectory import Trajectory, without_drift
from fireassay.progress import Silent
from fireassay.records.dynamics import (
    Diffusivity,
    Displacement,
    DynamicsResult,
    Mean,
    Vibrations,
)
from fireassay.records.trajectories import Likeness
from fireassay.simulation.ensemble import Thermostat
from fireassay.simulation.observers import Recorder
from fireassay.simulation.run import Simulation
from fireassay.simulation.state import State, renumbered
from fireassay.units import ACCELERATION, BOLTZMANN, GIGAPASCAL

Array = NDArray[np.float64]
_PARTS: Final = 5  # of a single trajectory, for errors
_HOTTER, _COLDER, _CLOSE = 3.0, 10.0, 5.0  # of a reference's steps: times hotter, times colder within so many fs
_HYDROGEN: Final = (0.9, 100.0)  # Å and fs: closer than, and for how long, two atoms are a molecule


class DynamicsSettings(ViolationSettings):
    """Settings of the dynamics assay."""

    production: Thermostat = Field(
        default="none", description="thermostat of what is looked at; none: constant energy, after the equilibration"
    )
    fit: tuple[float, float] | None = Field(
        default=None, description="fs, window of the line through the displacement; null: 0.1 to 0.4 of the duration"
    )
    reference_interval: float | None = Field(
        default=None, gt=0, description="fs between two frames of data.reference; needed to compare with it"
    )
    pressure: bool = Field(default=True, description="pressures of periodic systems, where the potential has stress")


@dataclass(frozen=True, eq=False)
class _Path:
    """Trajectories of one origin: positions and velocities (P, T, N, 3) of P independent ones, frames `interval` apart.

    With `differences` velocities are mean velocities between frames.
    """

    positions: Array
    velocities: Array
    interval: float
    differences: bool


def run(subject: Subject, settings: DynamicsSettings) -> DynamicsResult:
    """Equilibrates, samples, compares. Raises InputError when the reference does not fit, or is too short.

    Trajectories that end early are left out of displacements and spectra, which need all of the time; `sampled` says
    how much of the planned time was lived.
    """
    start = subject.start
    assert start is not None
    notes: list[str] = []
    reference = _reference(subject, settings, start, notes)
    window = settings.fit or (0.1 * settings.duration, 0.4 * settings.duration)
    _check_window(settings, window, reference)
    warm = equilibrated(subject, settings, start)
    stress = settings.pressure and start.solid and _has_stress(subject, start)
    if settings.pressure and start.solid and not stress:
        notes.append(f"{type(subject.predictor).__name__} gives no stress here: no pressure")
    _reset_memory(subject)
    done, seen = _production(subject, settings, warm.state, stress)
    alive = _alive(seen, start, settings, done, notes)
    own, positions = _own_path(warm.state, seen, alive, settings)
    others = {} if reference is None else {REFERENCE: _path_of(reference)}
    compared = violations(subject, settings, start, warm.state, positions, seen, alive, notes)
    forget(subject, settings)
    masses, n_atoms = warm.state.masses.cpu().numpy()[: len(start)], len(start)
    time = np.arange(own.positions.shape[1]) * own.interval
    drift = energy_drift(seen["time"], seen["total_energy"], n_atoms) if settings.production == "none" else (None, None)
    lived = np.isfinite(seen["temperature"]).sum()
    return DynamicsResult(
        sampled_from=sampled_from(start, settings),
        production=settings.production,
        interval=own.interval,
        sampled=float(lived) / (len(seen["time"]) * settings.replicas),
        references={name: path.positions.shape[0] * path.positions.shape[1] for name, path in others.items()},
        displacements=_displacements(start, own, others),
        diffusivities=_diffusivities(start, own, others, window),
        deviation_time=time,
        deviation=np.mean([motion.deviation_from_start(x) for x in own.positions], axis=0),
        deviation_references={name: _deviation(path, time) for name, path in others.items()},
        vibrations=_vibrations(masses, own, others),
        pressure=_pressure(seen, alive, reference, subject) if stress else None,
        temperature=_mean(seen["temperature"][:, alive].mean(0)),
        drift=drift[0],
        fluctuation=drift[1],
        molecular_fraction=_molecules(start, own),
        violations=compared,
        failures=[*warm.failures, *(described(f) for f in done.failures)],
        replica_steps_per_second=done.replica_steps / done.seconds,
        seconds_per_atom_step=done.seconds / (done.replica_steps * n_atoms),
        peak_memory=_memory(subject),
        notes=notes,
    )


def _alive(
    seen: Mapping[str, NDArray], start: Structure, settings: DynamicsSettings, done: Simulation, notes: list[str]
) -> NDArray[np.bool_]:
    """Which trajectories lived through all of it. Raises InputError when none did."""
    frames = len(seen["positions"])
    alive = np.asarray(np.isfinite(seen["positions"]).reshape(frames, -1, len(start), 3).all(axis=(0, 2, 3)))
    if not alive.any():
        first = min(done.failures, key=lambda f: f.step)
        raise InputError(
            f"{start.where}: no trajectory lives through {settings.duration:g} fs; the first ended at {first.time:g} "
            f"fs by {first.criterion.replace('_', ' ')}; shorten dynamics.duration, or ask the stability assay"
        )
    if not alive.all():
        notes.append(f"{int((~alive).sum())} of {len(alive)} trajectories ended early and are left out of averages")
    return alive


def _own_path(
    state: State, seen: Mapping[str, NDArray], alive: NDArray[np.bool_], settings: DynamicsSettings
) -> tuple[_Path, Array]:
    """The trajectories that lived, beside their centre of mass, and their positions as they were."""
    n = state.n_atoms // state.n_replicas
    shape = (-1, state.n_replicas, n, 3)
    masses = state.masses.cpu().numpy()[:n]
    positions = seen["positions"].reshape(shape).swapaxes(0, 1)[alive]
    velocities = seen["velocities"].reshape(shape).swapaxes(0, 1)[alive]
    velocities = velocities - np.einsum("ptnk,n->ptk", velocities, masses / masses.sum())[:, :, None]
    still = np.stack([without_drift(x, masses) for x in positions])
    return _Path(still, velocities, settings.stride * settings.timestep, False), positions


def _reference(subject: Subject, settings: DynamicsSettings, start: Structure, notes: list[str]) -> Trajectory | None:
    if not len(subject.reference):
        return None
    if settings.reference_interval is None:
        line = "the time between frames of data.reference is unknown; compare with it by dynamics.reference_interval=FS"
        notes.append(line)
        subject.tell(f"dynamics: {line}")
        return None
    found = reference_of(subject, start, settings.reference_interval, least=10)
    if found is not None:
        _check_interval(found, settings)
    if found is not None and not np.array_equal(found.atomic_numbers, start.atomic_numbers):
        order = np.empty(len(start), dtype=np.int64)
        order[np.argsort(start.atomic_numbers, kind="stable")] = np.argsort(found.atomic_numbers, kind="stable")
        found = replace(
            found,
            atomic_numbers=found.atomic_numbers[order],
            positions=found.positions[:, order],
            masses=found.masses[order],
        )
    return found


def _check_interval(reference: Trajectory, settings: DynamicsSettings) -> None:
    """Raises InputError when the steps between frames belong to another time, or to frames that are out of order.

    Mean velocities between frames are at most as hot as the atoms, and not much colder while frames are close.
    """
    assert reference.interval is not None
    velocities = motion.velocities_of(without_drift(reference.positions, reference.masses), reference.interval)
    doubled = np.einsum("tnk,tnk,n->", velocities, velocities, reference.masses) / len(velocities) / ACCELERATION
    kelvin = float(doubled) / (3 * len(reference.masses) * BOLTZMANN)
    ratio = kelvin / settings.temperature
    if ratio > _HOTTER or (ratio < 1 / _COLDER and reference.interval <= _CLOSE):
        raise InputError(
            f"between frames of data.reference, {reference.interval:g} fs apart as dynamics.reference_interval says, "
            f"atoms move as at {kelvin:.3g} K, and not as at dynamics.temperature={settings.temperature:g}; the "
            "interval is another, or the frames are not in the order of time"
        )


def _check_window(settings: DynamicsSettings, window: tuple[float, float], reference: Trajectory | None) -> None:
    longest = 0.5 * settings.duration
    if not 0 <= window[0] < window[1] <= longest:
        raise InputError(
            f"dynamics.fit is {list(window)} fs; needs a window within 0 and {longest:g} fs, half of the duration"
        )
    if window[1] - window[0] < 2 * settings.stride * settings.timestep:
        raise InputError(
            f"dynamics.fit is {list(window)} fs, less than two frames {settings.stride * settings.timestep:g} fs "
            "apart; widen it, or lower dynamics.stride"
        )
    if reference is not None and reference.interval is not None:
        length = (len(reference) - 1) * reference.interval
        if length / 2 < window[1]:
            raise InputError(
                f"data.reference lasts {length:g} fs ({len(reference)} frames), too short for a window up to "
                f"{window[1]:g} fs, which needs twice as much; set dynamics.fit=[{0.1 * length:g}, {0.4 * length:g}]"
            )


def _has_stress(subject: Subject, start: Structure) -> bool:
    bare = replace(start, energy=None, forces=None, stress=None)
    data = dataset_for(subject.predictor, [bare])
    try:
        found = predict(subject.predictor, data, forces=True, stress=True, device=subject.device, progress=Silent())
    except InputError:
        return False
    return found.stress is not None and bool(np.isfinite(found.stress).all())


def _production(
    subject: Subject, settings: DynamicsSettings, state: State, stress: bool
) -> tuple[Simulation, Mapping[str, NDArray]]:
    quantities = ("positions", "velocities", "forces", "temperature", "potential_energy", "total_energy")
    recorder = Recorder(settings.stride, (*quantities, *(("pressure",) if stress else ())))
    done = moved(
        subject,
        settings,
        renumbered(state),
        settings.duration,
        thermostat=settings.production,
        observers=(recorder,),
        description=f"dynamics of {subject.name}",
        stress=stress,
        seed=3,
        tag="dynamics",
    )
    return done, recorder.arrays()


def _path_of(reference: Trajectory) -> _Path:
    """The reference as one trajectory, with velocities from its positions."""
    assert reference.interval is not None
    positions = without_drift(reference.positions, reference.masses)
    velocities = motion.velocities_of(positions, reference.interval)
    return _Path(positions[None], velocities[None], reference.interval, True)


def _deviation(path: _Path, time: Array) -> Array:
    """RMSD of a reference at the times of the own one."""
    found = motion.deviation_from_start(path.positions[0])
    return np.interp(time, np.arange(len(found)) * path.interval, found, right=np.nan)


def _groups(start: Structure) -> dict[str, NDArray[np.bool_]]:
    """Atoms by element, and all where there are several elements."""
    found = {chemical_symbols[z]: start.atomic_numbers == z for z in np.unique(start.atomic_numbers).tolist()}
    return found if len(found) == 1 else {**found, "all": np.ones(len(start), dtype=bool)}


def _squared(path: _Path, atoms: NDArray[np.bool_]) -> Array:
    """Displacements (P, L) of the parts."""
    return np.stack([motion.squared_displacements(x[:, atoms]).mean(1) for x in path.positions])


def _displacements(start: Structure, own: _Path, others: Mapping[str, _Path]) -> list[Displacement]:
    found = []
    for name, atoms in _groups(start).items():
        each = _squared(own, atoms)
        time = np.arange(each.shape[1]) * own.interval
        references = {}
        for other, path in others.items():
            theirs = _squared(path, atoms).mean(0)
            references[other] = np.interp(time, np.arange(len(theirs)) * path.interval, theirs, right=np.nan)
        error = each.std(0, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.full(each.shape[1], np.nan)
        found.append(Displacement(name=name, time=time, value=each.mean(0), error=error, references=references))
    return found


def _diffusivities(
    start: Structure, own: _Path, others: Mapping[str, _Path], window: tuple[float, float]
) -> list[Diffusivity]:
    """Only where atoms can get away: in a periodic system."""
    if not start.pbc.any():
        return []
    dimensions = int(start.pbc.sum())
    found = []
    for name, atoms in _groups(start).items():
        value = _diffusion(own, atoms, window, dimensions)
        theirs = {other: _diffusion(path, atoms, window, dimensions) for other, path in others.items()}
        found.append(
            Diffusivity(
                name=name,
                value=value.value * motion.CM2_PER_S,
                error=_known(value.error * motion.CM2_PER_S),
                window_from=window[0],
                window_to=window[1],
                references={n: d.value * motion.CM2_PER_S for n, d in theirs.items()},
                reference_errors={n: _known(d.error * motion.CM2_PER_S) for n, d in theirs.items()},
            )
        )
    return found


def _diffusion(path: _Path, atoms: NDArray[np.bool_], window: tuple[float, float], dimensions: int) -> motion.Diffusion:
    """Of several trajectories, with their spread; of a single one with that of its blocks, as far as they are long."""
    if len(path.positions) > 1:
        return motion.diffusion_of(_squared(path, atoms), path.interval, window, dimensions)
    value = motion.diffusivity(_squared(path, atoms).mean(0), path.interval, window, dimensions)
    frames = path.positions.shape[1]
    blocks = min(_PARTS, int(frames * path.interval / (2 * window[1])))
    if blocks < 2:
        return motion.Diffusion(value, float("nan"), window)
    ends = np.linspace(0, frames, blocks + 1).round().astype(int)
    pieces = [path.positions[0, a:b][:, atoms] for a, b in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    own = [
        motion.diffusivity(motion.squared_displacements(x).mean(1), path.interval, window, dimensions) for x in pieces
    ]
    return motion.Diffusion(value, float(np.std(own, ddof=1) / np.sqrt(len(own))), window)


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _vibrations(masses: Array, own: _Path, others: Mapping[str, _Path]) -> Vibrations | None:
    frames = own.velocities.shape[1]
    if frames < 16:
        return None
    lags = frames // 2
    c = np.mean([motion.velocity_autocorrelation(v, masses, lags) for v in own.velocities], axis=0)
    spectrum = motion.density_of_states(c, own.interval)
    density = np.maximum(spectrum.density, 0.0)
    references, likeness = {}, {}
    top = float(spectrum.frequency[-1])
    for name, path in others.items():
        n = path.velocities.shape[1]
        most = min(n // 2, round(lags * own.interval / path.interval))
        theirs = motion.density_of_states(
            motion.velocity_autocorrelation(path.velocities[0], masses, most), path.interval, path.differences
        )
        top = min(top, float(theirs.frequency[-1]))
        curve = np.interp(spectrum.frequency, theirs.frequency, np.maximum(theirs.density, 0.0), right=0.0)
        references[name] = curve
        kept = spectrum.frequency <= top
        if curve[kept].sum() > 0 and density[kept].sum() > 0:
            likeness[name] = Likeness(
                jensen_shannon=metrics.jensen_shannon(density[kept], curve[kept]),
                hellinger=metrics.hellinger(density[kept], curve[kept]),
                wasserstein=metrics.wasserstein(density[kept], curve[kept], float(spectrum.frequency[1])),
            )
    return Vibrations(
        time=np.arange(lags) * own.interval,
        autocorrelation=c,
        frequency=spectrum.frequency,
        density=density,
        references=references,
        likeness=likeness,
        compared_to=top if others else None,
    )


def _mean(values: Array) -> Mean:
    """The mean of trajectories' means (P,), with its standard error."""
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Mean(value=float(values.mean()), error=error, references={})


def _pressure(
    seen: Mapping[str, NDArray], alive: NDArray[np.bool_], reference: Trajectory | None, subject: Subject
) -> Mean:
    values = seen["pressure"][:, alive] / GIGAPASCAL
    found = _mean(values.mean(0))
    if len(values) and values.shape[1] == 1:
        found = replace(found, error=_known(motion.block_means(values[:, 0])[1]))
    stresses = [s.stress for s in subject.reference if s.stress is not None] if reference is not None else []
    if stresses:  # of the configurations alone: a file of frames has no velocities
        virial = -float(np.mean([np.trace(s) / 3 for s in stresses])) / GIGAPASCAL
        found = replace(found, references={f"{REFERENCE}, without kinetic part": virial})
    return found


def _molecules(start: Structure, own: _Path) -> float | None:
    """The share of stable molecules, of pure hydrogen."""
    if set(start.atomic_numbers.tolist()) != {1} or own.positions.shape[1] * own.interval <= _HYDROGEN[1]:
        return None
    cell = np.broadcast_to(start.cell, (own.positions.shape[1], 3, 3))
    shares = [molecular_fraction(x, cell, start.pbc, own.interval, *_HYDROGEN) for x in own.positions]
    return float(np.mean(shares))


def _reset_memory(subject: Subject) -> None:
    if subject.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(subject.device)


def _memory(subject: Subject) -> float | None:
    """Peak memory in MB: of the device where there is one, else of this process since it began."""
    if subject.device.type == "cuda":
        return torch.cuda.max_memory_allocated(subject.device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


ASSAY = Assay("dynamics", DynamicsSettings, (Need.START,), run, by_default=False)
