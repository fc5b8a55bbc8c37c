"""From a configuration to a trained potential in a run folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols

from fireassay.allocator import tune_allocator
from fireassay.config import Config, symbol_map
from fireassay.data.baseline import FittedE0, average_neighbours, fit_e0, given_e0, isolated_atoms, statistics
from fireassay.data.datasets import Dataset
from fireassay.data.electronic_state import ambiguity
from fireassay.data.fingerprint import fingerprint
from fireassay.data.readers import display
from fireassay.data.store import StoredFrames, numbered
from fireassay.data.structure import Structure
from fireassay.errors import InputError, Interrupted
from fireassay.pipeline import folder as folders
from fireassay.pipeline.lock import owned
from fireassay.pipeline.machine import device_of, dtype_of, use_threads
from fireassay.pipeline.material import Material, read_material
from fireassay.potential import Baseline, LocalPotential
from fireassay.potential_file import save_potential
from fireassay.progress import Progress
from fireassay.records.provenance import environment, renewal
from fireassay.records.run import BaselineRecord, DataRecord, IsolatedAtoms, RunRecord, TrainingRecord
from fireassay.training.fit import FitResult, fit
from fireassay.training.recipe import Recipe

SAMPLE = 500  # frames on which an untrained network is looked at
HISTOGRAMS = 2 << 30  # bytes that the error log may take
MISSED = 0.05  # eV by which E0 may miss an isolated atom without a word

Tell = Callable[[str], None]


def run_training(
    config: Config, folder: Path, progress: Progress, restart: bool = False, tell: Tell = lambda text: None
) -> Path | None:
    """Trains what `config` describes in `folder`; returns the potential's path, None on the workers of torchrun.

    The same configuration in the same folder continues an interrupted training exactly, and leaves a finished one
    alone, but for settings that need no training: assays, test splits, names; `tell` hears what has changed. With
    `restart` everything that the folder holds of a potential is discarded first, its assays included.

    Raises InputError when another process owns the folder, or when it holds a training of other settings or frames.
    """
    tune_allocator()
    leader = int(os.environ.get("RANK", "0")) == 0
    with owned(folder) if leader else contextlib.nullcontext():
        if leader and restart:
            _discard(folder)
        before = None if restart else folders.stored_config(folder)
        path = folder / folders.POTENTIAL
        ended = before is not None and path.exists() and not folders.lengthened(before, config)
        if not leader and ended:
            return None
        if leader and before is not None:
            _accept(before, config, folder)
        device = device_of(config)
        material = read_material(config.data, config.seed, progress if leader else None)
        record = _checked_record(folder, material, config) if leader and before is not None else None
        if before is not None and ended:
            _apply(before, config, folder, record, tell)
            return path
        use_threads(config, tell if leader else lambda text: None)
        return _train(config, folder, material, device, progress, leader, tell)


def _discard(folder: Path) -> None:
    for name in ("errors.npz", "errors.float32", "metrics.jsonl", "metrics.csv"):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / "checkpoint").glob("*"):
        path.unlink()
    folders.discard(folder)


def _accept(before: Config, now: Config, folder: Path) -> None:
    """Raises InputError when the configuration has changed in what a training depends on."""
    changes = folders.refused_changes(before, now)
    if changes:
        raise InputError(
            f"{folder} holds a training of other settings: {folders.described(changes)}; choose another folder with "
            "--output, or discard that training with --restart"
        )


def _checked_record(folder: Path, material: Material, config: Config) -> RunRecord | None:
    """The folder's record, once its frames are those of the material."""
    if not (folder / "run.json").exists():
        return None
    record = RunRecord.load(folder)
    folders.check_frames(record, material.fingerprint, display(config.data.train), len(material.train), folder)
    return record


def _apply(before: Config, now: Config, folder: Path, record: RunRecord | None, tell: Tell) -> None:
    """Takes over what needs no training, and says so."""
    changes = folders.differences(before, now)
    if not changes:
        return
    folders.store_config(folder, now)
    if record is not None and record.name != now.name:
        record.changed(name=now.name).save(folder)
    tell(f"{folder} is trained already; taken over: {folders.described(changes)}")
    tell(f"its assays are renewed by: {renewal(folder)}")


def _train(
    config: Config,
    folder: Path,
    material: Material,
    device: torch.device,
    progress: Progress,
    leader: bool,
    tell: Tell,
) -> Path | None:
    built = build(config, material, progress)
    record = _record(config, material, built, device)
    if leader:
        for note in built.notes:
            tell(note)
        folders.store_config(folder, config)
        record.save(folder)
    recipe = _recipe(config.training, built.train)
    try:
        result = fit(built.potential, built.train, built.validation, recipe, folder, device=device, progress=progress)
    except (Interrupted, InputError) as stop:
        if leader:
            record.changed(status="interrupted" if isinstance(stop, Interrupted) else "failed").save(folder)
        raise
    if not leader:
        return None
    for note in result.notes:
        tell(note)
    path = folder / folders.POTENTIAL
    save_potential(built.potential, path, {"name": config.name, "run": display(config.data.train)})
    record.changed(status="finished", weights=folders.weights_of(folder), training=_summary(result)).save(folder)
    return path


def _record(config: Config, material: Material, built: Built, device: torch.device) -> RunRecord:
    return RunRecord(
        name=config.name,
        source="training",
        status="running",
        seed=config.seed,
        parameters=sum(p.numel() for p in built.potential.parameters() if p.requires_grad),
        architecture=config.model.type,
        data=DataRecord(
            fingerprint=material.fingerprint,
            train=display(config.data.train),
            frames=len(built.train),
            train_frames=fingerprint(material.train),
            validation_frames=len(built.validation) if built.validation is not None else 0,
            test={name: len(frames) for name, frames in material.test.items()},
        ),
        baseline=built.baseline,
        notes=list(built.notes),
        provenance=environment(device=str(device), dtype=config.dtype, threads=torch.get_num_threads()),
    )


def _summary(result: FitResult) -> TrainingRecord:
    """What the record says of a finished training: everything but the weights."""
    return TrainingRecord(
        source=result.source,
        finished=result.finished,
        epochs=result.epochs,
        share=result.share,
        best_epoch=result.best_epoch,
        best=result.best,
        last=result.last,
        seconds=result.seconds,
        notes=list(result.notes),
    )


class Built(NamedTuple):
    """Training set, validation set, the untrained potential on its baseline, and what the record says of that."""

    train: Dataset
    validation: Dataset | None
    potential: Baseline
    baseline: BaselineRecord
    notes: tuple[str, ...] = ()  # what the user should know of the data with this potential


def build(config: Config, material: Material, progress: Progress) -> Built:
    """Data sets and the untrained potential of a configuration. Raises InputError when they do not fit together."""
    species, cutoff = material.species, config.model.cutoff
    train = Dataset(material.train, cutoff, progress)
    validation = Dataset(material.validation, cutoff, progress) if material.validation else None
    neighbours = average_neighbours(train)
    network = config.model.build(species, neighbours, config.seed).to(dtype_of(config))
    doubt = ambiguity(_stated(material), network.uses)
    if doubt.refusal is not None:
        raise InputError(doubt.refusal)
    scale = _scale(config, material.train)
    e0, source = _e0(config, material, species, lambda frames: _untrained(network, frames, scale))
    shift = _shift(config, material.train, e0, lambda frames: _untrained(network, frames, scale))
    trained = config.baseline
    potential = Baseline(network, e0, scale, shift, trained.trainable_scale, trained.trainable_shift)
    symbols = {name: _by_symbol(potential.arguments[name]) for name in ("e0", "scale", "shift")}
    record = BaselineRecord(
        e0=IsolatedAtoms(e0=symbols["e0"], **source),
        scale=symbols["scale"],
        shift=symbols["shift"],
        average_neighbours=neighbours,
    )
    missed = _missed_atoms(material, potential.arguments["e0"])
    lost = _unlogged(config.training, train)
    notes = [*material.notes, *(note for note in (doubt.warning, missed, lost) if note is not None)]
    return Built(train, validation, potential.to(dtype_of(config)), record, tuple(notes))


def _unlogged(recipe: Recipe, train: Dataset) -> str | None:
    """Why the error log is left out, None where it fits or was not asked for. Raises InputError where it was asked for.

    A histogram for every atom is kept in memory.
    """
    log = recipe.error_log
    size = 8 * train.n_atoms * (log.bins + 2)
    if not log.enabled or size <= HISTOGRAMS:
        return None
    why = f"the error log of {train.n_atoms} atoms with {log.bins} bins would take {size / 1e9:.3g} GB"
    if "enabled" in log.model_fields_set:
        raise InputError(f"{why}; lower training.error_log.bins, or set training.error_log.enabled=false")
    return f"{why} and is left out: there are no uncertainties by LTAU; fewer bins (training.error_log.bins) take less"


def _recipe(recipe: Recipe, train: Dataset) -> Recipe:
    """The recipe with an error log only where that fits into memory."""
    if _unlogged(recipe, train) is None:
        return recipe
    return recipe.model_copy(update={"error_log": recipe.error_log.model_copy(update={"enabled": False})})


def _stated(material: Material) -> Sequence[Structure]:
    """The frames that charge and spin may set apart: of those on disk the ones that have any."""
    parts = (material.train, material.validation)
    if not any(isinstance(part, StoredFrames) for part in parts):
        return [*material.train, *material.validation]
    return [part[k] for part in parts for k in sorted({*numbered(part, "charge"), *numbered(part, "spin")})]


def _missed_atoms(material: Material, e0: Mapping[int, float]) -> str | None:
    """What to do about isolated atoms among the training frames whose energies E0 misses; None when it does not."""
    known = isolated_atoms(material.train)
    missed = {z: abs(energy - e0[z]) for z, energy in known.items() if abs(energy - e0[z]) > MISSED}
    if not missed:
        return None
    names = ", ".join(f"{chemical_symbols[z]} by {error:.2f} eV" for z, error in missed.items())
    others = [chemical_symbols[z] for z in material.species if z not in known]
    way = "take them with baseline.e0=isolated" if not others else f"add those of {', '.join(others)}"
    return (
        f"E0 misses the isolated atoms among the training frames, {names}: they stay in the energy error and weigh in "
        f"its loss; {way}{' and set baseline.e0=isolated' if others else ''}, or leave these frames out"
    )


def _by_symbol(values: dict[int, float]) -> dict[str, float]:
    return {chemical_symbols[z]: value for z, value in values.items()}


def _untrained(network: LocalPotential, frames: Sequence[Structure], scale: Any) -> np.ndarray:
    """Energies (S,) in eV that the untrained network gives the frames, as it will stand on its baseline."""
    dataset = Dataset(frames, network.cutoff)
    species = {int(z) for s in frames for z in s.atomic_numbers} | set(network.species or ())
    alone = Baseline(network, dict.fromkeys(sorted(species), 0.0), scale)
    groups = dataset.batches_by_edges(20_000)
    batches = (dataset.select(group, network.dtype) for group in groups)
    return np.concatenate([alone.predict(batch.graph, forces=False).energy.numpy() for batch in batches])


def _sample(frames: Sequence[Structure]) -> list[Structure]:
    """At most SAMPLE frames with energies, evenly chosen."""
    labelled = numbered(frames, "energy")
    return [frames[k] for k in labelled[:: max(1, -(-len(labelled) // SAMPLE))]]


Network = Callable[[Sequence[Structure]], np.ndarray]


def _e0(
    config: Config, material: Material, species: list[int], network: Network
) -> tuple[dict[int, float], dict[str, Any]]:
    """Isolated-atom energies in eV by atomic number, and where they come from.

    A fit takes the energies that the untrained network gives the frames into account, so that training begins with the
    spread of the data and not with the mean of random weights.
    """
    choice = config.baseline.e0
    if isinstance(choice, dict):
        return given_e0(symbol_map(choice, "baseline.e0"), species), {"source": "given"}
    if choice == "zero":
        return dict.fromkeys(species, 0.0), {"source": "zero"}
    if choice == "isolated":
        return given_e0(material.isolated, species), {
            "source": display(config.data.isolated_atoms or config.data.train)
        }
    fitted = fit_e0(material.train)
    offset = _offset(material.train, network, species)
    e0 = {z: energy - offset.get(z, 0.0) for z, energy in fitted.e0.items()}
    return given_e0(e0, species), _fit_source(fitted)


def _fit_source(fitted: FittedE0) -> dict[str, Any]:
    return {"source": "fit", "rank": fitted.rank, "condition": fitted.condition, "sentence": str(fitted)}


def _offset(frames: Sequence[Structure], network: Network, species: list[int]) -> dict[int, float]:
    """The mean energy that the untrained network gives an atom of each element, by least squares, in eV."""
    chosen = _sample(frames)
    energies = network(chosen)
    if not np.isfinite(energies).all():
        return {}
    counts = np.array([np.bincount(s.atomic_numbers, minlength=119)[species] for s in chosen], dtype=np.float64)
    return dict(zip(species, np.linalg.lstsq(counts, energies, rcond=None)[0].tolist(), strict=True))


def _scale(config: Config, frames: Sequence[Structure]) -> float | dict[int, float]:
    scale = config.baseline.scale
    if scale == "force_rms":
        return statistics(frames).force_rms or 1.0
    if isinstance(scale, dict):
        return symbol_map(scale, "baseline.scale")
    return 1.0 if scale == "none" else float(scale)


def _shift(config: Config, frames: Sequence[Structure], e0: dict[int, float], network: Network) -> float:
    shift = config.baseline.shift
    if shift == "none":
        return 0.0
    if shift != "mean":
        return float(shift)
    chosen = _sample(frames)
    if not chosen:
        return 0.0
    left = [s.energy - sum(e0[int(z)] for z in s.atomic_numbers) for s in chosen if s.energy is not None]
    return float(np.mean((np.array(left) - network(chosen)) / [len(s) for s in chosen]))
