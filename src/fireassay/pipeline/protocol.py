"""Published protocols, one command each: every potential at every task, resumable, and one report."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase.data import atomic_masses

from fireassay.assays import ASSAYS
from fireassay.config import Config, overridden, resolved
from fireassay.data.molecules import formula
from fireassay.data.readers import Source, read
from fireassay.data.structure import Structure
from fireassay.data.writing import extxyz_text
from fireassay.errors import InputError, nearest
from fireassay.overrides import dump_yaml, names_of, with_overrides
from fireassay.pipeline import folder as folders
from fireassay.pipeline.assay import Request, run_assays
from fireassay.progress import Progress, unheard
from fireassay.records.files import read_text, write_text
from fireassay.records.protocol import ProtocolRecord, Trial
from fireassay.records.provenance import environment
from fireassay.records.run import RunRecord
from fireassay.records.weights import fingerprint_of_file
from fireassay.report.page import write_report
from fireassay.report.protocol import chapter, judgement
from fireassay.settings import validated

AMU_PER_CUBIC_ANGSTROM: Final = 1.66053906660  # g/cm^3


@dataclass(frozen=True)
class ProtocolOrder:
    """Which protocol, of which run folders, into which folder.

    `overrides` are temperature=K and timestep=fs, which hold for every task, densities=[...] for hydrogen, settings of
    assays such as structure.replicas=3, and data.KEY=..., such as test splits that a run was not trained with. `oracle`
    is a calculator that is taken for the truth.
    """

    name: str
    runs: Sequence[Path]
    folder: Path
    overrides: Sequence[str] = ()
    oracle: str | None = None
    oracle_python: str | None = None
    tell: Callable[[str], None] = field(default=unheard)


@dataclass(frozen=True)
class _Task:
    """What one potential is put to: where it starts, what it is compared with, how, and by which assays."""

    name: str
    start: Structure
    data: Mapping[str, Any]  # of the configuration's data section
    assays: Mapping[str, Mapping[str, Any]]
    temperature: float | None = None
    timestep: float | None = None
    density: float | None = None


@dataclass(frozen=True)
class Protocol:
    """A published protocol: where it comes from, and the tasks that it makes of a run's data."""

    description: str
    tasks: Callable[[Config, _Wishes], list[_Task]]


@dataclass(frozen=True)
class _Wishes:
    """What the user wants for every task."""

    temperature: float | None
    timestep: float | None
    densities: tuple[float, ...]
    tell: Callable[[str], None]


def run_protocol(order: ProtocolOrder, progress: Progress) -> Path:
    """Runs what is left of a protocol and writes its report; returns the report's path. Raises InputError."""
    if order.name not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise InputError(f"no protocol {order.name!r}{nearest(order.name, PROTOCOLS)}; known are {known}")
    if not order.runs:
        raise InputError("a protocol needs run folders; train potentials or assay calculators first")
    names = [run.name for run in order.runs]
    if len(set(names)) < len(names):
        raise InputError(f"run folders {names} have equal names; rename one")
    protocol, wishes = PROTOCOLS[order.name], _wishes(order)
    _check_overrides(order)
    trials: list[Trial] = []
    notes: list[str] = []
    for run in order.runs:
        config = folders.stored_config(run)
        if config is None:
            raise InputError(f"{run} has no {folders.CONFIG}; name a run folder that a training or an assay wrote")
        placed = [o for o in order.overrides if _name(o).startswith("data.")]
        config = validated(Config, overridden(resolved(config), placed), "the overrides")
        for task in protocol.tasks(config, wishes):
            folder = order.folder / "runs" / f"{run.name}-{_slug(task.name)}"
            order.tell(f"{run.name}: {task.name}")
            _run(order, run, config, task, folder, notes, progress)
            trials.append(
                Trial(
                    potential=run.name, task=task.name, folder=str(folder.relative_to(order.folder)),
                    formula=formula(task.start.atomic_numbers), temperature=task.temperature, timestep=task.timestep,
                    density=task.density,
                )
            )  # fmt: skip
    record = ProtocolRecord(
        protocol=order.name, trials=trials, notes=list(dict.fromkeys(notes)), epoch_seconds=_epochs(order.runs),
        provenance=environment(),
    )  # fmt: skip
    record.save(order.folder)
    done = [t for t in trials if list((order.folder / t.folder / "assays").glob("*.json"))]
    if not done:
        raise InputError(f"no task of {order.name} could be run: {'; '.join(record.notes)}")
    return write_report(
        [order.folder / t.folder for t in done],
        order.folder / "report.html",
        title=f"{order.name}: {', '.join(names)}",
        progress=progress,
        extra=lambda study: chapter(record, done, study),
        judgement=lambda study: judgement(record, done, study),
    )


def _wishes(order: ProtocolOrder) -> _Wishes:
    own = [o for o in order.overrides if _name(o) in ("temperature", "timestep", "densities")]
    content = with_overrides({}, own)

    def number(name: str) -> float | None:
        value = content.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            raise InputError(f"{name} is {value!r}; needs a number above 0")
        return value

    densities = content.get("densities", ())
    if not isinstance(densities, list | tuple) or not all(isinstance(d, int | float) and d > 0 for d in densities):
        raise InputError(f"densities is {densities!r}; needs a list of g/cm^3, as densities=[0.6, 0.8, 1.0]")
    return _Wishes(number("temperature"), number("timestep"), tuple(map(float, densities)), order.tell)


def _run(
    order: ProtocolOrder, run: Path, config: Config, task: _Task, folder: Path, notes: list[str], progress: Progress
) -> None:
    """The assays of one task that the folder does not hold yet."""
    _forget_another(run, folder)
    start = folder / "start.xyz"
    asked = [o for o in order.overrides if _name(o).split(".")[0] in task.assays]
    settings = with_overrides({"assays": {name: dict(values) for name, values in task.assays.items()}},
                              [f"assays.{o}" for o in asked])  # fmt: skip
    kept = ("keys", "units", "elements", "accept")
    data = {name: value for name, value in config.model_dump(mode="json")["data"].items() if name in kept and value}
    content = {
        "name": folder.name,
        "seed": config.seed,
        "data": {"train": "", **data, "start": str(start), **task.data},
        "model": config.model_dump(mode="json")["model"],
        **settings,
    }
    source = folder / "task.yaml"
    files = {
        source: dump_yaml(content),
        start: extxyz_text(replace(task.start, energy=None, forces=None, stress=None)),
    }
    if any(path.exists() and read_text(path) != text for path, text in files.items()):
        for name in task.assays:  # of another start or other settings
            (folder / "assays" / f"{name}.json").unlink(missing_ok=True)
    for path, text in files.items():
        write_text(path, text)
    record = RunRecord.load(run) if (run / "run.json").exists() else None
    calculator, _, python = (
        record.origin.partition(" in ") if record and record.source == "calculator" else ("", "", "")
    )
    todo = [name for name in task.assays if not _has(folder, name)]
    for name in todo:
        request = Request(
            folder,
            assays=[name],
            potential=None if calculator else run / folders.POTENTIAL,
            calculator=calculator or None,
            python=python or None,
            config=str(source),
            oracle=order.oracle,
            oracle_python=order.oracle_python,
            tell=order.tell,
        )
        try:
            run_assays(request, progress)
        except InputError as error:
            notes.append(f"{folder.name}: {name} could not be run: {error}")
            order.tell(notes[-1])


def _forget_another(run: Path, folder: Path) -> None:
    """Discards what a task's folder holds of other weights than the run's potential has now."""
    potential = run / folders.POTENTIAL
    both = (folder / "run.json").exists() and potential.exists()
    if both and RunRecord.load(folder).weights != fingerprint_of_file(potential):
        folders.discard(folder)


def _has(folder: Path, assay: str) -> bool:
    return (folder / "run.json").exists() and folders.current(folder, assay)


def _epochs(runs: Sequence[Path]) -> dict[str, float]:
    """Seconds per epoch of the potentials that were trained here."""
    found = {}
    for run in runs:
        record = RunRecord.load(run) if (run / "run.json").exists() else None
        if record is not None and record.training is not None and record.training.epochs:
            found[run.name] = record.training.seconds / record.training.epochs
    return found


def _check_overrides(order: ProtocolOrder) -> None:
    """Raises InputError for an override that means nothing here."""
    known = ["temperature", "timestep", "densities", "data", *ASSAYS]
    for override in order.overrides:
        head = _name(override).split(".")[0]
        if head not in known:
            raise InputError(
                f"{override!r} sets nothing in a protocol{nearest(head, known)}; known are {', '.join(known)}"
            )


def _name(override: str) -> str:
    return next(iter(names_of([override])))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "task"


# EGraFFBench, Table 10: K and fs by composition; the other lithium thiophosphates are LiPS20.
_PUBLISHED: Final[Mapping[str, Mapping[float, float]]] = {
    "C5H8O2": {300.0: 1.0, 600.0: 0.5},
    "C12H12N2O": {300.0: 1.0, 600.0: 1.0},
    "Li27P12S44": {520.0: 1.0},
    "Ge40Te160": {920.0: 0.12},
}
_MD17, _LIPS20 = (500.0, 0.5), (3000.0, 1.0)


def conditions(name: str, frames: Sequence[Structure], wishes: _Wishes) -> tuple[float, float]:
    """Temperature (K) and time step (fs) of a task: as asked for, as the frames or the name say, or as published.

    Raises InputError when none of them tells the temperature.
    """
    first = frames[0]
    composition = formula(first.atomic_numbers)
    table = _PUBLISHED.get(composition, {})
    named = re.search(r"(\d+(?:\.\d+)?) ?K\b", name)
    sampled = first.provenance.temperature
    kelvin = wishes.temperature or sampled or (float(named[1]) if named else None)
    step = wishes.timestep
    if kelvin is None and len(table) == 1:
        kelvin = next(iter(table))
    symbols = set(re.findall(r"[A-Z][a-z]?", composition))
    if kelvin is None and not table and symbols <= {"Li", "P", "S"}:
        kelvin, step = _LIPS20[0], step or _LIPS20[1]
    if kelvin is None and not first.pbc.any() and symbols <= {"C", "H", "O", "N"} and not table:
        kelvin, step = _MD17[0], step or _MD17[1]
    if kelvin is None:
        raise InputError(f"the temperature of {name} ({composition}) is unknown; give temperature=K, or call it 300K")
    if step is None:
        step = table.get(kelvin) or (min(table.values()) if table else 0.5 if 1 in first.atomic_numbers else 1.0)
    return float(kelvin), float(step)


def _read(config: Config, source: Source, index: str | None = None) -> Sequence[Structure]:
    return read(source, config.data.keys, config.data.units, index=index, elements=config.data.elements, labels=False)


def _splits(config: Config, wishes: _Wishes) -> list[tuple[str, Source, list[Structure]]]:
    """The test splits of a run, with their frames; those whose file is not here are told of."""
    if not config.data.test:
        raise InputError("the run has no test splits; give data.test=... when it is trained or assayed")
    found = []
    for name, source in config.data.test.items():
        try:
            frames = list(_read(config, source))
        except InputError as error:
            wishes.tell(f"{name} is left out: {error}")
            continue
        found.append((name, source, frames))
    if not found:
        raise InputError("none of the run's test splits can be read; see the lines above")
    return found


def _start_of(config: Config, frames: Sequence[Structure], only: bool) -> Structure:
    """The first frame of a split; the run's own start where it is of the same atoms and there is one split only."""
    if only and config.data.start:
        own = _read(config, config.data.start, "0")[0]
        if np.array_equal(own.atomic_numbers, frames[0].atomic_numbers):
            return own
    return frames[0]


def _egraffbench(config: Config, wishes: _Wishes) -> list[_Task]:
    tasks = []
    for name, source, frames in _splits(config, wishes):
        kelvin, step = conditions(name, frames, wishes)
        motion = {
            "replicas": 5, "temperature": kelvin, "timestep": step, "equilibration": 0.0, "duration": 1000 * step,
        }  # fmt: skip
        assays = {
            "accuracy": {},
            "structure": {**motion, "stride": 5},
            "dynamics": {**motion, "stride": 5, "production": "rescaling", "relabelled": 100, "paired": 200 * step},
        }
        data = {"test": {name: source}, "reference": source}
        tasks.append(_Task(name, frames[0], data, assays, kelvin, step))
    return tasks


def _nequip_transport(config: Config, wishes: _Wishes) -> list[_Task]:
    tasks = []
    splits = _splits(config, wishes)
    for name, source, frames in splits:
        start = _start_of(config, frames, len(splits) == 1)
        if not start.pbc.all():
            wishes.tell(f"{name} is left out: diffusion needs a periodic system")
            continue
        kelvin = wishes.temperature or conditions(name, frames, wishes)[0]
        step = wishes.timestep or 0.25
        assays = {
            "structure": {
                "replicas": 1, "temperature": kelvin, "timestep": step, "thermostat": "nose_hoover",
                "equilibration": 10_000.0, "duration": 50_000.0, "stride": 40,
            },
            "dynamics": {
                "replicas": 1, "temperature": kelvin, "timestep": step, "thermostat": "nose_hoover",
                "production": "nose_hoover", "equilibration": 10_000.0, "duration": 50_000.0, "stride": 20,
                "fit": [5000.0, 20_000.0], "paired": 0.0,
            },
        }  # fmt: skip
        reference = config.data.reference or source
        tasks.append(_Task(name, start, {"reference": reference}, assays, kelvin, step))
    return tasks


def _md17_stability(config: Config, wishes: _Wishes) -> list[_Task]:
    tasks = []
    splits = _splits(config, wishes)
    for name, source, frames in splits:
        start = _start_of(config, frames, len(splits) == 1)
        kelvin, step = conditions(name, frames, wishes)
        settings: dict[str, Any] = {
            "replicas": 5, "temperature": kelvin, "timestep": step, "duration": 300_000.0, "thermostat": "nose_hoover",
            "time_constant": 100.0,
        }  # fmt: skip
        if start.pbc.any():
            water = set(start.atomic_numbers.tolist()) == {1, 8}
            settings |= {"rdf_limit": 3.0 if water else 1.0, "rdf_of": "pairs" if water else "all"}
            settings |= {"bonds": "auto", "duration": 500_000.0 if water else 50_000.0}
        else:
            settings |= {"bonds": "on", "bond_limit": None, "bond_stretch": 0.5}
        data = {"test": {name: source}, "reference": config.data.reference or source}
        tasks.append(_Task(name, start, data, {"accuracy": {}, "stability": settings}, kelvin, step))
    return tasks


def _radius_of_gyration(config: Config, wishes: _Wishes) -> list[_Task]:
    tasks = []
    splits = _splits(config, wishes)
    for name, source, frames in splits:
        start = _start_of(config, frames, len(splits) == 1)
        if start.pbc.any():
            wishes.tell(f"{name} is left out: the radius of gyration is of molecules")
            continue
        kelvin, step = wishes.temperature or 300.0, wishes.timestep or 0.5
        settings = {
            "replicas": 30, "temperature": kelvin, "timestep": step, "thermostat": "langevin", "friction": 0.001,
            "equilibration": 10_000.0, "duration": 100_000.0, "stride": 100, "hydrogens": False,
        }  # fmt: skip
        tasks.append(_Task(name, start, {"reference": source}, {"structure": settings}, kelvin, step))
    return tasks


def _warm_dense_hydrogen(config: Config, wishes: _Wishes) -> list[_Task]:
    source = config.data.start or next(iter(config.data.test.values()), config.data.train)
    start = _read(config, source, "0")[0]
    if not start.pbc.all() or set(start.atomic_numbers.tolist()) != {1}:
        raise InputError(
            f"{start.where} is {formula(start.atomic_numbers)}, pbc {start.pbc.tolist()}; the protocol is for hydrogen "
            "in a periodic cell: name one with data.start"
        )
    mass = float(atomic_masses[start.atomic_numbers].sum()) * AMU_PER_CUBIC_ANGSTROM
    own = mass / abs(float(np.linalg.det(start.cell)))
    kelvin, step = wishes.temperature or 1000.0, wishes.timestep or 0.2
    tasks = []
    for density in wishes.densities or tuple(round(own * f, 4) for f in (0.8, 0.9, 1.0, 1.1, 1.2)):
        factor = (own / density) ** (1 / 3)
        scaled = replace(start, positions=start.positions * factor, cell=start.cell * factor)
        motion = {
            "replicas": 3, "temperature": kelvin, "timestep": step, "equilibration": 1000.0, "duration": 2000.0,
        }  # fmt: skip
        assays = {
            "structure": {**motion, "stride": 20, "internal": False, "angle_cutoff": 1.2},
            "dynamics": {**motion, "stride": 5, "paired": 0.0},
        }
        tasks.append(_Task(f"{density:g} g-cm3", scaled, {}, assays, kelvin, step, density))
    return tasks


PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "egraffbench": Protocol(
        "EGraFFBench, Tables 1 to 7: five simulations of 1 000 steps from each test split of a run, hotter, unseen "
        "crystals, compositions and molecules included; errors, WF, JSD, energy and force violation, times",
        _egraffbench,
    ),
    "nequip-transport": Protocol(
        "NequIP, Figs. 3 and 4: diffusivity, radial and angular distribution of LiPS at 520 K, 50 ps with 0.25 fs",
        _nequip_transport,
    ),
    "md17-stability": Protocol(
        "MDsim: how long simulations last, by bonds 0.5 Å beyond their start for molecules, by the radial distribution "
        "of windows of 1 ps for periodic systems",
        _md17_stability,
    ),
    "radius-of-gyration": Protocol(
        "TEA Challenge 2023, section 1.6: radius of gyration without hydrogens, Langevin at 300 K, 0.5 fs",
        _radius_of_gyration,
    ),
    "warm-dense-hydrogen": Protocol(
        "TEA Challenge 2023, section 2: pressure, diffusion, radial distribution and stable molecules of hydrogen "
        "against density",
        _warm_dense_hydrogen,
    ),
}
