"""Assay: does LTAU predict how wrong each atom's force is, and does it know where it does not?

Source: LTAU-FF (Vita, Samanta, Zhou & Lordi), sections 3.4 and 4.1, Appendices A and D. The error of an atom is the
norm of its force error in eV/Å, as in the trajectory. Metrics are defined in `fireassay.uncertainty.calibration` and
`fireassay.uncertainty.ood`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from fireassay import metrics
from fireassay.assays.predictions import Predictions, cut, cutoff_of, dtype_of, predict
from fireassay.data.datasets import Dataset
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import LocalPotential
from fireassay.progress import Progress, Silent
from fireassay.records import AssayResult, ErrorTrajectory, Quantity
from fireassay.settings import Settings
from fireassay.uncertainty import calibration, ood
from fireassay.uncertainty.ltau import LTAU, Estimator
from fireassay.uncertainty.search import Index

Array = NDArray[np.float64]


class UncertaintySettings(Settings):
    """Settings of the uncertainty assay."""

    k: int = Field(default=10, ge=1, description="nearest training atoms")
    estimator: Estimator = Field(
        default="published", description="distance_aware needs held-out frames and keeps its calibration far away"
    )
    index: Index = Field(
        default="auto", description="nearest-neighbour search: exact, flat (FAISS), hnsw (approximate), auto"
    )
    standardise: bool = Field(default=False, description="divide descriptors by their standard deviation")
    exponent: float | None = Field(
        default=1.0,
        ge=0,
        description="growth of the distance-aware error far away; null: fitted to the held-out frames",
    )
    levels: int = Field(default=101, ge=2, description="confidence levels of the calibration curve, from 0 to 1")
    bins: int = Field(default=10, ge=1, description="bins of the ENCE")
    large_error: float | None = Field(
        default=None, gt=0, description="an error is large above this, eV/Å; null: the largest tenth of all test errors"
    )
    ood_cutoff: float | None = Field(
        default=None, gt=0, description="out of domain beyond this distance; null: the knee of the training distances"
    )
    bootstrap: int = Field(default=200, ge=0, description="resamples of frames for confidence intervals; 0 for none")
    seed: int = Field(default=0, description="of the resampling")
    max_edges: int = Field(default=10_000, ge=1, description="edges of one batch")
    max_structures: int = Field(default=256, ge=1, description="structures of one batch")


def run(
    potential: LocalPotential,
    train: Sequence[Structure],
    errors: ErrorTrajectory,
    splits: Mapping[str, Sequence[Structure]],
    settings: UncertaintySettings | None = None,
    *,
    calibration_frames: Sequence[Structure] | None = None,
    name: str = "potential",
    cutoff: float | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> AssayResult:
    """Judges LTAU's error estimates on each of `splits` that has forces.

    train: the frames that `errors` was recorded on, in that order. With `calibration_frames`, held out from training,
    the estimator that `settings` does not name is judged too, as `SPLIT.ESTIMATOR.NAME`. Values and arrays are listed
    in docs/records.md; an atom without a force label is NaN in `SPLIT.error`.

    Raises InputError when the trajectory is of other frames, no split has forces, or the distance-aware estimator
    lacks calibration frames.
    """
    settings, progress = settings or UncertaintySettings(), progress or Silent()
    held = list(calibration_frames or ())
    if settings.estimator == "distance_aware" and not held:
        raise InputError("estimator distance_aware needs held-out frames for its calibration; give validation frames")
    sizes = np.array([len(s) for s in train])
    if not np.array_equal(sizes, errors.structure_sizes):
        raise InputError(
            f"the error trajectory is of {len(errors.structure_sizes)} frames with {len(errors.counts)} atoms, the "
            f"training set has {len(sizes)} with {sizes.sum()}; give the frames that the potential was trained on"
        )
    data = {split: Dataset(frames, cutoff_of(potential, cutoff)) for split, frames in splits.items()}
    data = {split: dataset for split, dataset in data.items() if dataset.labels.has_forces.any()}
    if not data:
        raise InputError(f"none of the splits {list(splits)} has forces; uncertainty needs true errors to compare with")
    ask = _Asker(potential, settings, cutoff, dtype, device, progress)
    progress.start(f"uncertainty of {name}", len(train) + len(held) + sum(len(d) for d in data.values()))
    try:
        known = ask(Dataset(train, cutoff_of(potential, cutoff)), forces=False)
        model = LTAU(settings.k, settings.estimator, settings.index, settings.standardise, settings.exponent)
        model.fit(_descriptors(known), errors)
        if held:
            _calibrate(model, ask, Dataset(held, cutoff_of(potential, cutoff)))
        found = {split: ask(dataset) for split, dataset in data.items()}
    finally:
        progress.stop()
    values, arrays = _judge(model, data, found, settings, both=bool(held))
    largest = max(data.values(), key=len)
    values |= _cost(model, potential, largest, settings, dtype, device)
    return AssayResult("uncertainty", name, settings.model_dump(), values, arrays, _units(arrays))


class _Asker:
    """Predictions with descriptors, always in the same way."""

    def __init__(
        self,
        potential: LocalPotential,
        settings: UncertaintySettings,
        cutoff: float | None,
        dtype: torch.dtype | None,
        device: torch.device | str,
        progress: Progress,
    ) -> None:
        self.potential, self.settings, self.cutoff = potential, settings, cutoff
        self.dtype, self.device, self.progress = dtype, device, progress

    def __call__(self, dataset: Dataset, forces: bool = True) -> Predictions:
        return predict(
            self.potential,
            dataset,
            forces=forces,
            descriptors=True,
            dtype=self.dtype,
            device=self.device,
            max_edges=self.settings.max_edges,
            max_structures=self.settings.max_structures,
            progress=self.progress,
        )


def _descriptors(found: Predictions) -> NDArray[np.float32]:
    assert found.descriptors is not None
    return found.descriptors


def _true_errors(dataset: Dataset, found: Predictions) -> Array:
    """|F_ref - F_pred| (N,) in eV/Å, NaN without a label."""
    assert found.forces is not None
    norm = np.linalg.norm(dataset.labels.forces.numpy() - found.forces, axis=1)
    return np.where(dataset.labels.has_forces.numpy(), norm, np.nan)


def _calibrate(model: LTAU, ask: _Asker, dataset: Dataset) -> None:
    found = ask(dataset)
    true = _true_errors(dataset, found)
    labelled = ~np.isnan(true)
    model.calibrate(_descriptors(found)[labelled], true[labelled])


def _judge(
    model: LTAU,
    data: Mapping[str, Dataset],
    found: Mapping[str, Predictions],
    settings: UncertaintySettings,
    both: bool,
) -> tuple[dict[str, Quantity], dict[str, NDArray]]:
    true = {split: _true_errors(dataset, found[split]) for split, dataset in data.items()}
    pooled = np.concatenate(list(true.values()))
    large = settings.large_error or float(np.nanquantile(pooled[np.isfinite(pooled)], 0.9))
    limit = settings.ood_cutoff or ood.knee(model.training_distances_)
    values = {
        "k": Quantity(model.k),
        "estimator": Quantity(settings.estimator),
        "n_training_atoms": Quantity(len(model.atoms_)),
        "ood_cutoff": Quantity(limit),
        "large_error": Quantity(large, "eV/Å"),
    }
    if both:
        values["distance_exponent"] = Quantity(model.exponent_)
    levels = np.linspace(0.0, 1.0, settings.levels)
    arrays: dict[str, NDArray] = {"levels": levels, "training_distances": np.sort(model.training_distances_)}
    second: Estimator = "published" if settings.estimator == "distance_aware" else "distance_aware"
    for split, dataset in data.items():
        descriptors = _descriptors(found[split])
        judges: list[tuple[Estimator, str]] = [(settings.estimator, split), (second, f"{split}.{second}")]
        for estimator, prefix in judges[: 2 if both else 1]:
            scores = _scores(model, descriptors, true[split], estimator)
            judged, covered = _metrics(scores, dataset, true[split], levels, settings)
            values |= {f"{prefix}.{key}": value for key, value in judged.items()}
            arrays[f"{prefix}.coverage"], arrays[f"{prefix}.uncertainty"] = covered, scores.expected
            if prefix == split:
                values |= _domain(split, scores, true[split], limit, large)
                arrays[f"{split}.distance"] = scores.distance
        arrays[f"{split}.error"] = true[split]
        arrays[f"{split}.atomic_numbers"] = dataset.atomic_numbers.numpy()
        arrays[f"{split}.structure"] = np.repeat(np.arange(len(dataset)), dataset.structure_sizes.numpy())
        arrays[f"{split}.positions"] = np.concatenate([s.positions for s in dataset.structures])
    return values, arrays


class _Scores(NamedTuple):
    """Of all N atoms of a split: NaN for an atom without a force label where its true error is needed."""

    expected: Array  # (N,) eV/Å
    distance: Array  # (N,)
    variance: Array  # (N,) (eV/Å)^2
    mean_square: Array  # (N,) (eV/Å)^2
    confidence: Array  # (N,)
    interpolated: Array  # (N,)
    nll: float
    crps: float


def _scores(
    model: LTAU, descriptors: NDArray[np.float32], true: Array, estimator: Estimator, chunk: int = 20_000
) -> _Scores:
    """Everything that needs the distributions, in chunks, so that these are never all in memory."""
    per_atom = np.full((6, len(true)), np.nan)
    totals = np.zeros(3)
    for start in range(0, len(true), chunk):
        rows = np.arange(start, min(start + chunk, len(true)))
        found = model.predict(descriptors[rows], estimator=estimator)
        spread = found.distribution.variance(), found.distribution.mean_square()
        per_atom[:4, rows] = found.expected, found.distance, *spread
        usable = np.isfinite(true[rows])
        part = found.distribution._replace(mass=found.distribution.mass[usable])
        known, n = true[rows[usable]], int(usable.sum())
        if n:
            per_atom[4, rows[usable]] = calibration.confidence(part, known)
            per_atom[5, rows[usable]] = calibration.confidence(part, known, interpolate=True)
            totals += n, n * calibration.nll(part, known), n * calibration.crps(part, known)
    e, d, v, m, c, i = per_atom
    return _Scores(e, d, v, m, c, i, nll=totals[1] / totals[0], crps=totals[2] / totals[0])


def _metrics(
    scores: _Scores, dataset: Dataset, true: Array, levels: Array, settings: UncertaintySettings
) -> tuple[dict[str, Quantity], Array]:
    usable = np.isfinite(true)
    known, expected = true[usable], scores.expected[usable]
    covered = calibration.coverage(levels, scores.confidence[usable])
    areas = calibration.miscalibration(levels, covered)
    smooth = calibration.miscalibration(levels, calibration.coverage(levels, scores.interpolated[usable]))
    values = {
        "mean_error": Quantity(float(known.mean()), "eV/Å"),
        "mean_uncertainty": Quantity(float(expected.mean()), "eV/Å"),
        "area_over": Quantity(areas.over),
        "area_under": Quantity(areas.under),
        "area": Quantity(areas.total),
        "area_interpolated": Quantity(smooth.total),
        "sharpness": Quantity(calibration.sharpness(scores.variance[usable]), "eV/Å"),
        "nll": Quantity(scores.nll),
        "crps": Quantity(scores.crps, "eV/Å"),
        "ence": Quantity(calibration.ence(np.sqrt(scores.mean_square[usable]), known, settings.bins)),
    }
    rng = np.random.default_rng(settings.seed)
    groups = np.repeat(np.arange(len(dataset)), dataset.structure_sizes.numpy())[usable]
    for key, metric in (("pearson", metrics.pearson), ("spearman", metrics.spearman)):
        values[key] = Quantity(metric(expected, known))
        if settings.bootstrap:
            interval = metrics.bootstrap(metric, expected, known, rng, settings.bootstrap, groups=groups)
            values[f"{key}_lower"], values[f"{key}_upper"] = Quantity(interval.lower), Quantity(interval.upper)
    return values, covered


def _domain(split: str, scores: _Scores, true: Array, limit: float, large: float) -> dict[str, Quantity]:
    usable = np.isfinite(true)
    distance, big = scores.distance[usable], true[usable] > large
    return {
        f"{split}.ood_fraction": Quantity(float((distance > limit).mean())),
        f"{split}.auroc": Quantity(ood.auroc(distance, big)),
        f"{split}.auroc_uncertainty": Quantity(ood.auroc(scores.expected[usable], big)),
        f"{split}.recall": Quantity(ood.recall(distance > limit, big)),
        f"{split}.large_fraction": Quantity(float(big.mean())),
    }


def _cost(
    model: LTAU,
    potential: LocalPotential,
    dataset: Dataset,
    settings: UncertaintySettings,
    dtype: torch.dtype | None,
    device: torch.device | str,
    repeats: int = 5,
) -> dict[str, Quantity]:
    """Seconds per atom of a force evaluation and of LTAU on the same batch, the best of a few repeats."""
    batch = dataset.select(
        cut(dataset, settings.max_edges, settings.max_structures)[0], dtype_of(potential, dtype), device
    )
    found = potential.predict(batch.graph)
    assert found.descriptors is not None
    descriptors = found.descriptors.cpu().numpy()

    def best(work) -> float:  # type: ignore[no-untyped-def]
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        return min(seconds) / batch.graph.n_atoms

    def evaluate() -> None:
        forces = potential.predict(batch.graph).forces
        if forces is not None and forces.is_cuda:
            torch.cuda.synchronize(forces.device)

    force = best(evaluate)
    search = best(lambda: model.expected_error(descriptors))
    distribution = best(lambda: model.predict(descriptors))
    return {
        "force_seconds_per_atom": Quantity(force, "s"),
        "search_seconds_per_atom": Quantity(search, "s"),
        "distribution_seconds_per_atom": Quantity(distribution, "s"),
        "cost_share": Quantity(search / force),
    }


def _units(arrays: Mapping[str, NDArray]) -> dict[str, str]:
    known = {"uncertainty": "eV/Å", "error": "eV/Å", "positions": "Å"}
    return {key: known.get(key.rsplit(".", 1)[-1], "") for key in arrays}
