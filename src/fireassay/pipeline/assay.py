"""Assays in a run folder: of the potential that was trained there, of a file's, or of anybody's calculator."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from fireassay.allocator import tune_allocator
from fireassay.assays import ASSAYS
from fireassay.assays.assay import Assay, Need, Subject, missing
from fireassay.config import Config, load_config, overridden, resolved
from fireassay.errors import InputError, nearest
from fireassay.interop.ase import CalculatorPredictor
from fireassay.interop.calculators import calculator_of
from fireassay.interop.worker import WorkerPredictor
from fireassay.overrides import names_of
from fireassay.pipeline import folder as folders
from fireassay.pipeline.lock import owned
from fireassay.pipeline.machine import device_of, dtype_of, use_threads
from fireassay.pipeline.material import Material, read_material
from fireassay.potential import Predictor
from fireassay.potential_file import load_potential, save_potential
from fireassay.progress import Progress, unheard
from fireassay.records.assay import AssayRecord
from fireassay.records.error_trajectory import ErrorTrajectory
from fireassay.records.provenance import environment
from fireassay.records.run import RunRecord
from fireassay.records.weights import fingerprint_of_file, fingerprint_of_text
from fireassay.settings import Settings, validated

MACHINE = ("device", "dtype", "threads")


@dataclass(frozen=True)
class Request:
    """What to assay, and how.

    `assays` are names of `ASSAYS`, by default those that the configuration lists; `own` are assays of the user, as
    package.module:NAME. `overrides` are `ASSAY.key=value`, `data.key=value`, and device, dtype and threads. A folder
    that is new is made for a `potential` file or an ASE `calculator`, in another interpreter where `python` names one;
    data and settings then come from `config`. `oracle` is a calculator that is taken for the truth, in another
    interpreter where `oracle_python` names one. With `restart` what the folder holds of such a potential is discarded
    first. `tell` hears of what was left out, and why.
    """

    folder: Path
    assays: Sequence[str] = ()
    overrides: Sequence[str] = ()
    potential: Path | None = None
    calculator: str | None = None
    python: str | None = None
    config: str | None = None
    own: Sequence[str] = ()
    oracle: str | None = None
    oracle_python: str | None = None
    restart: bool = False
    tell: Callable[[str], None] = field(default=unheard)


_FIRST: Final = (
    "train first, or give --config with data; a calculator or a potential needs data.start=FILE at least, for assays "
    "without labels"
)
_UNUSED: Final = "nequip"  # a configuration names a model; that of a calculator's is not used


def run_assays(request: Request, progress: Progress) -> list[Path]:
    """Runs assays in a run folder and returns the JSON files written. Raises InputError when nothing can be done."""
    tune_allocator()
    own = {assay.name: assay for assay in map(own_assay, request.own)}
    unknown = [name for name in request.assays if name not in ASSAYS]
    if unknown:
        known = ", ".join(ASSAYS)
        raise InputError(f"unknown assay {unknown[0]!r}{nearest(unknown[0], ASSAYS)}; known are {known}")
    if not request.folder.is_dir() and request.config is None and not _bare(request):
        raise InputError(f"{request.folder} is not a run folder; {_FIRST}")
    if request.python is not None and request.calculator is None:
        raise InputError("--python is for a calculator; name it with --calculator")
    if request.oracle_python is not None and request.oracle is None:
        raise InputError("--oracle-python is for an oracle; name it with --oracle")
    with owned(request.folder), contextlib.ExitStack() as stack:
        if request.restart:
            _restart(request)
        config, settings = _settings(request, own)
        device = device_of(config)
        predictor = _predictor(request, config, device)
        if isinstance(predictor, WorkerPredictor):
            stack.enter_context(predictor)
        material = read_material(config.data, config.seed)
        oracle = None if request.oracle is None else _calculator(request.oracle, request.oracle_python)
        if isinstance(oracle, WorkerPredictor):
            stack.enter_context(oracle)
        subject = _subject(request, config, predictor, oracle, material, device, progress)
        use_threads(config, request.tell)
        chosen = {name: ASSAYS[name] for name in request.assays or (() if own else config.assays)} | own
        return _run(request, subject, chosen, settings, material, config)


def own_assay(text: str) -> Assay:
    """An assay of the user's, from package.module:NAME as given on the command line; importing it runs its code."""
    module, colon, name = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name) if colon else None
    except Exception as error:
        raise InputError(f"--assay {text}: {type(error).__name__}: {error}; write it as my_module:MY_ASSAY") from error
    finally:
        sys.path.pop(0)
    if not isinstance(found, Assay):
        raise InputError(f"--assay {text} is no fireassay.assays.assay.Assay; write it as my_module:MY_ASSAY")
    if found.name in ASSAYS or not found.name.isidentifier():
        raise InputError(f"--assay {text} is called {found.name!r}; give it a name of letters that no assay has yet")
    return found


def _restart(request: Request) -> None:
    record = request.folder / "run.json"
    if record.exists() and RunRecord.load(request.folder).source == "training":
        raise InputError(f"{request.folder} holds a training; discard it with fireassay train --restart")
    folders.discard(request.folder)


def _settings(request: Request, own: Mapping[str, Assay]) -> tuple[Config, dict[str, Settings]]:
    """The configuration with the overrides, and the settings of every assay."""
    base = folders.stored_config(request.folder)
    if request.config is not None:
        given = load_config(request.config)
        if base is None:
            folders.store_config(request.folder, given)
        base = given
    if base is None and _bare(request):
        placed = [o for o in request.overrides if o.startswith("data.")]
        base = validated(
            Config, overridden({"data": {"train": ""}, "model": {"type": _UNUSED}}, placed), "the overrides"
        )
        folders.store_config(request.folder, base)
    if base is None:
        raise InputError(f"{request.folder} has no config.yaml; {_FIRST}")
    content = resolved(base)
    content["assays"] |= {name: {} for name in own}
    content = overridden(content, [_placed(o, own) for o in request.overrides])
    mine = {name: content["assays"].pop(name) for name in own}
    config = validated(Config, content, "the overrides")
    settings = {name: validated(assay.settings, mine[name], name) for name, assay in own.items()}
    return config, {**config.assays, **settings}


def _bare(request: Request) -> bool:
    """Whether a calculator or a potential comes with its data on the command line alone."""
    given = {".".join(name.split(".")[:2]) for name in names_of(request.overrides)}
    return (request.calculator or request.potential) is not None and bool(given & {"data.start", "data.test"})


def _placed(override: str, own: Mapping[str, Assay]) -> str:
    section = override.partition("=")[0].partition(".")[0]
    if section == "data" or section in MACHINE:
        return override
    if section not in ASSAYS and section not in own:
        known = [*ASSAYS, *own, "data", *MACHINE]
        raise InputError(f"{override!r} sets nothing here{nearest(section, known)}; an assay takes {', '.join(known)}")
    return f"assays.{override}"


def _predictor(request: Request, config: Config, device: torch.device) -> Predictor:
    """What the folder is about. A folder belongs to one potential or calculator, InputError for another."""
    folder = request.folder
    record = RunRecord.load(folder) if (folder / "run.json").exists() else None
    if request.calculator is not None:
        origin = request.calculator + (f" in {request.python}" if request.python else "")
        _same(folder, record, "calculator", origin, fingerprint_of_text(origin))
        found = _calculator(request.calculator, request.python)
        _introduce(folder, "calculator", origin, fingerprint_of_text(origin))
        return found
    if request.potential is not None:
        weights = fingerprint_of_file(request.potential)
        _same(folder, record, "file", str(request.potential), weights)
        if not (folder / folders.POTENTIAL).exists():
            loaded = load_potential(request.potential)
            source = {"name": folder.name, "source": str(request.potential)}
            save_potential(loaded, folder / folders.POTENTIAL, source)
            _introduce(folder, "file", str(request.potential), weights)
    if not (folder / folders.POTENTIAL).exists():
        raise InputError(f"{folder} has no {folders.POTENTIAL}; finish its training with fireassay train")
    wanted = dtype_of(config) if "dtype" in names_of(request.overrides) else None
    return load_potential(folder / folders.POTENTIAL, device, wanted)


def _calculator(text: str, python: str | None) -> Predictor:
    if python is None:
        return CalculatorPredictor(calculator_of(text), nan_on_failure=True)
    return WorkerPredictor(python, text, nan_on_failure=True)


def _introduce(folder: Path, source: Any, origin: str, weights: str) -> None:
    record = RunRecord(
        name=folder.name,
        source=source,
        status="finished",
        weights=weights,
        origin=origin,
        provenance=environment(),
    )
    record.save(folder)


def _same(folder: Path, record: RunRecord | None, source: str, origin: str, weights: str) -> None:
    if record is None or (record.source == source and record.weights == weights):
        return
    what = f"{record.source} {record.origin}".strip()
    changed = record.source == source and record.origin == origin
    reason = f"{origin} is another potential now than when its records were made" if changed else f"made for {what}"
    raise InputError(f"{folder}: {reason}; choose another folder, or discard those records with --restart")


def _subject(
    request: Request,
    config: Config,
    predictor: Predictor,
    oracle: Predictor | None,
    material: Material,
    device: torch.device,
    progress: Progress,
) -> Subject:
    errors = request.folder / "errors.npz"
    record = RunRecord.load(request.folder) if (request.folder / "run.json").exists() else None
    return Subject(
        predictor=predictor,
        name=record.name if record is not None else config.name,
        train=material.train,
        validation=material.validation,
        test=material.test,
        start=material.start,
        errors=ErrorTrajectory.load(errors) if errors.exists() else None,
        reference=material.reference,
        oracle=oracle,
        folder=request.folder / "assays",
        device=device,
        progress=progress,
        tell=request.tell,
    )


def _run(
    request: Request,
    subject: Subject,
    chosen: Mapping[str, Assay],
    settings: Mapping[str, Settings],
    material: Material,
    config: Config,
) -> list[Path]:
    weights, frames = folders.weights_of(request.folder), material.fingerprints()
    written = []
    for name, assay in chosen.items():
        reason = missing(assay, subject)
        if reason is not None:
            if name in request.assays or name not in ASSAYS:
                raise InputError(reason)
            request.tell(f"{name} is left out: {reason}")
            continue
        own = settings[name] if name in settings else assay.settings()
        began = time.perf_counter()
        result = assay.run(subject, own)
        record = AssayRecord(
            assay=name,
            potential=subject.name,
            weights=weights,
            frames=_used(assay, frames, material),
            settings=own.model_dump(mode="json"),
            provenance=environment(
                device=str(subject.device),
                dtype=str(subject.predictor.dtype).removeprefix("torch."),
                threads=torch.get_num_threads(),
                seconds=time.perf_counter() - began,
            ),
            result=result,
        )
        written.append(record.save(request.folder / "assays"))
    return written


_SPLITS: Mapping[Need, tuple[str, ...]] = {
    Need.TRAINING_FRAMES: ("train",),
    Need.TRAINING_FORCES: ("train",),
    Need.ERROR_TRAJECTORIES: ("train", "validation"),
    Need.START: ("start",),
}


def _used(assay: Assay, frames: Mapping[str, str], material: Material) -> dict[str, str]:
    """The fingerprints of the frames that an assay of such needs looks at."""
    names = {name for need in assay.needs for name in _SPLITS.get(need, ())}
    if {Need.LABELLED_TEST_FRAMES, Need.TEST_FORCES} & set(assay.needs):
        names |= set(material.test)
    return {name: value for name, value in frames.items() if name in names}
