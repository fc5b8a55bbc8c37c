"""Assay: does LTAU predict how wrong each atom's force is, and does it know where it does not?

Source: LTAU-FF (Vita, Samanta, Zhou & Lordi), sections 3.4 and 4.1, Appendices A and D. The error of an atom is the
norm of its force error in eV/Å, as in the trajectory. Metrics are defined in `fireassay.uncertainty.calibration` and
`fireassay.uncertainty.ood`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from fireassay import metrics
from fireassay.assays.assay import Assay, Need, Subject
from fireassay.assays.predictions import Predictions, cut, dataset_for, datasets_for, predict
from fireassay.data.datasets import Dataset
from fireassay.data.fingerprint import fingerprint
from fireassay.data.split import group_numbers
from fireassay.errors import InputError
from fireassay.potential import LocalPotential
from fireassay.records.uncertainty import Calibration, Cost, Domain, Estimate, SplitUncertainty, UncertaintyResult
from fireassay.settings import Settings
from fireassay.statistics.interval import jackknife
from fireassay.statistics.units import Units, units_of
from fireassay.uncertainty import calibration, ood
from fireassay.uncertainty.ltau import LEAST_HELD_OUT, LTAU, Estimator
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
    intervals: bool = Field(default=True, description="95 % intervals, by leaving out independent units of frames")
    max_edges: int = Field(default=10_000, ge=1, description="edges of one batch")
    max_structures: int = Field(default=256, ge=1, description="structures of one batch")


def run(subject: Subject, settings: UncertaintySettings) -> UncertaintyResult:
    """Judges LTAU's error estimates on each test split that has forces.

    With ten or more held-out atoms that have forces among the subject's validation frames, the distance-aware estimator
    is calibrated on them and judged beside the published one. An atom without a force label is NaN in `error`, one
    whose predicted force is not finite has an infinite error: it is a large error, and no interval covers it.

    Raises InputError when the error trajectory is of other frames, no split can be judged, or the distance-aware
    estimator lacks held-out frames.
    """
    potential = subject.predictor
    assert isinstance(potential, LocalPotential)
    _check_trajectory(subject)
    held = [s for s in subject.validation if s.forces is not None]
    held = held if sum(map(len, held)) >= LEAST_HELD_OUT else []
    if settings.estimator == "distance_aware" and not held:
        raise InputError("estimator distance_aware needs held-out frames for its calibration; give validation frames")
    forced = {split: frames for split, frames in subject.test.items() if any(s.forces is not None for s in frames)}
    data, refused = datasets_for(potential, forced)
    for split, reason in refused.items():
        subject.tell(f"uncertainty: split {split} is left out: {reason}")
    if not data:
        raise InputError(f"uncertainty: no split can be judged; {'; '.join(f'{k}: {v}' for k, v in refused.items())}")
    frames = len(subject.train) + len(held) + sum(len(d) for d in data.values())
    subject.progress.start(f"uncertainty of {subject.name}", frames)
    try:
        model = _fitted(subject, settings)
        if held:
            _calibrate(model, subject, dataset_for(potential, held), settings)
        found = {split: _ask(subject, dataset, settings) for split, dataset in data.items()}
    finally:
        subject.progress.stop()
    return _judged(subject, model, data, found, settings, refused, both=bool(held))


ASSAY = Assay(
    "uncertainty",
    UncertaintySettings,
    (Need.DESCRIPTORS, Need.ERROR_TRAJECTORIES, Need.TRAINING_FORCES, Need.TEST_FORCES),
    run,
)


def _check_trajectory(subject: Subject) -> None:
    """Raises InputError when the error trajectory is not that of the training frames, by their fingerprint."""
    assert subject.errors is not None
    sizes, errors = np.array([len(s) for s in subject.train]), subject.errors
    own = fingerprint(subject.train)
    if np.array_equal(sizes, errors.structure_sizes) and errors.frames in ("", own):
        return
    raise InputError(
        f"the error trajectories are of {len(errors.structure_sizes)} frames with {len(errors.counts)} atoms "
        f"(fingerprint {errors.frames or 'unknown'}), data.train gives {len(sizes)} with {sizes.sum()} ({own}); "
        "leave data.train and data.validation as they were in training"
    )


def _ask(subject: Subject, dataset: Dataset, settings: UncertaintySettings, forces: bool = True) -> Predictions:
    return predict(
        subject.predictor,
        dataset,
        forces=forces,
        descriptors=True,
        device=subject.device,
        max_edges=settings.max_edges,
        max_structures=settings.max_structures,
        progress=subject.progress,
    )


def _fitted(subject: Subject, settings: UncertaintySettings) -> LTAU:
    assert subject.errors is not None
    known = _ask(subject, dataset_for(subject.predictor, subject.train), settings, forces=False)
    model = LTAU(settings.k, settings.estimator, settings.index, settings.standardise, settings.exponent)
    return model.fit(_descriptors(known), subject.errors)


def _descriptors(found: Predictions) -> NDArray[np.float32]:
    assert found.descriptors is not None
    return found.descriptors


def _true_errors(dataset: Dataset, found: Predictions) -> Array:
    """|F_ref - F_pred| (N,) in eV/Å; NaN without a label, infinite where the prediction is not finite."""
    assert found.forces is not None
    norm = np.linalg.norm(dataset.labels.forces.numpy() - found.forces, axis=1)
    finite = np.isfinite(norm) & np.isfinite(_descriptors(found)).all(1)
    return np.where(dataset.labels.has_forces.numpy(), np.where(finite, norm, np.inf), np.nan)


def _calibrate(model: LTAU, subject: Subject, dataset: Dataset, settings: UncertaintySettings) -> None:
    found = _ask(subject, dataset, settings)
    true = _true_errors(dataset, found)
    usable = np.isfinite(true)
    model.calibrate(_descriptors(found)[usable], true[usable])


def _judged(
    subject: Subject,
    model: LTAU,
    data: Mapping[str, Dataset],
    found: Mapping[str, Predictions],
    settings: UncertaintySettings,
    refused: dict[str, str],
    both: bool,
) -> UncertaintyResult:
    true = {split: _true_errors(dataset, found[split]) for split, dataset in data.items()}
    pooled = np.concatenate(list(true.values()))
    pooled = pooled[np.isfinite(pooled)]
    large = settings.large_error or (float(np.quantile(pooled, 0.9)) if len(pooled) else 0.0)
    limit = settings.ood_cutoff or ood.knee(model.training_distances_)
    second: Estimator = "published" if settings.estimator == "distance_aware" else "distance_aware"
    estimators = (settings.estimator, second) if both else (settings.estimator,)
    levels = np.linspace(0.0, 1.0, settings.levels)
    largest = max(data.values(), key=len)
    return UncertaintyResult(
        splits={
            split: _split(model, dataset, _descriptors(found[split]), true[split], estimators, levels, limit, large,
                          settings)
            for split, dataset in data.items()
        },
        refused=refused,
        estimator=settings.estimator,
        k=model.k,
        n_training_atoms=len(model.atoms_),
        training_frames=fingerprint(subject.train),
        ood_cutoff=limit,
        large_error=large,
        distance_exponent=model.exponent_ if both else None,
        levels=levels,
        training_distances=np.sort(model.training_distances_),
        cost=_cost(model, subject, largest, settings),
    )  # fmt: skip


def _split(
    model: LTAU,
    dataset: Dataset,
    descriptors: NDArray[np.float32],
    true: Array,
    estimators: tuple[Estimator, ...],
    levels: Array,
    limit: float,
    large: float,
    settings: UncertaintySettings,
) -> SplitUncertainty:
    scores = {estimator: _scores(model, descriptors, true, estimator) for estimator in estimators}
    own = scores[estimators[0]]
    sizes = dataset.structure_sizes.numpy()
    frame = np.repeat(np.arange(len(sizes)), sizes)
    finite = np.isfinite(true)
    units = _units(dataset, frame, true, own.expected)
    judged = _Judge(frame, units, settings.intervals)
    return SplitUncertainty(
        frames=len(dataset),
        fingerprint=fingerprint(dataset.structures),
        units=units.count,
        units_by=units.kind,
        not_finite=int(np.isinf(true).sum()),
        mean_error=float(true[finite].mean()) if finite.any() else None,
        estimators={name: _calibration(s, judged, true, levels, settings) for name, s in scores.items()},
        domain=_domain(own, judged, true, limit, large),
        error=true,
        distance=own.distance,
        atomic_numbers=dataset.atomic_numbers.numpy(),
        structure=frame,
        positions=np.concatenate([s.positions for s in dataset.structures]),
    )


def _units(dataset: Dataset, frame: NDArray[np.int64], true: Array, expected: Array) -> Units:
    """The independent units of the frames, by the mean true and predicted errors of each."""
    usable = np.isfinite(true) & np.isfinite(expected)
    counts = np.maximum(np.bincount(frame[usable], minlength=len(dataset)), 1)
    means = [np.bincount(frame[usable], x[usable], len(dataset)) / counts for x in (true, expected)]
    return units_of(np.stack(means, axis=1), group_numbers(dataset.structures))


class _Judge(NamedTuple):
    """Intervals of statistics over the atoms (N,) of a split, whose `frame` (N,) belongs to independent units."""

    frame: NDArray[np.int64]
    units: Units
    wanted: bool

    def estimate(
        self, metric: metrics.Metric, x: Array, y: Array, used: NDArray[np.bool_], bounds: tuple[float, float]
    ) -> Estimate:
        """`metric` of x and y (N,) over the atoms `used` (N,)."""
        a, b = x[used], y[used]
        if not self.wanted:
            return Estimate(value=metric(a, b))
        found = jackknife(lambda kept: metric(a[kept], b[kept]), self.frame[used], self.units, bounds=bounds)
        low, high = (end if np.isfinite(end) else None for end in (found.low, found.high))
        return Estimate(value=found.value, low=low, high=high)


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
    """Everything that needs the distributions, in chunks, so that these are never all in memory.

    An atom without finite descriptors is infinitely far, and so is its predicted error.
    """
    per_atom = np.full((6, len(true)), np.nan)
    placed = np.isfinite(descriptors.sum(axis=1))
    per_atom[:2, ~placed] = np.inf
    totals = np.zeros(3)
    for start in range(0, len(true), chunk):
        rows = start + np.flatnonzero(placed[start : start + chunk])
        if not len(rows):
            continue
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
    per_atom[4:, np.isinf(true)] = 1.0  # never covered
    e, d, v, m, c, i = per_atom
    with np.errstate(invalid="ignore"):
        return _Scores(e, d, v, m, c, i, nll=totals[1] / totals[0], crps=totals[2] / totals[0])


def _calibration(
    scores: _Scores, judge: _Judge, true: Array, levels: Array, settings: UncertaintySettings
) -> Calibration:
    finite, labelled = np.isfinite(true), ~np.isnan(true)
    known, expected = true[finite], scores.expected[finite]
    published = calibration.coverage(levels, scores.confidence[labelled])
    covered = calibration.coverage(levels, scores.interpolated[labelled])
    areas = calibration.miscalibration(levels, covered)

    def area(confidences: ArrayLike, _: ArrayLike) -> float:
        return calibration.miscalibration(levels, calibration.coverage(levels, confidences)).total

    return Calibration(
        mean_uncertainty=float(expected.mean()),
        area=judge.estimate(area, scores.interpolated, true, labelled, (0.0, 0.5)),
        over=areas.over,
        under=areas.under,
        published=calibration.miscalibration(levels, published).total,
        sharpness=calibration.sharpness(scores.variance[finite]),
        nll=scores.nll,
        crps=scores.crps,
        ence=calibration.ence(np.sqrt(scores.mean_square[finite]), known, settings.bins),
        pearson=judge.estimate(metrics.pearson, scores.expected, true, finite, (-1.0, 1.0)),
        spearman=judge.estimate(metrics.spearman, scores.expected, true, finite, (-1.0, 1.0)),
        coverage=covered,
        coverage_published=published,
        uncertainty=scores.expected,
    )


def _domain(scores: _Scores, judge: _Judge, true: Array, limit: float, large: float) -> Domain:
    labelled = ~np.isnan(true)
    big, outside = true > large, scores.distance > limit
    some, both = bool(big[labelled].any()), bool(big[labelled].any() and not big[labelled].all())

    def judged(metric: metrics.Metric, x: Array) -> Estimate:
        return judge.estimate(metric, x, big.astype(np.float64), labelled, (0.0, 1.0))

    return Domain(
        atoms=int(labelled.sum()),
        large=int(big[labelled].sum()),
        outside=int(outside[labelled].sum()),
        outside_fraction=float(outside[labelled].mean()),
        auroc=judged(ood.auroc, scores.distance) if both else None,
        auroc_uncertainty=judged(ood.auroc, scores.expected) if both else None,
        recall=judged(ood.recall, outside.astype(np.float64)) if some else None,
    )


def _cost(model: LTAU, subject: Subject, dataset: Dataset, settings: UncertaintySettings, repeats: int = 5) -> Cost:
    """Seconds per atom of a force evaluation and of LTAU on the same batch, the best of a few repeats."""
    first = cut(dataset, settings.max_edges, settings.max_structures)[0]
    batch = dataset.select(first, subject.predictor.dtype, subject.device)
    described = subject.predictor.predict(batch.graph).descriptors
    assert described is not None
    descriptors = np.nan_to_num(described.cpu().numpy())

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        return min(seconds) / batch.graph.n_atoms

    def evaluate() -> None:
        forces = subject.predictor.predict(batch.graph).forces
        if forces is not None and forces.is_cuda:
            torch.cuda.synchronize(forces.device)

    force = best(evaluate)
    search = best(lambda: model.expected_error(descriptors))
    distribution = best(lambda: model.predict(descriptors))
    return Cost(force=force, search=search, distribution=distribution, share=search / force)
