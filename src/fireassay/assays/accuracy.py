"""Assay: how far predictions are from reference labels, per split, element and group.

Definitions are those of the TEA Challenge 2023 (Tables SI 1, SI 7, SI 8) and of Vita & Schwalbe-Koda, Data efficiency
and extrapolation trends (section 4.1); each metric is defined in `fireassay.metrics`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from pydantic import Field

from fireassay import metrics
from fireassay.assays.predictions import Predictions, cutoff_of, predict
from fireassay.data.datasets import Dataset
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import Predictor
from fireassay.progress import Progress, Silent
from fireassay.records import AssayResult, Quantity
from fireassay.settings import Settings

Array = NDArray[np.float64]

UNITS = {
    "energy": "eV",
    "energy_per_atom": "eV/atom",
    "relative_energy": "eV",
    "forces": "eV/Å",
    "stress": "eV/Å^3",
    "net_force": "eV/Å",
}


class AccuracySettings(Settings):
    """Settings of the accuracy assay."""

    energy_zero: Literal["none", "fit"] = Field(
        default="none",
        description="fit: before comparing, shift predicted energies per element by least squares over all splits, "
        "for a potential whose zero of energy is not the reference's",
    )
    temperatures: dict[str, float] = Field(
        default={},
        description="temperature in K of a split, where neither its frames nor its name tell; for the slope",
    )
    groups: bool = Field(default=True, description="errors of each group label, when a split has more than one")
    max_edges: int = Field(default=10_000, ge=1, description="edges of one batch")
    max_structures: int = Field(default=256, ge=1, description="structures of one batch")


def run(
    potential: Predictor,
    splits: Mapping[str, Sequence[Structure]],
    settings: AccuracySettings | None = None,
    *,
    name: str = "potential",
    cutoff: float | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> AssayResult:
    """Errors of `potential` on each of `splits`, for every label that a split has.

    Values and arrays are listed in docs/records.md. A frame without a label is left out of that label's errors and is
    NaN in the arrays. When a prediction is not finite the errors that it enters are null and `SPLIT.not_finite` counts
    the frames. Raises InputError when there is no label at all, or an element that the potential does not know.
    """
    settings, progress = settings or AccuracySettings(), progress or Silent()
    values: dict[str, Quantity] = {}
    arrays: dict[str, NDArray] = {}
    data = {split: Dataset(frames, cutoff_of(potential, cutoff)) for split, frames in splits.items()}
    if not any(
        d.labels.has_energy.any() or d.labels.has_forces.any() or d.labels.has_stress.any() for d in data.values()
    ):
        raise InputError(
            f"the splits {list(splits)} have no energies, forces or stress; accuracy needs reference labels"
        )
    progress.start(f"accuracy of {name}", sum(len(d) for d in data.values()))
    try:
        found = {
            split: predict(
                potential,
                dataset,
                stress=bool(dataset.labels.has_stress.any()),
                dtype=dtype,
                device=device,
                max_edges=settings.max_edges,
                max_structures=settings.max_structures,
                progress=progress,
            )
            for split, dataset in data.items()
        }
    finally:
        progress.stop()
    shifts = _energy_shifts(data, found, settings, values)
    for split, dataset in data.items():
        prediction = found[split]._replace(energy=found[split].energy + shifts[split])
        _compare(split, dataset, prediction, settings, values, arrays)
    _slope(data, settings, values)
    units = {key: _unit_of_array(key) for key in arrays}
    return AssayResult("accuracy", name, settings.model_dump(), values, arrays, units)


def _energy_shifts(
    data: Mapping[str, Dataset],
    found: Mapping[str, Predictions],
    settings: AccuracySettings,
    values: dict[str, Quantity],
) -> dict[str, Array]:
    values["energy_zero"] = Quantity(settings.energy_zero)
    none = {split: np.zeros(len(dataset)) for split, dataset in data.items()}
    compositions = {split: _compositions(dataset) for split, dataset in data.items()}
    rows = [
        (predicted, reference, composition)
        for split, dataset in data.items()
        for predicted, reference, composition, labelled in zip(
            found[split].energy,
            dataset.labels.energy.numpy(),
            compositions[split],
            dataset.labels.has_energy.tolist(),
            strict=True,
        )
        if labelled and np.isfinite(predicted)
    ]
    if settings.energy_zero == "none" or not rows:
        return none
    predicted, reference, composition = zip(*rows, strict=True)
    zero = metrics.fit_energy_zero(predicted, reference, composition)
    values["energy_zero.rank"] = Quantity(zero.rank)
    values["energy_zero.condition"] = Quantity(zero.condition)
    for z, shift in zero.shift.items():
        values[f"energy_zero.{chemical_symbols[z]}"] = Quantity(shift, "eV")
    seen = set(zero.shift)
    unseen = sorted({z for cs in compositions.values() for c in cs for z in c} - seen)
    if unseen:
        raise InputError(f"no frame with an energy has the elements {[chemical_symbols[z] for z in unseen]}; "
                         "their zero of energy cannot be fitted")  # fmt: skip
    return {split: zero.of(cs) for split, cs in compositions.items()}


def _compositions(dataset: Dataset) -> list[dict[int, int]]:
    counted = (np.unique(s.atomic_numbers, return_counts=True) for s in dataset.structures)
    return [dict(zip(species.tolist(), counts.tolist(), strict=True)) for species, counts in counted]


def _compare(
    split: str,
    dataset: Dataset,
    prediction: Predictions,
    settings: AccuracySettings,
    values: dict[str, Quantity],
    arrays: dict[str, NDArray],
) -> None:
    labels = dataset.labels
    sizes = dataset.structure_sizes.numpy()
    structure = np.repeat(np.arange(len(sizes)), sizes)
    species = dataset.atomic_numbers.numpy()
    energy = np.where(labels.has_energy.numpy(), labels.energy.numpy(), np.nan)
    forces = np.where(labels.has_forces.numpy()[:, None], labels.forces.numpy(), np.nan)
    stress = np.where(labels.has_stress.numpy()[:, None, None], labels.stress.numpy(), np.nan)
    assert prediction.forces is not None
    arrays[f"{split}.energy.reference"], arrays[f"{split}.energy.predicted"] = energy, prediction.energy
    arrays[f"{split}.forces.reference"], arrays[f"{split}.forces.predicted"] = forces, prediction.forces
    arrays[f"{split}.atomic_numbers"], arrays[f"{split}.structure"] = species, structure
    arrays[f"{split}.positions"] = np.concatenate([s.positions for s in dataset.structures])
    values[f"{split}.frames"] = Quantity(len(sizes))
    values[f"{split}.not_finite"] = Quantity(_diverged_frames(prediction, structure))
    _add(values, split, "energy", prediction.energy, energy)
    _add(values, split, "energy_per_atom", prediction.energy / sizes, energy / sizes)
    _add_relative(values, split, prediction.energy, energy)
    _add(values, split, "forces", prediction.forces, forces)
    for z in np.unique(species):
        rows = species == z
        _add(values, f"{split}.forces", chemical_symbols[z], prediction.forces[rows], forces[rows], UNITS["forces"])
    if not np.isnan(forces).all():
        net, reference = metrics.net_force(prediction.forces, structure), metrics.net_force(forces, structure)
        _add(values, split, "net_force", net, reference)
    if prediction.stress is not None:
        _add(values, split, "stress", prediction.stress, stress)
        arrays[f"{split}.stress.reference"], arrays[f"{split}.stress.predicted"] = stress, prediction.stress
    if settings.groups:
        _add_groups(values, split, dataset, prediction, energy, forces)


def _add(
    values: dict[str, Quantity], prefix: str, name: str, predicted: Array, reference: Array, unit: str | None = None
) -> None:
    labelled = ~np.isnan(reference)
    if not labelled.any():
        return
    a, b = predicted[labelled], reference[labelled]
    found = metrics.errors(a, b) if np.isfinite(a).all() else dict.fromkeys(metrics.errors(b, b), None)
    for key, value in found.items():
        if "percent" not in key:
            values[f"{prefix}.{name}.{key}"] = Quantity(value, unit or UNITS[name])
        elif name != "net_force":  # whose reference is zero but for rounding
            values[f"{prefix}.{name}.{key}"] = Quantity(value, "%")


def _add_relative(values: dict[str, Quantity], split: str, predicted: Array, reference: Array) -> None:
    labelled = ~np.isnan(reference)
    if labelled.any():
        a, b = predicted[labelled], reference[labelled]
        _add(values, split, "relative_energy", a - a.mean(), metrics.relative(b))


def _add_groups(
    values: dict[str, Quantity], split: str, dataset: Dataset, prediction: Predictions, energy: Array, forces: Array
) -> None:
    groups = np.array([s.provenance.group or "" for s in dataset.structures])
    if len(np.unique(groups)) < 2:
        return
    sizes = dataset.structure_sizes.numpy()
    per_atom = np.repeat(groups, sizes)
    assert prediction.forces is not None
    for group in np.unique(groups):
        prefix, rows = f"{split}.group.{group or 'none'}", groups == group
        _add(values, prefix, "energy_per_atom", (prediction.energy / sizes)[rows], (energy / sizes)[rows])
        _add(values, prefix, "forces", prediction.forces[per_atom == group], forces[per_atom == group])


def _diverged_frames(prediction: Predictions, structure: NDArray[np.int64]) -> int:
    bad = ~np.isfinite(prediction.energy)
    if prediction.forces is not None:
        bad[structure[~np.isfinite(prediction.forces).all(1)]] = True
    if prediction.stress is not None:
        bad |= ~np.isfinite(prediction.stress).all((1, 2))
    return int(bad.sum())


def _slope(data: Mapping[str, Dataset], settings: AccuracySettings, values: dict[str, Quantity]) -> None:
    points = []
    for split, dataset in data.items():
        own = {s.provenance.temperature for s in dataset.structures}
        known = own.pop() if len(own) == 1 else None
        temperature = settings.temperatures.get(split, _named(split) if known is None else known)
        if temperature is None:
            continue
        values[f"{split}.temperature"] = Quantity(temperature, "K")
        error = values.get(f"{split}.forces.rmse")
        if split != "train" and error is not None and error.value is not None:
            points.append((temperature, error.value))
    if len({temperature for temperature, _ in points}) >= 2:
        temperatures, errors = zip(*points, strict=True)
        values["extrapolation_slope"] = Quantity(metrics.extrapolation_slope(temperatures, errors), "eV/Å/K")


def _named(split: str) -> float | None:
    """The temperature that a split's name is, such as 300K; the report reads names in the same way."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?K", split)
    return float(found[1]) if found else None


def _unit_of_array(key: str) -> str:
    return next(
        (UNITS[q] for q in ("energy", "forces", "stress") if f".{q}." in key), "Å" if "positions" in key else ""
    )
