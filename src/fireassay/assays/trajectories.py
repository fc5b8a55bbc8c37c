"""Trajectories for assays: warm starts, equilibration, and what is sampled after it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fireassay.assays.assay import Subject
from fireassay.data.fingerprint import fingerprint
from fireassay.data.molecules import formula
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.observables.trajectory import Trajectory
from fireassay.potential import Predictor
from fireassay.records.files import read_arrays, write_arrays
from fireassay.records.stability import FailedTrajectory
from fireassay.records.trajectories import SampledFrom
from fireassay.settings import Settings
from fireassay.simulation.criteria import FAILED, ClosestApproach, Criterion, EnergyJump
from fireassay.simulation.ensemble import Thermostat, integrator
from fireassay.simulation.observers import Observer
from fireassay.simulation.run import Simulation, simulate
from fireassay.simulation.state import State, generators, maxwell_boltzmann, replicate

Array = NDArray[np.float64]
Sums = dict[str, NDArray[Any]]
REFERENCE: Final = "reference trajectory"
ORACLE: Final = "oracle"
_BLOCK: Final = 32  # frames of a replica that are reduced at once
_WAITING: Final = "waiting frames"


class MotionSettings(Settings):
    """Settings of every assay that samples trajectories at a temperature."""

    replicas: int = Field(default=5, ge=1, description="trajectories with different initial velocities")
    temperature: float = Field(default=300.0, gt=0, description="K")
    timestep: float = Field(default=1.0, gt=0, description="fs")
    equilibration: float = Field(default=1000.0, ge=0, description="fs that are not looked at")
    duration: float = Field(default=5000.0, gt=0, description="fs that are")
    thermostat: Thermostat = Field(
        default="langevin",
        description="langevin, which warms stiff bonds too; rescaling or nose_hoover, canonical; berendsen; none",
    )
    time_constant: float = Field(default=100.0, gt=0, description="fs, of all thermostats but Langevin's")
    friction: float = Field(default=0.01, gt=0, description="1/fs, of the Langevin thermostat")
    closest_approach: float | None = Field(default=0.5, gt=0, description="Å, end a trajectory with closer atoms")
    energy_jump: float | None = Field(
        default=1.0, gt=0, description="eV/atom, end one whose total energy changes by more within a step"
    )
    skin: float = Field(default=1.0, gt=0, description="Å, how far beyond the cutoff neighbours are kept")
    max_edges: int = Field(default=20_000, ge=1, description="edges of one force call")
    seed: int = Field(default=0, ge=0, description="of velocities and noise")


class Sampler:
    """An observer that reduces frames to sums as they come, so that memory does not grow with the run.

    `reduce(positions (T, n, 3), cell (3, 3))` gives arrays to be added up, by name. Frames are taken every `stride`
    steps, from step `first` on, of each replica by itself. All replicas are copies of one structure, in one cell.
    """

    def __init__(self, reduce: Callable[[Array, Array], Sums], first: int, stride: int) -> None:
        self._reduce, self._first, self._stride = reduce, first, stride
        self._waiting: list[list[Array]] = []
        self.sums: list[Sums] = []
        self._cell = np.zeros((3, 3))

    def begin(self, state: State, n_steps: int, timestep: float) -> None:
        """One set of sums for each replica."""
        self._waiting = [[] for _ in range(state.n_replicas)]
        self.sums = [{} for _ in range(state.n_replicas)]
        self._cell = state.cell[0].detach().cpu().double().numpy()

    def see(self, state: State, step: int, failed: Sequence[int] = ()) -> None:
        """Keeps the frames of a step that is due, but for those of replicas that end with it."""
        if step < self._first or (step - self._first) % self._stride:
            return
        replicas = state.replica.tolist()
        positions = state.positions.detach().cpu().double().numpy().reshape(len(replicas), -1, 3)
        for replica, frame in zip(replicas, positions, strict=True):
            if replica not in failed:
                self._waiting[replica].append(frame)
                if len(self._waiting[replica]) >= _BLOCK:
                    self._flush(replica)

    def _flush(self, replica: int) -> None:
        if self._waiting[replica]:
            self.sums[replica] = added(self.sums[replica], self._reduce(np.stack(self._waiting[replica]), self._cell))
            self._waiting[replica] = []

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Nothing: `sums` are to be read after this, one for each replica, empty for one that never came so far."""
        for replica in range(len(self._waiting)):
            self._flush(replica)
        return {}

    def checkpoint(self) -> dict[str, Tensor]:
        """The sums so far, and the frames that wait: sums are rounded by the frames that are added at once."""
        found = [(f"{k}/{name}", array) for k, sums in enumerate(self.sums) for name, array in sums.items()]
        found += [(f"{k}/{_WAITING}", np.stack(frames)) for k, frames in enumerate(self._waiting) if frames]
        return {name: torch.from_numpy(np.asarray(array)) for name, array in found}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The sums and frames of then."""
        self.sums, self._waiting = [{} for _ in self.sums], [[] for _ in self.sums]
        for name, tensor in tensors.items():
            replica, _, key = name.partition("/")
            if key == _WAITING:
                self._waiting[int(replica)] = list(tensor.numpy())
            else:
                self.sums[int(replica)][key] = tensor.numpy().copy()


def added(first: Sums, second: Sums) -> Sums:
    """Both together, name by name."""
    return {name: np.asarray(first.get(name, 0) + second.get(name, 0)) for name in {**first, **second}}


def summed(parts: Sequence[Sums]) -> Sums:
    """All together."""
    total: Sums = {}
    for part in parts:
        total = added(total, part)
    return total


def warm(subject: Subject, settings: MotionSettings, start: Structure, replicas: int | None = None) -> State:
    """Replicas of the start at the temperature."""
    count = replicas or settings.replicas
    state = replicate(start, count, device=subject.device)
    alone = len(start) == 1
    return maxwell_boltzmann(state, settings.temperature, generators(settings.seed, count), translation=alone)


def moved(
    subject: Subject,
    settings: MotionSettings,
    state: State,
    duration: float,
    *,
    predictor: Predictor | None = None,
    thermostat: Thermostat | None = None,
    observers: Sequence[Observer] = (),
    description: str,
    stress: bool = False,
    seed: int = 1,
    tag: str = "",
) -> Simulation:
    """The replicas after `duration` fs; saved as it goes in the subject's folder under `tag`, which tells runs apart.

    Raises InputError when no calculation succeeds at the start.
    """
    place = None if subject.folder is None or not tag else subject.folder / f".{tag}-{_print(settings)}.npz"
    done = simulate(
        subject.predictor if predictor is None else predictor,
        state,
        integrator(
            settings.thermostat if thermostat is None else thermostat,
            settings.timestep,
            settings.temperature,
            replicas=state.n_replicas,
            seed=settings.seed + seed,
            time_constant=settings.time_constant,
            friction=settings.friction,
        ),
        max(1, round(duration / settings.timestep)),
        observers=observers,
        criteria=_criteria(settings),
        skin=settings.skin,
        reach=settings.closest_approach or 0.0,
        max_edges=settings.max_edges,
        stress=stress,
        progress=subject.progress,
        description=description,
        checkpoint=place,
    )
    if len(done.failures) == state.n_replicas and all(f.criterion == FAILED and f.step == 0 for f in done.failures):
        raise InputError(f"no calculation succeeds at the start: {done.failures[0].message}")
    return done


def _criteria(settings: MotionSettings) -> list[Criterion]:
    found: list[Criterion] = []
    if settings.closest_approach is not None:
        found.append(ClosestApproach(settings.closest_approach))
    if settings.energy_jump is not None:
        found.append(EnergyJump(settings.energy_jump))
    return found


def _print(settings: Settings) -> str:
    return hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:12]


class Equilibrated(NamedTuple):
    """The replicas that came through, and why the others did not."""

    state: State
    failures: list[FailedTrajectory]


def equilibrated(subject: Subject, settings: MotionSettings, start: Structure) -> Equilibrated:
    """Replicas of the start after the equilibration; kept in the subject's folder until `forget`.

    Raises InputError when none of them comes through.
    """
    kept = _kept(subject, settings)
    state = warm(subject, settings, start)
    if kept is not None and kept.exists():
        arrays = read_arrays(kept)
        tensors = {name: torch.from_numpy(np.array(value)).to(subject.device) for name, value in arrays.items()}
        return Equilibrated(State(**tensors), [])  # failures would have been told of before
    if settings.equilibration > 0:
        thermostat: Thermostat = "langevin" if settings.thermostat == "none" else settings.thermostat
        words = f"equilibration of {subject.name}"
        done = moved(
            subject,
            settings,
            state,
            settings.equilibration,
            thermostat=thermostat,
            description=words,
            tag="equilibration",
        )
        check_survivors(done, start, settings)
        failures = [described(f) for f in done.failures]
        state = done.state
    else:
        failures = []
    if kept is not None and not failures:
        write_arrays(kept, {n: v.cpu().numpy() for n, v in state._asdict().items() if v is not None})
    return Equilibrated(state, failures)


def forget(subject: Subject, settings: MotionSettings) -> None:
    """Removes the kept replicas."""
    kept = _kept(subject, settings)
    if kept is not None:
        kept.unlink(missing_ok=True)


def _kept(subject: Subject, settings: MotionSettings) -> Path | None:
    if subject.folder is None or subject.start is None:
        return None
    return subject.folder / f".equilibrated-{_print(settings)}-{fingerprint([subject.start])}.npz"


def described(failure: Any) -> FailedTrajectory:
    """A failure as a record."""
    return FailedTrajectory(**{**failure._asdict(), "atoms": list(failure.atoms)})


def check_survivors(done: Simulation, start: Structure, settings: MotionSettings) -> None:
    """Raises InputError, with the first failure, when no replica is left after an equilibration."""
    if done.state.n_replicas:
        return
    first = min(done.failures, key=lambda f: f.step)
    value = f" ({first.value:.3g} {first.unit}, limit {first.limit:.3g})" if np.isfinite(first.value) else ""
    raise InputError(
        f"{start.where}: none of {settings.replicas} trajectories lives through {settings.equilibration:g} fs at "
        f"{settings.temperature:g} K; the first ended at {first.time:g} fs by {first.criterion.replace('_', ' ')}"
        f"{value}; the stability assay says more"
    )


def sampled_from(start: Structure, settings: MotionSettings) -> SampledFrom:
    """What the trajectories were, for the record."""
    return SampledFrom(
        start=fingerprint([start]),
        n_atoms=len(start),
        temperature=settings.temperature,
        timestep=settings.timestep,
        equilibration=settings.equilibration,
        duration=settings.duration,
        thermostat=settings.thermostat,
        replicas=settings.replicas,
    )


def reference_of(
    subject: Subject, start: Structure, interval: float | None = None, least: int = 2
) -> Trajectory | None:
    """The reference trajectory, checked against the start; None without one.

    Raises InputError for other atoms, another periodicity, another cell (lengths or angles by more than 1 %), and fewer
    than `least` frames.
    """
    if not len(subject.reference):
        return None
    frames = list(subject.reference)
    if len(frames) < least:
        raise InputError(f"data.reference has {len(frames)} frame(s); a reference trajectory needs at least {least}")
    found = Trajectory.of(frames, interval)
    if sorted(found.atomic_numbers.tolist()) != sorted(start.atomic_numbers.tolist()):
        raise InputError(
            f"data.reference is of {formula(found.atomic_numbers)}, the start of {formula(start.atomic_numbers)}; give "
            "a reference trajectory of the same system, or another start with data.start"
        )
    if not np.array_equal(found.pbc, start.pbc):
        raise InputError(f"data.reference has pbc {found.pbc.tolist()}, the start {start.pbc.tolist()}; needs one")
    if start.pbc.any():
        mean, cell = found.cell.mean(0)[start.pbc], start.cell[start.pbc]
        apart = np.abs(mean @ mean.T - cell @ cell.T) / np.abs(np.diagonal(cell @ cell.T)).max()
        if apart.max() > 0.02:
            raise InputError(
                f"data.reference has a cell of {_lengths(mean)} Å, the start one of {_lengths(cell)} Å (or other "
                "angles); densities would differ: start from a frame of the reference with data.start"
            )
    return found


def _lengths(cell: Array) -> str:
    return " x ".join(f"{length:.3f}" for length in np.linalg.norm(cell, axis=1))
