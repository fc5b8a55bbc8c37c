"""Molecular dynamics on request: from a potential, a start and a few settings to trajectories in a folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
import torch
from ase.data import atomic_numbers
from pydantic import Field, field_validator, model_validator

from fireassay.allocator import tune_allocator
from fireassay.assays.predictions import dataset_for, predict
from fireassay.data.fingerprint import fingerprint
from fireassay.data.readers import read
from fireassay.data.structure import Structure
from fireassay.errors import InputError, nearest
from fireassay.interop.ase import CalculatorPredictor
from fireassay.interop.calculators import calculator_of
from fireassay.interop.worker import WorkerPredictor
from fireassay.overrides import with_overrides
from fireassay.pipeline import folder as folders
from fireassay.pipeline.lock import owned
from fireassay.pipeline.machine import chosen_device, chosen_threads
from fireassay.potential import Predictor
from fireassay.potential_file import load_potential
from fireassay.progress import Progress, Silent, unheard
from fireassay.records.files import read_arrays, write_arrays
from fireassay.records.provenance import environment
from fireassay.records.simulation import FILE, SimulationRecord
from fireassay.records.stability import FailedTrajectory
from fireassay.records.weights import fingerprint_of_file, fingerprint_of_text
from fireassay.settings import Settings, validated
from fireassay.simulation.criteria import (
    FAILED,
    ClosestApproach,
    Criterion,
    EnergyJump,
    Failure,
    TemperatureRange,
    bond_criterion,
)
from fireassay.simulation.ensemble import COMPRESSIBILITY, Barostat, Pressing, Thermostat, integrator
from fireassay.simulation.integrators import Integrator, Ramp, Target
from fireassay.simulation.relax import Method, relax
from fireassay.simulation.run import Renewal, simulate
from fireassay.simulation.state import State, from_structures, generators, maxwell_boltzmann, to_structures
from fireassay.simulation.trajectory import Thermodynamics, TrajectoryWriter
from fireassay.units import GIGAPASCAL

CHECKPOINT: Final = ".simulation.npz"
PREPARED: Final = ".prepared.npz"
_RELAX_STEPS: Final = 2000
Value = float | tuple[float, float]


class SimulationSettings(Settings):
    """Settings of `fireassay simulate`."""

    temperature: Value = Field(default=300.0, description="K; two values: a ramp from one to the other")
    duration: float = Field(default=10_000.0, gt=0, description="fs")
    timestep: float = Field(default=1.0, gt=0, description="fs")
    thermostat: Thermostat = Field(
        default="rescaling",
        description="rescaling: canonical velocity rescaling (CSVR); nose_hoover: a chain of three; langevin: BAOAB; "
        "berendsen: weak coupling, which samples no ensemble; none: constant energy",
    )
    time_constant: float = Field(default=100.0, gt=0, description="fs, of all thermostats but Langevin's")
    friction: float = Field(default=0.01, gt=0, description="1/fs, of the Langevin thermostat")
    barostat: Barostat = Field(
        default="none", description="stochastic cell rescaling: isotropic, or flexible, all six components of the cell"
    )
    pressure: Value = Field(default=0.0, description="GPa; two values: a ramp")
    pressure_time_constant: float = Field(default=1000.0, gt=0, description="fs, of the barostat")
    compressibility: float | None = Field(
        default=None, gt=0, description="1/GPa, an estimate that sets the barostat's pace; null: measured at the start"
    )
    replicas: int = Field(default=1, ge=1, description="trajectories from each structure, with different velocities")
    fixed: tuple[int | str, ...] = Field(
        default=(), description="atoms that do not move, by index from 0 or by element, as [0, 1] or [Cu]"
    )
    relax: Literal["none", "positions", "cell"] = Field(
        default="none", description="relax the positions first, or positions and cell at the first pressure"
    )
    relax_method: Method = Field(default="lbfgs", description="lbfgs or fire")
    relax_force_limit: float = Field(default=0.01, gt=0, description="eV/Å")
    stride: int = Field(default=10, ge=1, description="steps between frames, and between rows of thermo.csv")
    format: Literal["xyz", "traj", "h5"] = Field(
        default="xyz", description="of the trajectories: extended XYZ, ASE's .traj, H5MD"
    )
    stress: bool | None = Field(default=None, description="pressures in thermo.csv; null: with a barostat only")
    bonds: bool = Field(default=False, description="end a trajectory in which a bond of the start breaks")
    closest_approach: float | None = Field(default=0.5, gt=0, description="Å, end one in which two atoms are closer")
    temperature_range: tuple[float, float] | None = Field(
        default=(0.0, 100_000.0), description="K, end one outside of it; null: never"
    )
    energy_jump: float | None = Field(
        default=1.0, gt=0, description="eV/atom, end one whose total energy changes by more within a step"
    )
    replace_failed: int = Field(
        default=0, ge=0, description="how often a trajectory that has ended begins anew, with other velocities"
    )
    skin: float = Field(default=1.0, gt=0, description="Å, how far beyond the cutoff neighbours are kept")
    max_edges: int = Field(default=20_000, ge=1, description="edges of one force call")
    checkpoint_every: float = Field(default=60.0, gt=0, description="s between saved states")
    seed: int = Field(default=0, ge=0, description="of velocities and noise")

    @field_validator("temperature")
    @classmethod
    def _warm(cls, value: Value) -> Value:
        if min(value if isinstance(value, tuple) else (value,)) <= 0:
            raise ValueError(f"temperature {value} K; needs values above 0")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.barostat != "none" and self.thermostat != "rescaling":
            raise ValueError(f"barostat needs thermostat=rescaling, got {self.thermostat}")
        if self.barostat != "none" and self.fixed:
            raise ValueError("barostat moves every atom with the cell, fixed is not empty; leave one of them out")
        return self

    @field_validator("fixed")
    @classmethod
    def _known(cls, value: tuple[int | str, ...]) -> tuple[int | str, ...]:
        for name in value:
            if isinstance(name, str) and name not in atomic_numbers:
                raise ValueError(f"{name!r} is no element; fix atoms by index or by element, as fixed=[0, Cu]")
        return value


class _Machine(Settings):
    device: str = "auto"
    dtype: Literal["float32", "float64"] | None = None
    threads: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Order:
    """What to simulate, from where, how and into which folder, as on the command line."""

    potential: str
    start: str | None
    index: str = "0"
    folder: Path = Path("simulation")
    overrides: Sequence[str] = ()
    python: str | None = None
    restart: bool = False
    tell: Callable[[str], None] = field(default=unheard)


def described_settings() -> str:
    """All settings with defaults and meaning, as YAML."""
    values = SimulationSettings().model_dump(mode="json")
    fields = SimulationSettings.model_fields.items()
    return "".join(f"{name}: {json.dumps(values[name])}  # {entry.description}\n" for name, entry in fields)


def run_simulation(order: Order, progress: Progress) -> list[Path]:
    """Runs the simulation, or what is left of it, and returns the files written. Raises InputError."""
    tune_allocator()
    settings, machine = _settings(order.overrides)
    if order.start is None:
        raise InputError("a simulation needs a start; give it with --start FILE")
    structures = read(order.start, index=order.index, labels=False)
    device = chosen_device(machine.device)
    with owned(order.folder), contextlib.ExitStack() as stack:
        predictor, source, weights = _predictor(order, machine, device)
        if isinstance(predictor, WorkerPredictor):
            stack.enter_context(predictor)
        names = _trajectories(settings, len(structures) * settings.replicas)
        record = SimulationRecord(
            status="running", source=source, origin=order.potential, weights=weights, start=fingerprint(structures),
            structures=len(structures), replicas=settings.replicas, n_atoms=sum(map(len, structures)),
            settings=settings.model_dump(mode="json"), trajectories=names, failures=[], provenance=environment(),
        )  # fmt: skip
        files = [order.folder / name for name in (FILE, "thermo.csv", *names)]
        done = _already(order, record)
        if done is not None:
            order.tell(f"{order.folder} holds this simulation, finished; discard it with --restart")
            return files
        chosen_threads(machine.threads, order.tell)
        _run(order, settings, structures, predictor, record, device, progress)
    return files


def _settings(overrides: Sequence[str]) -> tuple[SimulationSettings, _Machine]:
    content = with_overrides({}, overrides)
    known = [*SimulationSettings.model_fields, *_Machine.model_fields]
    for name in content:
        if name not in known:
            raise InputError(f"{name} is no setting of a simulation{nearest(name, known)}; --settings lists them")
    place = {name: value for name, value in content.items() if name in _Machine.model_fields}
    own = {name: value for name, value in content.items() if name not in place}
    return validated(SimulationSettings, own, "the overrides"), validated(_Machine, place, "the overrides")


def _predictor(order: Order, machine: _Machine, device: torch.device) -> tuple[Predictor, str, str]:
    """What moves the atoms, where it comes from, and its fingerprint."""
    path = Path(order.potential)
    if path.is_dir():
        path = path / folders.POTENTIAL
        if not path.exists():
            raise InputError(f"{order.potential} has no {folders.POTENTIAL}; finish its training with fireassay train")
    if path.is_file():
        if order.python is not None:
            raise InputError("--python is for a calculator; a potential file needs none")
        dtype = {None: None, "float32": torch.float32, "float64": torch.float64}[machine.dtype]
        return load_potential(path, device, dtype), "file", fingerprint_of_file(path)
    if ":" not in order.potential:
        raise InputError(
            f"{order.potential} is neither a run folder nor a potential file; a calculator is written as "
            "package.module:Class(key=value)"
        )
    text = order.potential + (f" in {order.python}" if order.python else "")
    if order.python is None:
        return (
            CalculatorPredictor(calculator_of(order.potential), nan_on_failure=True),
            "calculator",
            fingerprint_of_text(text),
        )
    return WorkerPredictor(order.python, order.potential, nan_on_failure=True), "calculator", fingerprint_of_text(text)


def _trajectories(settings: SimulationSettings, replicas: int) -> list[str]:
    if replicas == 1:
        return [f"trajectory.{settings.format}"]
    digits = max(2, len(str(replicas - 1)))
    return [f"trajectory-{number:0{digits}d}.{settings.format}" for number in range(replicas)]


def _already(order: Order, record: SimulationRecord) -> SimulationRecord | None:
    """The folder's record when it is of this simulation and finished. Raises InputError when it is of another one."""
    folder = order.folder
    if order.restart and (folder / FILE).exists():
        _discard(folder, SimulationRecord.load(folder).trajectories)
    if not (folder / FILE).exists():
        if (folder / "run.json").exists():
            raise InputError(f"{folder} is a run folder; choose another folder with --output")
        foreign = [name for name in ("thermo.csv", *record.trajectories) if (folder / name).exists()]
        if foreign:
            raise InputError(
                f"{folder / foreign[0]} exists and belongs to no simulation; move it away, or choose another folder "
                "with --output"
            )
        return None
    before = SimulationRecord.load(folder)
    mine = {name: getattr(record, name) for name in ("weights", "start", "settings")}
    changed = [name for name, value in mine.items() if getattr(before, name) != value]
    if changed:
        was, now = before.settings, record.settings
        words = [f"{k} was {was.get(k)}, is {v}" for k, v in now.items() if was.get(k) != v] or [f"other {changed[0]}"]
        raise InputError(
            f"{folder} holds another simulation ({'; '.join(words[:3])}); choose another folder with --output, or "
            "discard it with --restart"
        )
    return before if before.status == "finished" else None


def _discard(folder: Path, trajectories: Sequence[str]) -> None:
    """Removes what a simulation has left in its folder, and nothing else."""
    for name in (FILE, CHECKPOINT, PREPARED, "thermo.csv", *trajectories):
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def _run(
    order: Order,
    settings: SimulationSettings,
    structures: Sequence[Structure],
    predictor: Predictor,
    record: SimulationRecord,
    device: torch.device,
    progress: Progress,
) -> None:
    folder = order.folder
    n_steps = max(1, round(settings.duration / settings.timestep))
    rested, compressibility = _prepared(order, settings, structures, predictor, device, progress)
    starts = [s for s in rested for _ in range(settings.replicas)]
    record = replace(record, compressibility=None if compressibility is None else compressibility * GIGAPASCAL)
    state = _state(starts, settings, device)
    if not (folder / CHECKPOINT).exists():
        record.save(folder)
    try:
        done = simulate(
            predictor,
            state,
            _integrator(settings, len(starts), n_steps, compressibility),
            n_steps,
            observers=(
                TrajectoryWriter([folder / name for name in record.trajectories], settings.stride),
                Thermodynamics(folder / "thermo.csv", settings.stride),
            ),
            criteria=_criteria(starts, state, settings),
            skin=settings.skin,
            reach=settings.closest_approach or 0.0,
            max_edges=settings.max_edges,
            stress=bool(settings.stress),
            renewal=_renewal(settings, state),
            progress=progress,
            checkpoint=folder / CHECKPOINT,
            every=settings.checkpoint_every,
        )
    except InputError:
        if not (folder / CHECKPOINT).exists():
            _discard(folder, record.trajectories)  # nothing was simulated
        raise
    for failure in done.failures:
        order.tell(_sentence(failure, starts[failure.replica]))
    if len(done.failures) == len(starts) and all(f.criterion == FAILED and f.step == 0 for f in done.failures):
        _discard(folder, record.trajectories)
        raise InputError(f"{starts[0].where}: no calculation succeeds at the start: {done.failures[0].message}")
    replace(
        record,
        status="finished",
        steps=done.n_steps,
        failures=[FailedTrajectory(**{**f._asdict(), "atoms": list(f.atoms)}) for f in done.failures],
        seconds=done.seconds,
        force_seconds=done.force_seconds,
        replica_steps_per_second=done.replica_steps / done.seconds if done.seconds > 0 else None,
        provenance=environment(
            device=str(device), dtype=str(predictor.dtype).removeprefix("torch."), threads=torch.get_num_threads(),
            seconds=done.seconds,
        ),
    ).save(folder)  # fmt: skip
    (folder / PREPARED).unlink(missing_ok=True)


def _prepared(
    order: Order,
    settings: SimulationSettings,
    structures: Sequence[Structure],
    predictor: Predictor,
    device: torch.device,
    progress: Progress,
) -> tuple[list[Structure], float | None]:
    """The structures, relaxed if asked for, and the barostat's compressibility in Å^3/eV, None without a barostat.

    What was computed is kept beside the checkpoint: on another machine, or with other threads, it would come out
    different in the last digits, and an interrupted run could not go on from it.
    """
    given = None if settings.compressibility is None else settings.compressibility / GIGAPASCAL
    measures = settings.barostat != "none" and given is None
    if settings.relax == "none" and not measures:
        return list(structures), given if settings.barostat != "none" else None
    path = order.folder / PREPARED
    if not (path.exists() and (order.folder / CHECKPOINT).exists()):
        rested = structures
        if settings.relax != "none":
            rested = _relaxed(order, settings, structures, predictor, device, progress)
        value = _measured_compressibility(rested[0], predictor, device) if measures else given or np.nan
        arrays = {
            "positions": np.concatenate([s.positions for s in rested]),
            "cell": np.stack([s.cell for s in rested]),
        }
        write_arrays(path, {**arrays, "compressibility": np.array(value)})
    kept = read_arrays(path)
    places = np.split(kept["positions"], np.cumsum([len(s) for s in structures])[:-1])
    rested = [
        replace(s, positions=x, cell=cell, energy=None, forces=None, stress=None)
        for s, x, cell in zip(structures, places, kept["cell"], strict=True)
    ]
    return rested, float(kept["compressibility"]) if settings.barostat != "none" else None


def _integrator(settings: SimulationSettings, replicas: int, n_steps: int, compressibility: float | None) -> Integrator:
    return integrator(
        settings.thermostat,
        settings.timestep,
        _target(settings.temperature, n_steps),
        replicas=replicas,
        seed=settings.seed + 1,
        time_constant=settings.time_constant,
        friction=settings.friction,
        pressing=Pressing(
            settings.barostat,
            _target(settings.pressure, n_steps, GIGAPASCAL),
            settings.pressure_time_constant,
            compressibility or COMPRESSIBILITY,
        ),
    )


def _renewal(settings: SimulationSettings, state: State) -> Renewal | None:
    if settings.replace_failed == 0:
        return None
    first = settings.temperature[0] if isinstance(settings.temperature, tuple) else settings.temperature
    return Renewal(state, first, settings.seed + 7, settings.replace_failed)


def _target(value: Value, n_steps: int, unit: float = 1.0) -> Target:
    if isinstance(value, tuple):
        return Ramp(value[0] * unit, value[1] * unit, n_steps)
    return value * unit


def _at_rest(starts: Sequence[Structure], settings: SimulationSettings, device: torch.device) -> State:
    fixed = [_fixed(s, settings.fixed) for s in starts] if settings.fixed else None
    return from_structures(starts, device=device, fixed=fixed)


def _relaxed(
    order: Order,
    settings: SimulationSettings,
    structures: Sequence[Structure],
    predictor: Predictor,
    device: torch.device,
    progress: Progress,
) -> list[Structure]:
    first = settings.pressure[0] if isinstance(settings.pressure, tuple) else settings.pressure
    done = relax(
        predictor, _at_rest(structures, settings, device), force_limit=settings.relax_force_limit,
        max_steps=_RELAX_STEPS, method=settings.relax_method, cell=settings.relax == "cell",
        pressure=first * GIGAPASCAL, progress=progress,
    )  # fmt: skip
    if done.failures:
        raise InputError(f"the relaxation of the start failed: {next(iter(done.failures.values()))}; set relax=none")
    for structure, converged, force in zip(
        structures, done.converged.tolist(), done.largest_force.tolist(), strict=True
    ):
        if not converged:
            order.tell(
                f"{structure.where}: the relaxation is not done after {_RELAX_STEPS} steps (largest force {force:.3g} "
                "eV/Å); the simulation starts from there"
            )
    return to_structures(done.state)


def _state(starts: Sequence[Structure], settings: SimulationSettings, device: torch.device) -> State:
    state = _at_rest(starts, settings, device)
    first = settings.temperature[0] if isinstance(settings.temperature, tuple) else settings.temperature
    alone = any(len(s) == 1 for s in starts)
    return maxwell_boltzmann(state, first, generators(settings.seed, len(starts)), translation=alone)


def _fixed(structure: Structure, names: Sequence[int | str]) -> np.ndarray:
    n = len(structure)
    fixed = np.zeros(n, dtype=bool)
    for name in names:
        if isinstance(name, str):
            found = structure.atomic_numbers == atomic_numbers[name]
            if not found.any():
                raise InputError(f"fixed: {structure.where} has no {name}; fix atoms of an element that it has")
            fixed |= found
        elif not -n <= name < n:
            raise InputError(f"fixed: {structure.where} has {n} atoms, none with the index {name}; count from 0")
        else:
            fixed[name] = True
    return fixed


def _criteria(starts: Sequence[Structure], state: State, settings: SimulationSettings) -> list[Criterion]:
    criteria: list[Criterion] = []
    if settings.bonds:
        bonds = bond_criterion(starts, state)
        if bonds is None:
            raise InputError(f"{starts[0].where}: bonds are to be followed but there are none; set bonds=false")
        criteria.append(bonds)
    if settings.closest_approach is not None:
        criteria.append(ClosestApproach(settings.closest_approach))
    if settings.temperature_range is not None:
        criteria.append(TemperatureRange(*settings.temperature_range))
    if settings.energy_jump is not None:
        criteria.append(EnergyJump(settings.energy_jump))
    return criteria


_STRAIN: Final = 0.005
_MODULI: Final = (0.1, 2000.0)  # GPa, in which a measured bulk modulus is believed


def _measured_compressibility(start: Structure, predictor: Predictor, device: torch.device) -> float:
    """An estimate in Å^3/eV for the barostat, from the stress of the start pressed and pulled."""
    if not start.pbc.all():
        return COMPRESSIBILITY  # the barostat refuses such a cell
    bare = replace(start, energy=None, forces=None, stress=None)
    strained = [
        replace(bare, cell=bare.cell * (1 + e), positions=bare.positions * (1 + e)) for e in (-_STRAIN, _STRAIN)
    ]
    found = predict(
        predictor, dataset_for(predictor, strained), forces=True, stress=True, device=device, progress=Silent()
    )
    if found.stress is None or not np.isfinite(found.stress).all():
        name = type(predictor).__name__
        raise InputError(f"{name} gives no stress for {start.where}, which a barostat needs; set barostat=none")
    tension = np.trace(found.stress, axis1=1, axis2=2) / 3
    modulus = float(tension[1] - tension[0]) / (6 * _STRAIN)  # V dσ/dV, and dV/V = 3 ε
    low, high = (limit * GIGAPASCAL for limit in _MODULI)
    return 1 / modulus if low < modulus < high else COMPRESSIBILITY


def _sentence(failure: Failure, start: Structure) -> str:
    where = f"replica {failure.replica} ended at {failure.time:g} fs"
    if failure.criterion == FAILED:
        return f"{where}: the calculation failed: {failure.message}"
    atoms = ", ".join(map(str, failure.atoms[:4]))
    value = f" {failure.value:.4g} {failure.unit} beyond {failure.limit:.4g}" if np.isfinite(failure.value) else ""
    return f"{where}: {failure.criterion.replace('_', ' ')}{value}{f' (atoms {atoms})' if atoms else ''}"
