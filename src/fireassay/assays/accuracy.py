"""Assay: how far predictions are from reference labels, per split, element, molecule and group.

Definitions are those of the TEA Challenge 2023 (Tables SI 1, SI 7, SI 8) and of Vita & Schwalbe-Koda, Data efficiency
and extrapolation trends (section 4.1); each metric is defined in `fireassay.metrics`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from pydantic import Field

from fireassay import metrics
from fireassay.assays.assay import Assay, Need, Subject
from fireassay.assays.predictions import Predictions, dataset_for, datasets_for, predict
from fireassay.data.datasets import Dataset
from fireassay.data.electronic_state import unseen
from fireassay.data.fingerprint import fingerprint
from fireassay.data.molecules import formula, molecules
from fireassay.data.split import group_numbers
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.records.accuracy import AccuracyResult, EnergyZero, Errors, FailedFrame, GroupErrors, SplitAccuracy
from fireassay.settings import Settings

Array = NDArray[np.float64]


class AccuracySettings(Settings):
    """Settings of the accuracy assay."""

    energy_zero: Literal["none", "fit"] = Field(
        default="none",
        description="fit: before comparing, shift predicted energies per element by least squares on training frames, "
        "for a potential whose zero of energy is not the reference's",
    )
    energy_zero_frames: int = Field(default=500, ge=1, description="training frames to fit the zero of energy to")
    temperatures: dict[str, float] = Field(
        default={},
        description="temperature in K of a split, where neither its frames nor its name tell; for the slope",
    )
    groups: bool = Field(default=True, description="errors of each group label, when a split has more than one")
    molecules: bool = Field(
        default=True, description="F(mol): errors of the net force on each molecule, when frames hold more than one"
    )
    max_edges: int = Field(default=10_000, ge=1, description="edges of one batch")
    max_structures: int = Field(default=256, ge=1, description="structures of one batch")


def run(subject: Subject, settings: AccuracySettings) -> AccuracyResult:
    """Errors of the subject's predictor on each test split, for every label that a split has.

    A frame without a label is left out of that label's errors and is NaN in the arrays. A frame with a prediction that
    is not finite counts as diverged; the errors are those of the others. A split with an element that the predictor
    does not know is refused by name. Raises InputError when every split is, or when a fitted zero of energy lacks
    training frames with energies.
    """
    data, refused = datasets_for(subject.predictor, subject.test)
    for split, reason in refused.items():
        subject.tell(f"accuracy: split {split} is left out: {reason}")
    if not data:
        raise InputError(f"accuracy: no split can be judged; {'; '.join(f'{k}: {v}' for k, v in refused.items())}")
    zero = _energy_zero(subject, settings) if settings.energy_zero == "fit" else None
    subject.progress.start(f"accuracy of {subject.name}", sum(len(d) for d in data.values()))
    try:
        found = {split: _predictions(subject, dataset, settings) for split, dataset in data.items()}
    finally:
        subject.progress.stop()
    notes: list[str] = []
    splits = {}
    for split, dataset in data.items():
        shift, note = _shift(split, dataset, zero)
        notes += note
        extrapolated = unseen(subject.train, dataset.structures)
        if extrapolated is not None:
            notes.append(f"{split}: {extrapolated}")
        if found[split].stress is None and bool(dataset.labels.has_stress.any()):
            notes.append(f"{split}: the potential gives no stress; that of {split} is not compared")
        if len(found[split].failed) == len(dataset):
            first = next(iter(found[split].failed.values()))
            raise InputError(f"accuracy: every calculation on {split} failed, the first with: {first}")
        splits[split] = _compared(dataset, found[split], shift, settings, _temperature(split, dataset, settings))
    slope, more = _slope(splits)
    for note in (*notes, *more):
        subject.tell(f"accuracy: {note}")
    return AccuracyResult(
        splits=splits,
        refused=refused,
        notes=[*notes, *more],
        energy_zero=settings.energy_zero,
        fitted_zero=zero,
        extrapolation_slope=slope,
    )


ASSAY = Assay("accuracy", AccuracySettings, (Need.LABELLED_TEST_FRAMES,), run)


def _predictions(subject: Subject, dataset: Dataset, settings: AccuracySettings, forces: bool = True) -> Predictions:
    return predict(
        subject.predictor,
        dataset,
        forces=forces,
        stress=forces and bool(dataset.labels.has_stress.any()),
        device=subject.device,
        max_edges=settings.max_edges,
        max_structures=settings.max_structures,
        progress=subject.progress,
    )


def _energy_zero(subject: Subject, settings: AccuracySettings) -> EnergyZero:
    """Fitted to training frames, evenly chosen, so that test labels stay unseen."""
    labelled = [s for s in subject.train if s.energy is not None]
    if not labelled:
        raise InputError(
            "accuracy.energy_zero=fit needs training frames with energies; give data.train, or set "
            "accuracy.energy_zero=none"
        )
    stride = max(1, len(labelled) // settings.energy_zero_frames)
    dataset = dataset_for(subject.predictor, labelled[::stride][: settings.energy_zero_frames])
    subject.progress.start("zero of energy", len(dataset))
    try:
        predicted = _predictions(subject, dataset, settings, forces=False).energy
    finally:
        subject.progress.stop()
    finite = np.isfinite(predicted)
    if not finite.any():
        raise InputError(
            "no predicted energy of a training frame is finite, so that no zero can be fitted; set "
            "accuracy.energy_zero=none"
        )
    compositions = [c for c, use in zip(_compositions(dataset), finite, strict=True) if use]
    fitted = metrics.fit_energy_zero(predicted[finite], dataset.labels.energy.numpy()[finite], compositions)
    return EnergyZero(
        frames=len(compositions),
        rank=fitted.rank,
        condition=fitted.condition,
        shift={chemical_symbols[z]: shift for z, shift in fitted.shift.items()},
    )


def _shift(split: str, dataset: Dataset, zero: EnergyZero | None) -> tuple[Array, list[str]]:
    """What is added to the predicted energies (S,); NaN for a frame with an element that the fit did not see."""
    compositions = _compositions(dataset)
    if zero is None:
        return np.zeros(len(dataset)), []
    shift = [sum(n * zero.shift.get(chemical_symbols[z], np.nan) for z, n in c.items()) for c in compositions]
    unseen = sorted({chemical_symbols[z] for c in compositions for z in c} - set(zero.shift))
    note = f"energies of {split} with {', '.join(unseen)} are not compared: no training frame has them"
    return np.array(shift), [note] if unseen else []


def _compositions(dataset: Dataset) -> list[dict[int, int]]:
    counted = (np.unique(s.atomic_numbers, return_counts=True) for s in dataset.structures)
    return [dict(zip(species.tolist(), counts.tolist(), strict=True)) for species, counts in counted]


class _Compared(NamedTuple):
    """References with NaN where there is no label, predictions with NaN where they are left out."""

    energy: Array
    forces: Array
    stress: Array
    predicted: Predictions
    structure: NDArray[np.int64]
    sizes: NDArray[np.int64]
    diverged: NDArray[np.bool_]


def _compared(
    dataset: Dataset, found: Predictions, shift: Array, settings: AccuracySettings, temperature: float | None
) -> SplitAccuracy:
    comparable = np.isfinite(shift)
    predicted = found._replace(energy=found.energy + np.where(comparable, shift, 0.0))
    c = _aligned(dataset, predicted, comparable)
    species = dataset.atomic_numbers.numpy()
    names, group = _groups(dataset.structures)
    assert c.predicted.forces is not None
    forces = c.predicted.forces
    labelled = not np.isnan(c.forces).all()
    stress = c.predicted.stress
    parts = _molecules(dataset) if labelled and settings.molecules else None
    return SplitAccuracy(
        frames=len(c.sizes),
        not_finite=int(c.diverged.sum()),
        fingerprint=fingerprint(dataset.structures),
        temperature=temperature,
        energy=_errors(c.predicted.energy, c.energy),
        energy_per_atom=_errors(c.predicted.energy / c.sizes, c.energy / c.sizes),
        relative_energy=_relative(c.predicted.energy, c.energy),
        forces=_errors(forces, c.forces),
        stress=None if stress is None else _errors(stress, c.stress),
        net_force=_net(forces, c.forces, c.structure) if labelled else None,
        molecule_force=None if parts is None else parts.forces(forces, c.forces, np.ones(len(parts.frame), bool)),
        molecules=_by_formula(parts, forces, c.forces),
        elements={
            chemical_symbols[z]: errors
            for z in np.unique(species)
            if (errors := _errors(forces[species == z], c.forces[species == z])) is not None
        },
        groups=_group_errors(c, names, group, parts) if settings.groups and len(names) > 1 else {},
        failed=[FailedFrame(frame=frame, message=message) for frame, message in found.failed.items()],
        diverged=c.diverged.astype(np.int64),
        group_names=names,
        group=group,
        energy_reference=c.energy,
        energy_predicted=predicted.energy,
        forces_reference=c.forces,
        forces_predicted=forces if predicted.forces is None else predicted.forces,
        stress_reference=None if stress is None else c.stress,
        stress_predicted=predicted.stress,
        atomic_numbers=species,
        structure=c.structure,
        positions=np.concatenate([s.positions for s in dataset.structures]),
        cell=np.stack([s.cell for s in dataset.structures]),
    )


def _aligned(dataset: Dataset, predicted: Predictions, comparable: NDArray[np.bool_]) -> _Compared:
    labels, sizes = dataset.labels, dataset.structure_sizes.numpy()
    structure = np.repeat(np.arange(len(sizes)), sizes)
    assert predicted.forces is not None
    has_stress = labels.has_stress.numpy()
    diverged = ~np.isfinite(predicted.energy)
    diverged[structure[~np.isfinite(predicted.forces).all(1)]] = True
    if predicted.stress is not None:  # molecules have none
        diverged |= has_stress & ~np.isfinite(predicted.stress).all((1, 2))
    hidden = Predictions(
        np.where(diverged, np.nan, predicted.energy),
        np.where(diverged[structure, None], np.nan, predicted.forces),
        None if predicted.stress is None else np.where(diverged[:, None, None], np.nan, predicted.stress),
        None,
    )
    return _Compared(
        energy=np.where(labels.has_energy.numpy() & comparable, labels.energy.numpy(), np.nan),
        forces=np.where(labels.has_forces.numpy()[:, None], labels.forces.numpy(), np.nan),
        stress=np.where(has_stress[:, None, None], labels.stress.numpy(), np.nan),
        predicted=hidden,
        structure=structure,
        sizes=sizes,
        diverged=diverged,
    )


def _errors(predicted: Array, reference: Array) -> Errors | None:
    """Errors over what has a label and a finite prediction; None without labels."""
    if np.isnan(reference).all():
        return None
    both = np.isfinite(predicted) & np.isfinite(reference)
    if not both.any():
        return Errors(n=0)
    found = metrics.errors(predicted[both], reference[both])
    return Errors(n=int(both.sum()), **{name: value if np.isfinite(value) else None for name, value in found.items()})


def _relative(predicted: Array, reference: Array) -> Errors | None:
    both = np.isfinite(predicted) & np.isfinite(reference)
    if not both.any():
        return _errors(predicted, reference)
    return _errors(predicted - predicted[both].mean(), reference - reference[both].mean())


def _net(predicted: Array, reference: Array, group: NDArray[np.int64], percent: bool = False) -> Errors | None:
    """Errors of the sum of forces (N, 3) over the atoms of each group (N,); percentages where it is not zero."""
    found = _errors(metrics.net_force(predicted, group), metrics.net_force(reference, group))
    if found is None or percent:
        return found
    return Errors(n=found.n, mae=found.mae, rmse=found.rmse, max=found.max)


class _Molecules(NamedTuple):
    """The M molecules of all frames: their atoms in the data set with the molecule of each; frame and formula (M,)."""

    atoms: NDArray[np.int64]
    molecule: NDArray[np.int64]
    frame: NDArray[np.int64]
    formula: list[str]

    def forces(self, predicted: Array, reference: Array, chosen: NDArray[np.bool_]) -> Errors | None:
        """F(mol) of the molecules `chosen` (M,); None when there is none or no label."""
        use = chosen[self.molecule]
        atoms, number = self.atoms[use], self.molecule[use]
        return _net(predicted[atoms], reference[atoms], number, percent=True) if len(atoms) else None


def _molecules(dataset: Dataset) -> _Molecules:
    """The molecules of each frame's own geometry; a frame that is one molecule as a whole has none."""
    atoms: list[NDArray[np.int64]] = []
    frames: list[int] = []
    formulas: list[str] = []
    first = 0
    for number, structure in enumerate(dataset.structures):
        for found in molecules(structure):
            if len(found) < len(structure):
                atoms.append(found + first)
                frames.append(number)
                formulas.append(formula(structure.atomic_numbers[found]))
        first += len(structure)
    none = np.zeros(0, dtype=np.int64)
    sizes = [len(found) for found in atoms]
    return _Molecules(
        np.concatenate([none, *atoms]), np.repeat(np.arange(len(atoms)), sizes), np.array(frames, np.int64), formulas
    )


def _groups(structures: Sequence[Structure]) -> tuple[list[str], NDArray[np.int64]]:
    """The group labels, ascending, and each frame's number among them; -1 without one."""
    names = sorted({s.provenance.group for s in structures if s.provenance.group is not None})
    return names, group_numbers(structures)


def _by_formula(parts: _Molecules | None, predicted: Array, reference: Array) -> dict[str, Errors]:
    names = sorted(set(parts.formula)) if parts is not None else []
    found = {}
    for name in names:
        assert parts is not None
        errors = parts.forces(predicted, reference, np.array([f == name for f in parts.formula]))
        if errors is not None:
            found[name] = errors
    return found


def _group_errors(
    c: _Compared, names: Sequence[str], group: NDArray[np.int64], parts: _Molecules | None
) -> dict[str, GroupErrors]:
    found = {}
    assert c.predicted.forces is not None
    for number, name in enumerate(names):
        rows = group == number
        atoms = rows[c.structure]
        found[name] = GroupErrors(
            frames=int(rows.sum()),
            energy_per_atom=_errors((c.predicted.energy / c.sizes)[rows], (c.energy / c.sizes)[rows]),
            forces=_errors(c.predicted.forces[atoms], c.forces[atoms]),
            molecule_force=None if parts is None else parts.forces(c.predicted.forces, c.forces, rows[parts.frame]),
        )
    return found


def _temperature(split: str, dataset: Dataset, settings: AccuracySettings) -> float | None:
    own = {s.provenance.temperature for s in dataset.structures}
    known = own.pop() if len(own) == 1 else None
    return settings.temperatures.get(split, _named(split) if known is None else known)


def _slope(splits: Mapping[str, SplitAccuracy]) -> tuple[float | None, list[str]]:
    """The extrapolation slope; none where the potential diverged, which would leave out the worst frames."""
    points = [
        (s.temperature, s.forces.rmse)
        for name, s in splits.items()
        if name != "train" and s.temperature is not None and s.forces is not None and s.forces.rmse is not None
    ]
    if len({temperature for temperature, _ in points}) < 2:
        return None, []
    diverged = [name for name, s in splits.items() if s.not_finite and s.temperature is not None]
    if diverged:
        return None, [f"no extrapolation slope: predictions at {', '.join(diverged)} are not all finite"]
    temperatures, errors = zip(*points, strict=True)
    return metrics.extrapolation_slope(temperatures, errors), []


def _named(split: str) -> float | None:
    """The temperature that a split's name is, such as 300K."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?K", split)
    return float(found[1]) if found else None
