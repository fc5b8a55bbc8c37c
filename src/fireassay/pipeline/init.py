"""From data files to a commented configuration that fits them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from fireassay.allocator import tune_allocator
from fireassay.assays import ASSAYS
from fireassay.config import Config, load_config, preset_names, resolved
from fireassay.data.baseline import fit_e0, isolated_atoms
from fireassay.data.checks import STOPS
from fireassay.data.datasets import Dataset
from fireassay.data.formats.loading import load
from fireassay.data.frame import SYMBOLS
from fireassay.data.inspect import quality
from fireassay.data.keys import Keys, is_gradient, lookalikes, resolve
from fireassay.data.readers import read_checked
from fireassay.data.structure import Structure
from fireassay.data.unit_check import force_sign, foreign_unit
from fireassay.errors import InputError, nearest
from fireassay.model_settings import MODEL_SETTINGS
from fireassay.overrides import dump_yaml
from fireassay.pipeline.material import read_material
from fireassay.pipeline.train import build
from fireassay.progress import Silent
from fireassay.settings import validated

RECIPES: Final = {"mace": "3bpa-half-hour"}  # presets whose model and training are taken; else compare-MODEL
EDGES: Final = 2500  # of a step: enough to keep two cores busy
STEPS: Final = 40_000  # of a training, in all
NEIGHBOURS: Final = (25.0, 70.0)  # mean number of neighbours of an atom within the cutoff
CUTOFFS: Final = (5.0, 6.0, 4.5, 4.0)  # Å, tried in this order


@dataclass(frozen=True)
class Files:
    """What a user names: files, and how to read them."""

    train: str
    test: Mapping[str, str] = field(default_factory=dict)
    validation: str | None = None
    isolated_atoms: str | None = None
    start: str | None = None
    keys: Keys | None = None
    units: Mapping[str, str] | None = None
    elements: Sequence[str] | None = None
    accept: Sequence[str] = ()


def write_config(
    files: Files, model: str = "mace", recipe: str | None = None, timed: bool = True
) -> tuple[str, list[str]]:
    """A configuration as commented YAML, and lines for the user: what was noticed, and how long it will take.

    `recipe` is a preset whose model and training are taken instead of the model's own. Raises InputError when the files
    cannot be read as they are, with what to add to the command.
    """
    name = _recipe(model, recipe)
    keys, key_notes = _keys(files)
    units, unit_notes = _units(files, keys)
    frames, findings = read_checked(files.train, keys, units, elements=files.elements, accept=files.accept)
    choices = _Choices(frames, files)
    base = load_config(name)
    content = {
        "name": _name(files.train, base.model.type),
        "data": _data(files, keys, units, choices),
        "model": _model(base, choices),
        "baseline": {**resolved(base)["baseline"], "e0": choices.e0},
        "training": _training(base, frames, choices),
        "assays": resolved(base)["assays"] if recipe else {name: {} for name in ASSAYS if ASSAYS[name].by_default},
    }
    config = validated(Config, content, "the configuration")
    seconds = _seconds_per_epoch(config) if timed else None
    found = [finding.line for finding in (*findings, *quality(frames))]
    notes = [*key_notes, *unit_notes, *choices.notes, *found]
    return _text(content, choices, name, seconds, notes), [*notes, *_time(seconds, content)]


def _recipe(model: str, recipe: str | None) -> str:
    if recipe is not None:
        if recipe not in preset_names():
            raise InputError(
                f"no preset {recipe!r}{nearest(recipe, preset_names())}; fireassay presets list shows them"
            )
        return recipe
    if model not in MODEL_SETTINGS:
        known = ", ".join(MODEL_SETTINGS)
        raise InputError(f"no model {model!r}{nearest(model, MODEL_SETTINGS)}; known are {known}")
    return RECIPES.get(model, f"compare-{model.replace('_', '-')}")


def _name(train: str, model: str) -> str:
    stem = Path(train).name.split(".")[0]
    safe = "".join(c if c.isalnum() or c in "._+-" else "-" for c in stem).strip("-._") or "data"
    return f"{safe}-{model}"


def _keys(files: Files) -> tuple[dict[str, str | Sequence[str] | None] | None, list[str]]:
    """The label keys to read, found by name and shape where they are not the standard ones."""
    given: dict[str, str | Sequence[str] | None] = dict(files.keys or {})
    notes = []
    for content in load(files.train, files.elements):
        mapped = resolve(content, given or None)
        for label, names in lookalikes(content.frames, mapped).items():
            if label in given or mapped[label] or (label == "virial" and mapped["stress"]):
                continue
            if label in ("energy", "forces") and len(names) > 1:
                options = " or ".join(f"--key {label}={name}" for name in names)
                raise InputError(f"{files.train}: {label} could be any of {', '.join(names)}; say which: {options}")
            given[label] = names[0]
            notes.append(f"{label} is read from {names[0]}")
    return given or None, notes


def _units(files: Files, keys: Keys | None) -> tuple[dict[str, str] | None, list[str]]:
    """The units that the user gives, or those that the data look like."""
    if files.units:
        return dict(files.units), []
    frames = read_checked(files.train, keys, elements=files.elements, accept=list(STOPS)).structures
    evidence = foreign_unit(frames)
    if evidence is not None:
        return dict(evidence.mapping), [f"units: {evidence.sentence}; check them"]
    forces = (keys or {}).get("forces")
    if isinstance(forces, str) and is_gradient(forces) and force_sign(frames) != 1:
        return {"forces": "-eV/Å"}, [f"{forces} is named like a gradient: its sign is turned; check it"]
    return None, []


class _Choices:
    """What the frames themselves decide, with a reason for each."""

    def __init__(self, frames: Sequence[Structure], files: Files) -> None:
        self.notes: list[str] = []
        self.frames = [s for s in frames if len(s) > 1] or list(frames)
        self.stress = any(s.stress is not None and s.solid for s in frames)
        self.forces = any(s.forces is not None for s in frames)
        self.energies = any(s.energy is not None for s in frames)
        if files.validation is not None:
            self.validation, self.split = {"file": files.validation}, "a file of its own"
        else:
            self.validation, self.split = suggested_split(frames)
        self.cutoff, self.cutoff_reason = _cutoff(self.frames)
        self.e0, self.e0_reason = self._isolated(frames, files)

    def _isolated(self, frames: Sequence[Structure], files: Files) -> tuple[Any, str]:
        species = {int(z) for s in frames for z in s.atomic_numbers}
        known = isolated_atoms(frames)
        if files.isolated_atoms is not None:
            return "isolated", f"from {files.isolated_atoms}"
        if known and species <= set(known):
            return "isolated", "the file has an isolated atom of every element"
        if known:
            missing = ", ".join(SYMBOLS[z] for z in sorted(species - set(known)))
            self.notes.append(
                f"{len(known)} elements have an isolated atom among the frames, {missing} has none: a fitted E0 misses "
                "these by electronvolts; give --isolated-atoms, or leave them out"
            )
        if not self.energies:
            return "zero", "there are no energies"
        fitted = fit_e0([s for s in frames if len(s) > 1] or frames)
        return "fit", f"least squares, rank {fitted.rank} of {fitted.n_species} elements"


def suggested_split(frames: Sequence[Structure]) -> tuple[dict[str, Any], str]:
    """How validation frames are held out, and why."""
    count = int(np.clip(round(0.1 * len(frames)), 1, 500)) if len(frames) > 1 else 0
    groups = {s.provenance.group for s in frames}
    if len(groups) >= 5 and None not in groups and len(groups) <= len(frames) / 2:
        return {"method": "group", "count": count}, f"whole groups, of which there are {len(groups)}"
    length = correlated_frames(frames)
    if length is not None and len(frames) >= 10 * count // 9 + 2:
        gap = int(min(length, max(0, len(frames) - count) // 4))
        return {"method": "blocks", "count": count, "gap": gap}, f"frames follow one another: about {length} are alike"
    return {"method": "random", "count": count}, "frames do not follow one another"


def correlated_frames(frames: Sequence[Structure], most: int = 400) -> int | None:
    """How far apart frames have to be to differ as much as distant ones; None when neighbours differ as much already.

    By the root mean square distance of atoms between frames of one composition, after taking off the centre, in units
    of that between frames drawn at random.
    """
    first = frames[0].atomic_numbers
    same = [s for s in frames if np.array_equal(s.atomic_numbers, first)]
    if len(same) < 20 or len(same) < 0.9 * len(frames):
        return None
    positions = np.stack([s.positions - s.positions.mean(0) for s in same[:most]])

    def distance(lag: int) -> float:
        return float(np.sqrt(np.square(positions[lag:] - positions[:-lag]).sum(2).mean()))

    order = np.random.default_rng(0).permutation(len(positions))
    far = float(np.sqrt(np.square(positions - positions[order]).sum(2).mean()))
    if not far > 0 or distance(1) > 0.5 * far:
        return None
    lags = range(1, len(positions) // 2)
    return next((lag for lag in lags if distance(lag) > 0.8 * far), len(positions) // 2)


def _cutoff(frames: Sequence[Structure]) -> tuple[float, str]:
    """A cutoff with enough neighbours and not too many; a small molecule never has many, a dense crystal never few."""
    sample = [frames[k] for k in np.linspace(0, len(frames) - 1, min(len(frames), 20)).astype(int)]
    sets = {cutoff: Dataset(sample, cutoff) for cutoff in CUTOFFS}
    counts = {cutoff: dataset.n_edges / dataset.n_atoms for cutoff, dataset in sets.items()}
    fitting = [cutoff for cutoff, n in counts.items() if NEIGHBOURS[0] <= n <= NEIGHBOURS[1]]
    crowded = min(counts.values()) > NEIGHBOURS[1]
    cutoff = fitting[0] if fitting else min(CUTOFFS) if crowded else CUTOFFS[0]
    return cutoff, f"an atom has {counts[cutoff]:.0f} neighbours on average"


def _data(
    files: Files, keys: Mapping[str, Any] | None, units: Mapping[str, str] | None, choices: _Choices
) -> dict[str, Any]:
    data: dict[str, Any] = {"train": files.train, "validation": choices.validation, "test": dict(files.test)}
    optional = {"start": files.start, "isolated_atoms": files.isolated_atoms, "keys": keys, "units": units,
                "elements": files.elements, "accept": list(files.accept)}  # fmt: skip
    return data | {name: value for name, value in optional.items() if value}


def _model(base: Config, choices: _Choices) -> dict[str, Any]:
    model = resolved(base)["model"]
    short = model.get("short_cutoff")
    return {**model, "cutoff": max(choices.cutoff, short) if short else choices.cutoff}


def _training(base: Config, frames: Sequence[Structure], choices: _Choices) -> dict[str, Any]:
    training = resolved(base)["training"]
    dataset = Dataset([frames[k] for k in np.linspace(0, len(frames) - 1, min(len(frames), 50)).astype(int)],
                      choices.cutoff)  # fmt: skip
    per_frame = max(dataset.n_edges / len(dataset), 1.0)
    size = int(np.clip(round(EDGES / per_frame), 1, 16))
    loss = training["loss"]
    if not choices.forces:
        loss["forces"]["weight"] = 0.0
    if not choices.energies:
        loss["energy"]["weight"] = 0.0
    if choices.stress:
        loss["stress"]["weight"] = _stress_weight(frames, loss["forces"]["weight"])
    steps = max(1, -(-len(frames) // size))
    epochs = int(np.clip(round(STEPS / steps, -1), 20, 2000))
    stopping = {**training["stopping"], "max_seconds": None, "shorten": False}
    return {**training, "batch_size": size, "epochs": epochs, "stopping": stopping, "loss": loss}


def _stress_weight(frames: Sequence[Structure], forces_weight: float) -> float:
    """So that a stress error of the stresses' own size counts a tenth of such an error of the forces; one digit."""
    stress = [s.stress for s in frames if s.stress is not None and s.solid]
    forces = [s.forces[s.forced] for s in frames if s.forces is not None]
    size = float(np.sqrt(np.mean(np.square(stress))))
    if not forces or not size > 0:
        return 1.0
    weight = 0.1 * (forces_weight or 1.0) * float(np.mean(np.square(np.concatenate(forces)))) / size**2
    return float(f"{weight:.0e}")


def _seconds_per_epoch(config: Config, steps: int = 3) -> float:
    """Measured: the median of a few training steps, once kernels are compiled, times the steps of an epoch."""
    tune_allocator()
    size = config.training.batch_size
    data = config.data.model_copy(update={"limit": min(4 * size, 64)})
    material = read_material(config.data, config.seed)
    few = read_material(data, config.seed)
    built = build(config, few, Silent())
    times = []
    for number in range(steps + 1):
        batch = built.train.select(np.arange(size) % len(built.train), built.potential.dtype)
        began = time.perf_counter()
        found = built.potential.predict(batch.graph, stress=bool(batch.labels.has_stress.any()), differentiable=True)
        assert found.forces is not None
        (found.energy.sum() + found.forces.square().sum()).backward()
        if number:
            times.append(time.perf_counter() - began)
    return statistics.median(times) * -(-len(material.train) // size)


def _time(seconds: float | None, content: Mapping[str, Any]) -> list[str]:
    if seconds is None:
        return []
    epochs, threads = content["training"]["epochs"], torch.get_num_threads()
    whole = f"{epochs} epochs {_duration(seconds * epochs)}"
    return [f"an epoch takes about {_duration(seconds)} on {threads} threads here, {whole}"]


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


def _text(
    content: Mapping[str, Any], choices: _Choices, recipe: str, seconds: float | None, notes: Sequence[str]
) -> str:
    """The configuration with a comment beside each choice; what is a default of the schema is left out."""
    training = content["training"]
    minimal = {
        "epochs": training["epochs"],
        "batch_size": training["batch_size"],
        "loss": {name: {"weight": term["weight"]} for name, term in training["loss"].items()},
        "optimiser": {name: training["optimiser"][name] for name in ("name", "lr", "amsgrad")},
        "schedule": training["schedule"],
        **{name: training[name] for name in ("ema", "swa", "stage_two", "max_gradient_norm") if training[name]},
    }
    time_note = _time(seconds, content)
    comments = {
        "data.validation": choices.split,
        "data.test": "the splits that accuracy and uncertainty are judged on" if content["data"]["test"] else
        "no test files yet: {300K: test.xyz} (accuracy and uncertainty need one)",
        "model.type": f"sizes of the preset {recipe}",
        "model.cutoff": f"Å; {choices.cutoff_reason}",
        "baseline.e0": choices.e0_reason,
        "training.epochs": time_note[0] if time_note else "passes over the training frames",
        "training.batch_size": f"about {EDGES} edges a step",
        "training.loss": "weights of energy per atom (1/eV²), force components (Å²/eV²), stress (Å⁶/eV²)",
    }  # fmt: skip
    head = ["# Written by fireassay init; every line can be changed, `fireassay config show FILE` shows all defaults.",
            *(f"# Noticed: {note}" for note in notes)]  # fmt: skip
    sections = {**content, "training": minimal, "baseline": {k: content["baseline"][k] for k in ("e0", "scale")}}
    return "\n".join([*head, *_commented(sections, comments)]) + "\n"


def _commented(content: Mapping[str, Any], comments: Mapping[str, str]) -> list[str]:
    lines = []
    for name, value in content.items():
        if not isinstance(value, Mapping) or name == "assays":
            lines += dump_yaml({name: value}).rstrip().splitlines()
            continue
        lines.append(f"{name}:")
        for key, item in value.items():
            text = dump_yaml({key: item}, flow=True).rstrip()
            note = comments.get(f"{name}.{key}")
            lines.append(f"  {text}" + (f"  # {note}" if note else ""))
    return lines
