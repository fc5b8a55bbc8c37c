"""Run replicas until they fail or time is up; save and resume exactly."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fireassay.errors import InputError
from fireassay.potential import Predictor
from fireassay.progress import Progress, Silent
from fireassay.records import read_arrays, write_arrays
from fireassay.simulation.criteria import Criterion, Failure, Moment, NotFinite, judge
from fireassay.simulation.forces import Forces
from fireassay.simulation.integrators import Integrator, Ramp
from fireassay.simulation.observers import Observer
from fireassay.simulation.state import State, kinetic_energy, maxwell_boltzmann, select, sizes

_ATOMS_SHOWN = 16  # per failure in a checkpoint and in results


class Simulation(NamedTuple):
    """How a run ended: the replicas that are left, why the others are not, and what it cost.

    `arrays` joins the observers' arrays. `replica_steps` counts steps of living replicas.
    """

    state: State
    failures: tuple[Failure, ...]
    n_steps: int
    timestep: float
    arrays: dict[str, NDArray]
    seconds: float
    force_seconds: float
    replica_steps: int
    rebuilds: int


class Renewal(NamedTuple):
    """Failed replicas begin anew: at their start, with velocities at `temperature` K, at most `times` times each.

    Velocities depend on the seed, the replica and how often it has begun, and on nothing else. Translation and rotation
    of molecules are at rest as by `maxwell_boltzmann`.
    """

    start: State
    temperature: float
    seed: int
    times: int


@dataclass(frozen=True)
class _Cursor:
    """All that changes from step to step, replaced as one, so that an interruption finds no half-made step."""

    step: int
    state: State
    kinetic: Tensor
    failures: tuple[Failure, ...]
    criteria: tuple[Criterion, ...]
    replica_steps: int
    births: Tensor  # (replicas at the start, 2) int64: the step at which each last began, and how often it did anew


def simulate(
    predictor: Predictor,
    state: State,
    integrator: Integrator,
    n_steps: int,
    *,
    observers: Sequence[Observer] = (),
    criteria: Sequence[Criterion] = (),
    skin: float = 1.0,
    reach: float = 0.0,
    max_edges: int | None = None,
    stress: bool = False,
    renewal: Renewal | None = None,
    progress: Progress | None = None,
    description: str = "molecular dynamics",
    checkpoint: Path | None = None,
    every: float = 60.0,
) -> Simulation:
    """Moves all replicas of `state` by `n_steps` steps, each until it breaks one of `criteria`.

    A failed replica leaves the batch at once and costs nothing more; the others go on with the same edges in the same
    order, hence with the same bits unless the potential rounds differently in a smaller batch. `NotFinite` is
    always among the criteria; without finite forces at its start a replica fails at step 0. `reach` Å is how far the
    edges go at least, for criteria on distances; `max_edges` bounds the memory of one call of the potential. `stress`
    asks for stress at every step, for observers; an integrator that needs it has it anyway.

    With `renewal` a failed replica begins anew in its place instead, so that the batch stays full; its failures count
    steps and time from its last beginning.

    With `checkpoint` (a file) the run is saved every `every` seconds and when it is interrupted; called again with
    the same arguments it goes on where it was and ends with the same numbers, bit for bit, as an uninterrupted run.
    The file is removed at the end.

    Raises InputError when an element is unknown, or when the checkpoint belongs to another run.
    """
    progress = progress or Silent()
    forces = Forces(predictor, skin=skin, reach=reach, max_edges=max_edges, stress=stress or integrator.needs_stress)
    forces.check(state)
    identity = _identity(predictor, state, integrator, n_steps, renewal)
    all_criteria = (NotFinite(), *criteria)
    cursor, spent = None, 0.0
    began = time.perf_counter()
    if checkpoint is not None and checkpoint.exists():
        saved = _load(checkpoint, identity)
        cursor, spent = _restore(saved, state, integrator, observers, forces, all_criteria, n_steps)
    if cursor is None:
        cursor = _started(state, integrator, forces, observers, all_criteria, n_steps)
    saved_at = shown_at = time.perf_counter()
    shown = cursor.step
    progress.start(description, n_steps, cursor.step)
    try:
        while cursor.step < n_steps and cursor.state.n_replicas:
            state = integrator.step(cursor.state, forces, cursor.step)
            with _uninterrupted():
                cursor = _advance(cursor, state, integrator, forces, observers, renewal)
            now = time.perf_counter()
            if now - shown_at > 0.2 or cursor.step == n_steps:
                progress.advance(cursor.step - shown, _note(cursor))
                shown, shown_at = cursor.step, now
            if checkpoint is not None and now - saved_at > every:
                _save(checkpoint, identity, cursor, integrator, observers, forces, spent + now - began)
                saved_at = time.perf_counter()
    except KeyboardInterrupt:
        if checkpoint is not None:
            _save(checkpoint, identity, cursor, integrator, observers, forces, spent + time.perf_counter() - began)
        raise
    finally:
        progress.stop()
    arrays = {name: array for observer in observers for name, array in observer.arrays().items()}  # and files are whole
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return Simulation(
        state=cursor.state,
        failures=cursor.failures,
        n_steps=cursor.step,
        timestep=integrator.timestep,
        arrays=arrays,
        seconds=spent + time.perf_counter() - began,
        force_seconds=forces.seconds,
        replica_steps=cursor.replica_steps,
        rebuilds=forces.neighbours.rebuilds,
    )


def _started(
    state: State,
    integrator: Integrator,
    forces: Forces,
    observers: Sequence[Observer],
    criteria: tuple[Criterion, ...],
    n_steps: int,
) -> _Cursor:
    """Step 0: with forces, seen by the observers, without the replicas that have none."""
    _begin(observers, state, n_steps, integrator.timestep)
    state = integrator.begin(state, forces)
    births = torch.zeros((state.n_replicas, 2), dtype=torch.int64)
    start = _Cursor(0, state, kinetic_energy(state), (), criteria, 0, births)
    return _judged(start, start, (NotFinite(),), integrator.timestep, forces, observers)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C and a handled SIGTERM within the block are heard at its end.

    What observers have seen and where the run is belong together.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: h for n in (signal.SIGINT, signal.SIGTERM) if callable(h := signal.getsignal(n))}
    heard: list[int] = []
    for number in before:
        signal.signal(number, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        before[signal.Signals(heard[0])](heard[0], None)


def _advance(
    cursor: _Cursor,
    state: State,
    integrator: Integrator,
    forces: Forces,
    observers: Sequence[Observer],
    renewal: Renewal | None,
) -> _Cursor:
    """The cursor after a step that led to `state`."""
    steps = cursor.replica_steps + cursor.state.n_replicas
    after = _Cursor(
        cursor.step + 1, state, kinetic_energy(state), cursor.failures, cursor.criteria, steps, cursor.births
    )
    found = _judged(cursor, after, cursor.criteria, integrator.timestep, forces, observers, renewal)
    if not torch.equal(found.births, cursor.births):
        begun = (found.births[:, 0] == found.step).nonzero().flatten().tolist()
        integrator.forget(begun)
        state = forces(found.state)
        found = replace(found, state=state, kinetic=kinetic_energy(state))
    return found


def _judged(
    before: _Cursor,
    after: _Cursor,
    criteria: Sequence[Criterion],
    timestep: float,
    forces: Forces,
    observers: Sequence[Observer],
    renewal: Renewal | None = None,
) -> _Cursor:
    """The cursor after a step, seen by the observers, without the replicas that break one of the criteria.

    Those that begin anew are at their start, without forces.
    """
    assert forces.graph is not None
    assert forces.length is not None
    state, kinetic = after.state, after.kinetic
    moment = Moment(before.state, state, before.kinetic, kinetic, forces.graph, forces.length)
    new = judge(criteria, moment, after.step, timestep, forces.failures)
    failed = [failure.replica for failure in new]
    for observer in observers:
        observer.see(state, after.step, failed)
    if not failed:
        return after
    births = after.births.clone()
    aged = [f._replace(step=age, time=age * timestep) for f in new for age in [after.step - int(births[f.replica, 0])]]
    again = [r for r in failed if renewal is not None and int(births[r, 1]) < renewal.times]
    if renewal is not None and again:
        births[again, 0], births[again, 1] = after.step, births[again, 1] + 1
        state = _renewed(state, again, births, renewal)
    gone = [r for r in failed if r not in again]
    keep = ~torch.isin(state.replica, torch.tensor(gone, dtype=torch.int64, device=state.replica.device))
    state, kinetic = select(state, keep), kinetic[keep]
    left = tuple(criterion.among(state) for criterion in after.criteria) if gone else after.criteria
    return _Cursor(after.step, state, kinetic, (*after.failures, *aged), left, after.replica_steps, births)


def _renewed(state: State, replicas: Sequence[int], births: Tensor, renewal: Renewal) -> State:
    """The state with some replicas at their start again, with new velocities; their forces are stale."""
    words = [[renewal.seed, replica, int(births[replica, 1])] for replica in replicas]
    seeds = [np.random.SeedSequence(word).generate_state(1, np.uint64)[0] for word in words]
    draws = [torch.Generator().manual_seed(int(seed >> np.uint64(1))) for seed in seeds]
    device = state.replica.device
    chosen = torch.tensor(replicas, device=device)
    fresh = select(renewal.start, torch.isin(renewal.start.replica, chosen))
    alone = bool((sizes(renewal.start) == 1).any())  # as of the whole batch, whose degrees of freedom stay
    fresh = maxwell_boltzmann(fresh, renewal.temperature, draws, translation=alone)
    atoms = torch.isin(state.replica, chosen).index_select(0, state.structure)
    positions, velocities = state.positions.clone(), state.velocities.clone()
    positions[atoms], velocities[atoms] = fresh.positions, fresh.velocities
    cell = state.cell.clone()
    cell[torch.isin(state.replica, chosen)] = fresh.cell
    return state._replace(positions=positions, velocities=velocities, cell=cell)


def _note(cursor: _Cursor) -> str:
    left = cursor.state.n_replicas
    return f"{left} of {left + len(cursor.failures)} replicas alive"


def _begin(observers: Sequence[Observer], state: State, n_steps: int, timestep: float) -> None:
    for observer in observers:
        observer.begin(state, n_steps, timestep)


def _identity(predictor: Predictor, state: State, integrator: Integrator, n_steps: int, renewal: Renewal | None) -> str:
    """A fingerprint of the potential's weights, the start, the integrator's numbers, and how replicas begin anew."""
    numbers = {name: value for name, value in vars(integrator).items() if isinstance(value, int | float | Ramp)}
    words = f"{type(integrator).__name__} {sorted(numbers.items())} {n_steps}"
    digest = hashlib.sha256(f"{words} {None if renewal is None else renewal[1:]}".encode())
    tensors = [state.atomic_numbers, state.positions, state.velocities, state.cell, state.pbc]
    tensors += [value for value in (state.charge, state.spin, state.fixed) if value is not None]
    if isinstance(predictor, torch.nn.Module):
        tensors += list(predictor.state_dict().values())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(
    path: Path,
    identity: str,
    cursor: _Cursor,
    integrator: Integrator,
    observers: Sequence[Observer],
    forces: Forces,
    seconds: float,
) -> None:
    content: dict[str, Any] = {"identity": identity, "version": 3, "step": cursor.step, "seconds": seconds}
    content |= {"force_seconds": forces.seconds, "replica_steps": cursor.replica_steps}
    content |= {"rebuilds": forces.neighbours.rebuilds, "births": cursor.births.numpy()}
    tensors = {f"state.{name}": value for name, value in cursor.state._asdict().items() if value is not None}
    tensors |= {f"integrator.{name}": value for name, value in integrator.checkpoint().items()}
    for number, observer in enumerate(observers):
        tensors |= {f"observer.{number}.{name}": value for name, value in observer.checkpoint().items()}
    content |= {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    atoms = np.full((len(cursor.failures), _ATOMS_SHOWN), -1)
    for row, failure in enumerate(cursor.failures):
        shown = failure.atoms[:_ATOMS_SHOWN]
        atoms[row, : len(shown)] = shown
    content["failures.atoms"] = atoms
    content["failures.number"] = np.array([(f.replica, f.step) for f in cursor.failures]).reshape(-1, 2)
    content["failures.value"] = np.array([(f.time, f.value, f.limit) for f in cursor.failures]).reshape(-1, 3)
    content["failures.name"] = np.array([(f.criterion, f.unit, f.message) for f in cursor.failures], dtype=str).reshape(
        -1, 3
    )
    write_arrays(path, content)


def _load(path: Path, identity: str) -> dict[str, NDArray]:
    saved = read_arrays(path)
    if str(saved.get("identity")) != identity or int(saved.get("version", np.array(0))) != 3:
        raise InputError(
            f"{path} was left by another run (other potential, start, time step or length); "
            "remove it to start afresh, or choose another folder"
        )
    return saved


def _restore(
    saved: dict[str, NDArray],
    start: State,
    integrator: Integrator,
    observers: Sequence[Observer],
    forces: Forces,
    criteria: tuple[Criterion, ...],
    n_steps: int,
) -> tuple[_Cursor, float]:
    def group(prefix: str) -> dict[str, Tensor]:
        chosen = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        return {name: torch.from_numpy(np.array(value)) for name, value in chosen.items()}

    device = start.positions.device
    state = State(**{name: tensor.to(device) for name, tensor in group("state.").items()})
    integrator.restore(group("integrator."))
    _begin(observers, start, n_steps, integrator.timestep)
    for number, observer in enumerate(observers):
        observer.restore(group(f"observer.{number}."))
    forces.seconds = float(saved["force_seconds"])
    forces.neighbours.rebuilds = int(saved["rebuilds"])
    numbers, values, names = (saved[f"failures.{part}"] for part in ("number", "value", "name"))
    failures = tuple(
        Failure(
            replica=int(numbers[row, 0]),
            criterion=str(names[row, 0]),
            atoms=tuple(atom for atom in saved["failures.atoms"][row].tolist() if atom >= 0),
            step=int(numbers[row, 1]),
            time=float(values[row, 0]),
            value=float(values[row, 1]),
            limit=float(values[row, 2]),
            unit=str(names[row, 1]),
            message=str(names[row, 2]),
        )
        for row in range(len(numbers))
    )
    left = tuple(c.among(state) for c in criteria) if failures else criteria
    births = torch.from_numpy(np.array(saved["births"]))
    kinetic = kinetic_energy(state)
    cursor = _Cursor(int(saved["step"]), state, kinetic, failures, left, int(saved["replica_steps"]), births)
    return cursor, float(saved["seconds"])
