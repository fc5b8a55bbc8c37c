"""From a configuration to a run folder with records: what the command line's verbs do."""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from fireassay.allocator import tune_allocator
from fireassay.assays import ASSAYS
from fireassay.config import (
    Config,
    build_network,
    load_config,
    load_potential,
    resolved_yaml,
    save_potential,
    symbol_map,
    validated,
    with_overrides,
)
from fireassay.data.baseline import average_neighbours, fit_e0, given_e0, isolated_atoms, read_e0, statistics
from fireassay.data.datasets import Dataset
from fireassay.data.readers import read
from fireassay.data.split import split_blocks, split_group, split_random, split_temperature
from fireassay.data.structure import Structure
from fireassay.errors import InputError, Interrupted
from fireassay.interop.ase import CalculatorPredictor
from fireassay.potential import Baseline, LocalPotential, Predictor
from fireassay.progress import Progress
from fireassay.records import AssayResult, ErrorTrajectory, environment, read_json, write_json, write_text
from fireassay.training.fit import FitResult, fit
from fireassay.training.recipe import Recipe
from fireassay.uncertainty.ltau import LEAST_HELD_OUT


@dataclass(frozen=True)
class Material:
    """The frames that a configuration names, read, checked and split."""

    train: list[Structure]
    validation: list[Structure]
    test: dict[str, list[Structure]]
    start: Structure
    isolated: dict[int, float]  # E0 in eV by atomic number, as far as the files tell
    fingerprint: str


def run_training(config: Config, folder: Path, progress: Progress, restart: bool = False) -> Path | None:
    """Trains what `config` describes in `folder`; returns the potential's path, None on the workers of torchrun.

    The same configuration in the same folder continues an interrupted training exactly, and leaves a finished one
    alone. Raises InputError when the folder holds a run of another configuration.
    """
    tune_allocator()
    path = folder / "potential.safetensors"
    device = _device(config)
    if _claim(config, folder, restart) and path.exists():
        return path
    leader = int(os.environ.get("RANK", "0")) == 0
    material = read_material(config)
    train, validation, potential, notes = build(config, material, progress)
    record = {
        "name": config.name,
        "status": "running",
        "seed": config.seed,
        "dtype": config.dtype,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in potential.parameters() if p.requires_grad),
        "data": {
            "fingerprint": material.fingerprint,
            "train": config.data.train,
            "frames": len(train),
            "validation_frames": len(validation) if validation is not None else 0,
            "test": {name: len(frames) for name, frames in material.test.items()},
        },
        **notes,
        "provenance": environment(),
    }
    if leader:
        write_text(folder / "config.yaml", resolved_yaml(config))
        write_json(folder / "run.json", record)
    try:
        result = fit(potential, train, validation, config.training, folder, device=device, progress=progress)
    except (Interrupted, InputError) as stop:
        if leader:
            status = "interrupted" if isinstance(stop, Interrupted) else "failed"
            write_json(folder / "run.json", {**record, "status": status})
        raise
    if not leader:
        return None
    save_potential(potential, path, {"name": config.name, "run": config.data.train})
    write_json(folder / "run.json", {**record, "status": "finished", "result": _summary(result)})
    return path


def _summary(result: FitResult) -> dict[str, Any]:
    """What the record says of a finished training: everything but the weights."""
    fields = ("source", "finished", "epochs", "best_epoch", "best", "last", "seconds")
    return {name: getattr(result, name) for name in fields}


def build(
    config: Config, material: Material, progress: Progress
) -> tuple[Dataset, Dataset | None, Baseline, dict[str, Any]]:
    """Training set, validation set, untrained potential on its baseline, and what the record says of them."""
    species = sorted({int(z) for s in [*material.train, *material.validation] for z in s.atomic_numbers})
    cutoff = _cutoff(config)
    train = Dataset(material.train, cutoff, progress)
    validation = Dataset(material.validation, cutoff, progress) if material.validation else None
    neighbours = average_neighbours(train)
    network = build_network(config.model, {"species": species, "average_neighbours": neighbours, "seed": config.seed})
    e0, e0_note = _e0(config, material, species)
    scale, shift = _scale_and_shift(config, material, e0)
    trained = config.baseline
    potential = Baseline(network, e0, scale, shift, trained.trainable_scale, trained.trainable_shift)
    notes = {
        "e0": {**e0_note, "e0": {chemical_symbols[z]: energy for z, energy in e0.items()}, "unit": "eV"},
        "average_neighbours": neighbours,
        "scale": potential.arguments["scale"],
        "shift": potential.arguments["shift"],
    }
    return train, validation, potential.to(_dtype(config)), notes


def read_material(config: Config) -> Material:
    """Reads and splits the files of a configuration. Raises InputError when one cannot be used."""
    data = config.data

    def frames(source: str) -> list[Structure]:
        return read(source, keys=data.keys, units=data.units)

    everything = frames(data.train)
    rng = np.random.default_rng(config.seed)
    if data.validation.file is not None:
        train, validation = everything, frames(data.validation.file)
    else:
        chosen, held_out = _split(everything, config, rng)
        train, validation = [everything[k] for k in chosen], [everything[k] for k in held_out]
    if data.limit is not None and data.limit < len(train):
        train = [train[k] for k in sorted(rng.permutation(len(train))[: data.limit])]
    if not train:
        raise InputError(
            f"{data.train}: the split leaves no training frames of {len(everything)}; lower data.validation"
        )
    test = {name: frames(source) for name, source in data.test.items()}
    first = next(iter(test.values()), train)[0]
    start = frames(data.start)[0] if data.start else first
    if data.isolated_atoms is not None:
        isolated = read_e0(data.isolated_atoms, keys=data.keys, units=data.units)
    else:
        isolated = isolated_atoms(everything)
    return Material(train, validation, test, start, isolated, _fingerprint([*train, *validation]))


def _split(everything: Sequence[Structure], config: Config, rng: np.random.Generator) -> tuple[Any, Any]:
    """Indices of training and validation frames, ascending."""
    settings, n = config.data.validation, len(everything)
    held_out = settings.count if settings.count is not None else round(settings.fraction * n)
    if held_out == 0:
        return np.arange(n), np.arange(0)
    if settings.method == "blocks":
        train, validation = split_blocks(everything, held_out, gap=settings.gap)
    else:
        split = {"random": split_random, "group": split_group, "temperature": split_temperature}[settings.method]
        train, validation = split(everything, held_out, rng)
    return np.sort(train), np.sort(validation)


def _fingerprint(structures: Sequence[Structure]) -> str:
    digest = hashlib.sha256()
    for s in structures:
        for array in (s.atomic_numbers, s.positions, s.cell, s.pbc, s.energy, s.forces, s.stress):
            digest.update(np.ascontiguousarray(0.0 if array is None else array).tobytes())
    return digest.hexdigest()[:16]


def _e0(config: Config, material: Material, species: list[int]) -> tuple[dict[int, float], dict[str, Any]]:
    """Isolated-atom energies in eV by atomic number, and where they come from."""
    choice = config.baseline.e0
    if isinstance(choice, dict):
        return given_e0(symbol_map(choice, "baseline.e0"), species), {"source": "given"}
    if choice == "zero":
        return dict.fromkeys(species, 0.0), {"source": "zero"}
    if choice == "isolated":
        return given_e0(material.isolated, species), {"source": config.data.isolated_atoms or config.data.train}
    fitted = fit_e0(material.train)
    return fitted.e0, {"source": "fit", **asdict(fitted), "sentence": str(fitted)}


def _scale_and_shift(config: Config, material: Material, e0: dict[int, float]) -> tuple[Any, Any]:
    scale, shift = config.baseline.scale, config.baseline.shift
    summary = statistics(material.train, e0)
    if scale == "force_rms":
        scale = summary.force_rms or 1.0
    elif scale == "none":
        scale = 1.0
    elif isinstance(scale, dict):
        scale = symbol_map(scale, "baseline.scale")
    if shift == "mean":
        shift = summary.energy_per_atom_mean or 0.0
    elif shift == "none":
        shift = 0.0
    return scale, shift


def _cutoff(config: Config) -> float:
    return float(build_network(config.model, {"species": [1], "average_neighbours": 1.0, "seed": 0}).cutoff)


def _dtype(config: Config) -> torch.dtype:
    return torch.float64 if config.dtype == "float64" else torch.float32


def _device(config: Config) -> torch.device:
    if config.device == "auto":
        return (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {config.device!r} cannot be used here: {str(error).splitlines()[0]}; try auto"
        ) from error
    return device


def _claim(config: Config, folder: Path, restart: bool) -> bool:
    """Whether the folder holds a run of this very configuration; InputError when it holds one of another.

    How long a training lasts may change: then it goes on.
    """
    stored = folder / "config.yaml"
    if restart:
        for name in ("config.yaml", "potential.safetensors", "errors.npz", "metrics.jsonl", "metrics.csv", "run.json"):
            (folder / name).unlink(missing_ok=True)
        for path in (folder / "checkpoint").glob("*"):
            path.unlink()
    if not stored.exists():
        return False
    before = load_config(stored)
    if _training_part(before) != _training_part(config):
        raise InputError(
            f"{folder} holds a run of another configuration; choose another folder with --output, "
            "or discard that run with --restart"
        )
    return before.training == config.training


def _training_part(config: Config) -> str:
    """What decides a training's course, as text: all but the assays, the description and when to stop and to save."""
    duration = {name: getattr(Recipe(), name) for name in ("epochs", "stopping", "checkpoints")}
    training = config.training.model_copy(update=duration)
    return resolved_yaml(config.model_copy(update={"assays": {}, "description": "", "training": training}))


def run_assays(
    folder: Path,
    names: Sequence[str],
    overrides: Sequence[str],
    progress: Progress,
    potential: Path | None = None,
    calculator: str | None = None,
    config: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Runs assays in a run folder and returns the JSON files written.

    A new folder is made for a potential file or an ASE calculator; data and settings then come from `config`. Names
    are those of `ASSAYS`, by default all that the configuration lists and the potential allows; overrides are
    `ASSAY.key=value` and `data.key=value`. `tell` hears of every assay that was left out, and why.
    """
    tune_allocator()
    settings = _assay_config(folder, overrides, config)
    unknown = [name for name in names if name not in ASSAYS]
    if unknown:
        raise InputError(f"unknown assay {unknown[0]!r}; known are {', '.join(ASSAYS)}")
    device = _device(settings)
    predictor = _predictor(folder, potential, calculator, device)
    material = read_material(settings)
    written = []
    for name in names or list(settings.assays):
        reason = _unfit(name, predictor, folder, material)
        if reason is not None:
            if names:
                raise InputError(f"{name}: {reason}")
            tell(f"{name} is left out: it {reason}")
            continue
        result = _run_assay(name, settings, predictor, material, folder, device, progress)
        provenance = {
            **environment(),
            "device": str(device),
            "dtype": settings.dtype,
            "threads": torch.get_num_threads(),
            "data": material.fingerprint,
        }
        written.append(replace(result, provenance={**provenance, **result.provenance}).save(folder / "assays"))
    return written


def _assay_config(folder: Path, overrides: Sequence[str], config: str | None) -> Config:
    stored = folder / "config.yaml"
    if config is None and not stored.exists():
        raise InputError(
            f"{folder} is not a run folder (it has no config.yaml); train first, or give --config with data"
        )
    base = load_config(config if config is not None else stored)
    if config is not None and not stored.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(stored, resolved_yaml(base))
    content = base.model_dump(mode="json")
    prefixed = [o if o.startswith("data.") else f"assays.{o}" for o in overrides]
    return validated(Config, with_overrides(content, prefixed), "the overrides")


def _predictor(folder: Path, potential: Path | None, calculator: str | None, device: torch.device) -> Predictor:
    """What the folder is about. A folder belongs to one potential or calculator, InputError for another."""
    own, record = folder / "potential.safetensors", folder / "run.json"
    given = {"calculator": calculator} if calculator is not None else {"potential": str(potential)}
    if calculator is not None or potential is not None:
        before = read_json(record) if record.exists() else given
        if {key: before.get(key) for key in given} != given:
            raise InputError(f"{folder} holds the records of another potential; choose another folder")
    if calculator is not None:
        found = CalculatorPredictor(_calculator(calculator))
        write_json(record, {"name": folder.name, **given, "provenance": environment()})
        return found
    if potential is not None and not own.exists():
        loaded = load_potential(potential)
        save_potential(loaded, own, {"name": folder.name, "source": str(potential)})
        write_json(record, {"name": folder.name, **given, "provenance": environment()})
    if not own.exists():
        raise InputError(f"{folder} has no potential.safetensors; finish its training with fireassay train")
    return load_potential(own, device)


def _calculator(text: str) -> Any:
    """An ASE calculator from package.module:Class(key=literal, ...), as given on the command line."""
    try:
        call = ast.parse(text.partition(":")[2] or "", mode="eval").body
        call = call if isinstance(call, ast.Call) else ast.Call(call, [], [])
        if not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("needs keyword arguments only")
        arguments = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        factory = getattr(importlib.import_module(text.partition(":")[0]), call.func.id)
    except (SyntaxError, ValueError, ImportError, AttributeError) as error:
        raise InputError(
            f"calculator {text!r}: {error}; write it as ase.calculators.emt:EMT(asap_cutoff=True)"
        ) from error
    return factory(**arguments)


def _unfit(name: str, predictor: Predictor, folder: Path, material: Material) -> str | None:
    """Why an assay cannot be run here, None when it can."""
    if name in ("landscape", "uncertainty") and not isinstance(predictor, LocalPotential):
        return "needs a potential with weights and descriptors, not a calculator"
    if name == "uncertainty" and not (folder / "errors.npz").exists():
        return f"needs the error trajectories of a training; {folder}/errors.npz is not there"
    if name in ("accuracy", "uncertainty") and not material.test:
        return "needs test splits; give data.test, such as data.test={300K: test.xyz}"
    if name == "uncertainty":
        for what, splits in (("training frames", [material.train]), ("a test split", material.test.values())):
            if not any(s.forces is not None for frames in splits for s in frames):
                return f"needs {what} with forces, whose errors it predicts"
    return None


def _run_assay(
    name: str,
    config: Config,
    predictor: Predictor,
    material: Material,
    folder: Path,
    device: torch.device,
    progress: Progress,
) -> AssayResult:
    assay = ASSAYS[name]
    settings = validated(assay.settings, config.assays.get(name, {}), f"assays.{name}")
    common: dict[str, Any] = {"name": _name(folder, config), "progress": progress}
    where: dict[str, Any] = {"device": device}
    run: Callable[..., AssayResult] = assay.run
    if name == "accuracy":
        return run(predictor, material.test, settings, **common, **where)
    if name == "stability":
        return run(predictor, material.start, settings, **common, **where, folder=folder / "assays")
    if name == "landscape":
        return run(predictor, material.train, settings, **common, **where, folder=folder / "assays")
    errors = ErrorTrajectory.load(folder / "errors.npz")
    held_out = [s for s in material.validation if s.forces is not None]
    if sum(map(len, held_out)) >= LEAST_HELD_OUT:
        common["calibration_frames"] = held_out
    return run(predictor, material.train, errors, material.test, settings, **common, **where)


def _name(folder: Path, config: Config) -> str:
    record = folder / "run.json"
    return str(read_json(record).get("name", config.name)) if record.exists() else config.name


DEMO = ("demo-nequip", "demo-mace")


def run_demo(output: Path, minutes: float, progress: Progress) -> Path:
    """Trains the two demo presets, assays both, and writes `output/report.html`; returns its path.

    Each training stops after half of `minutes`, or when its epochs are over. What is finished is not repeated.
    """
    from fireassay.report.page import write_report

    folders = []
    for preset in DEMO:
        config = load_config(preset, [f"training.stopping.max_seconds={30.0 * minutes}"])
        folder = output / "runs" / config.name
        folders.append(folder)
        run_training(config, folder, progress)
        missing = [name for name in config.assays if not (folder / "assays" / f"{name}.json").exists()]
        if missing:
            run_assays(folder, missing, [], progress)
    title = "3BPA on the GFN2-xTB surface: NequIP and MACE through the fire"
    return write_report(folders, output / "report.html", title=title, progress=progress)
