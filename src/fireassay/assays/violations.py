"""Violations of energy and force: how far a potential's trajectories are from the truth, in three readings.

`published` compares frame by frame with the labels of the reference trajectory, as EGraFFBench's code does (eq. 4, 5);
`relabelled` asks the oracle about frames that were visited; `paired` follows the oracle's own run from the same start
and velocities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fireassay import metrics
from fireassay.assays.assay import Subject
from fireassay.assays.predictions import dataset_for, predict
from fireassay.assays.trajectories import MotionSettings, moved
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.observables import motion
from fireassay.potential import Predictor
from fireassay.progress import Silent
from fireassay.records.dynamics import Violation
from fireassay.simulation.observers import Recorder
from fireassay.simulation.state import State, renumbered

Array = NDArray[np.float64]


class ViolationSettings(MotionSettings):
    """How long, and on how many frames, a potential is compared with the oracle."""

    stride: int = Field(default=2, ge=1, description="steps between frames that are kept")
    relabelled: int = Field(default=100, ge=0, description="visited frames that the oracle labels, at most; 0: none")
    paired: float = Field(
        default=500.0, ge=0, description="fs of the oracle's own run from the same start and velocities; 0: none"
    )


def violations(
    subject: Subject,
    settings: ViolationSettings,
    start: Structure,
    state: State,
    positions: Array,
    seen: Mapping[str, NDArray],
    alive: NDArray[np.bool_],
    notes: list[str],
) -> list[Violation]:
    """Every reading that there is something to compare with for; what cannot be said is told in `notes`.

    `state` is where the production began, `seen` what was recorded of it, `alive` which trajectories lived through it,
    and `positions` (P, T, n, 3) in Å are those of them.
    """
    found = [_published(subject, settings, start, seen, alive)]
    if subject.oracle is None:
        return [violation for violation in found if violation is not None]
    zero = _cohesive_zero(subject.oracle, start)
    if settings.relabelled:
        found.append(_relabelled(subject, subject.oracle, settings, start, positions, seen, alive, zero, notes))
    if settings.paired > 0:
        found.append(_paired(subject, subject.oracle, settings, state, zero, notes))
    return [violation for violation in found if violation is not None]


def _published(
    subject: Subject,
    settings: ViolationSettings,
    start: Structure,
    seen: Mapping[str, NDArray],
    alive: NDArray[np.bool_],
) -> Violation | None:
    """Frame by frame against the labels of the reference trajectory, as in EGraFFBench's code; None without any."""
    frames = [s for s in subject.reference if s.energy is not None and s.forces is not None]
    if not frames or not np.array_equal(frames[0].atomic_numbers, start.atomic_numbers):
        return None
    n, replicas = len(start), len(alive)
    count = min(len(frames), len(seen["potential_energy"]))
    energy = seen["potential_energy"][:count, alive].T.reshape(-1)
    forces = seen["forces"][:count].reshape(count, replicas, n, 3)[:, alive].swapaxes(0, 1).reshape(-1, n, 3)
    truth = np.tile(np.array([s.energy for s in frames[:count]], dtype=np.float64), int(alive.sum()))
    labels = np.stack([s.forces for s in frames[:count] if s.forces is not None])
    true_forces = np.tile(labels, (int(alive.sum()), 1, 1))
    known = np.asarray(np.isfinite(energy + truth) & np.isfinite(forces + true_forces).all(axis=(1, 2)))
    if not known.any():
        return None
    time: Array = np.arange(count, dtype=np.float64) * (settings.stride * settings.timestep)
    return _violation("published", time, energy, forces, truth, true_forces, known, None, count)


def _cohesive_zero(oracle: Predictor, start: Structure) -> float | None:
    """The energy of the start's atoms when isolated, of the oracle, in eV; None when it cannot say.

    It is taken off both sides: a potential stands for the same energies, whatever its own isolated atoms have.
    """
    elements, counts = np.unique(start.atomic_numbers, return_counts=True)
    atoms = [Structure(np.array([z]), np.zeros((1, 3))) for z in elements.tolist()]
    try:
        energy = predict(oracle, dataset_for(oracle, atoms), forces=False, progress=Silent()).energy
    except InputError:
        return None
    total = float(energy @ counts)
    return total if np.isfinite(total) else None


def _relabelled(
    subject: Subject,
    oracle: Predictor,
    settings: ViolationSettings,
    start: Structure,
    positions: Array,
    seen: Mapping[str, NDArray],
    alive: NDArray[np.bool_],
    zero: float | None,
    notes: list[str],
) -> Violation | None:
    """The oracle's word on frames that were visited, spread evenly over time and trajectories."""
    replicas, frames, n = positions.shape[:3]
    each = max(1, min(frames, settings.relabelled // replicas))
    rows = np.linspace(0, frames - 1, each).round().astype(int)
    structures = [Structure(start.atomic_numbers, x[t], start.cell, start.pbc, charge=start.charge, spin=start.spin)
                  for x in positions for t in rows.tolist()]  # fmt: skip
    data = dataset_for(oracle, structures)
    subject.progress.start("labels of the oracle", len(structures))
    try:
        truth = predict(oracle, data, forces=True, progress=subject.progress)
    finally:
        subject.progress.stop()
    assert truth.forces is not None
    energy = seen["potential_energy"][rows][:, alive].T.reshape(-1)
    forces = seen["forces"].reshape(frames, len(alive), n, 3)[rows][:, alive].swapaxes(0, 1).reshape(-1, n, 3)
    theirs = truth.forces.reshape(-1, n, 3)
    known = np.isfinite(truth.energy) & np.isfinite(theirs).all((1, 2)) & np.isfinite(energy)
    if not known.any():
        notes.append(f"the oracle labels none of {len(structures)} visited frames")
        return None
    time = rows * settings.stride * settings.timestep
    found = _violation("relabelled", time, energy, forces, truth.energy, theirs, known, zero, len(rows))
    return replace(found, failed=int((~known).sum()))


def _paired(
    subject: Subject,
    oracle: Predictor,
    settings: ViolationSettings,
    state: State,
    zero: float | None,
    notes: list[str],
) -> Violation | None:
    """Both from the same start and velocities at constant energy, compared at equal times."""
    seen = []
    start = renumbered(state)
    try:
        for predictor, who in ((subject.predictor, subject.name), (oracle, "oracle")):
            recorder = Recorder(settings.stride, ("forces", "potential_energy"))
            moved(
                subject,
                settings,
                start,
                min(settings.paired, settings.duration),
                predictor=predictor,
                thermostat="none",
                observers=(recorder,),
                description=f"paired run of {who}",
                tag="paired-own" if predictor is subject.predictor else "paired-oracle",
            )
            seen.append(recorder.arrays())
    except InputError as error:
        notes.append(f"paired with the oracle: {error}")
        return None
    own, theirs = seen
    frames, replicas = own["potential_energy"].shape
    n = own["forces"].shape[1] // replicas

    def flat(arrays: Mapping[str, NDArray]) -> tuple[Array, Array]:
        forces = arrays["forces"].reshape(frames, replicas, n, 3).swapaxes(0, 1).reshape(-1, n, 3)
        return arrays["potential_energy"].T.reshape(-1), forces

    energy, forces = flat(own)
    truth, true_forces = flat(theirs)
    known = np.asarray(np.isfinite(energy + truth) & np.isfinite(forces + true_forces).all(axis=(1, 2)))
    if not known.any():
        notes.append("no paired frame: one of both trajectories ends at once")
        return None
    found = _violation("paired", own["time"], energy, forces, truth, true_forces, known, zero, frames)
    return replace(found, decorrelation_time=motion.decorrelation_time(found.force, found.time))


def _violation(
    reading: str,
    time: Array,
    energy: Array,
    forces: Array,
    truth: Array,
    true_forces: Array,
    known: NDArray[np.bool_],
    zero: float | None,
    frames: int,
) -> Violation:
    """Of flat arrays, trajectory by trajectory, each with `frames` frames."""

    def spread(values: Array) -> Array:
        full = np.full(len(known), np.nan)
        full[known] = values
        table = full.reshape(-1, frames)
        count = np.isfinite(table).sum(0)
        return np.where(count > 0, np.nansum(table, axis=0) / np.maximum(count, 1), np.nan)

    ev = metrics.energy_violation(energy[known], truth[known])
    fv = metrics.force_violation(forces[known], true_forces[known])
    cohesive = None
    if zero is not None:
        cohesive = metrics.geometric_mean(metrics.energy_violation(energy[known] - zero, truth[known] - zero))
    return Violation(
        reading=reading,
        time=np.asarray(time, dtype=np.float64),
        energy=spread(ev),
        force=spread(fv),
        energy_mean=metrics.geometric_mean(ev),
        cohesive_mean=cohesive,
        force_mean=metrics.geometric_mean(fv),
        frames=int(known.sum()),
    )
