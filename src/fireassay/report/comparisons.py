"""Every comparison of two potentials that the report makes, decided once, for its tables and its prose alike.

The family of comparisons is all pairs of potentials, on all splits, by forces and by energy, and by survival; p values
are corrected for all of them (Holm). With more than `ALL` potentials only those with the best of each question are
made, and corrected for the whole family still.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fireassay.records.accuracy import AccuracyResult, SplitAccuracy
from fireassay.records.stability import StabilityResult
from fireassay.report.runs import Run, split_names, with_result
from fireassay.statistics.multiple import holm
from fireassay.statistics.paired import PairedComparison, compare_errors
from fireassay.statistics.survival import SurvivalComparison, compare_survival

R = TypeVar("R")
Quantity = Literal["forces", "energy"]
QUANTITIES: tuple[Quantity, ...] = ("forces", "energy")
ALL = 10  # potentials of which all pairs are compared


@dataclass(frozen=True)
class ErrorComparison:
    """Two potentials on one split by the RMSE of one quantity; `p` is corrected. `better` is None without a decision.

    `found` is in eV/Å or eV/atom, first minus second.
    """

    first: Run
    second: Run
    split: str
    quantity: Quantity
    found: PairedComparison
    p: float
    better: Run | None


@dataclass(frozen=True)
class SurvivalJudged:
    """Two potentials by survival under one protocol from one start; `p` is corrected; times in fs."""

    first: Run
    second: Run
    found: SurvivalComparison
    p: float
    longer: Run | None


@dataclass(frozen=True)
class Comparisons:
    """All that was compared. `family` is how many comparisons the p values are corrected for."""

    errors: list[ErrorComparison]
    survival: list[SurvivalJudged]
    family: int
    significance: float

    def of_errors(self, a: Run, b: Run, split: str, quantity: Quantity) -> ErrorComparison | None:
        """The comparison of two potentials, whichever came first."""
        pair = {a.index, b.index}
        return next(
            (
                c
                for c in self.errors
                if c.split == split and c.quantity == quantity and {c.first.index, c.second.index} == pair
            ),
            None,
        )

    def of_survival(self, a: Run, b: Run) -> SurvivalJudged | None:
        """The comparison of two potentials, whichever came first."""
        pair = {a.index, b.index}
        return next((c for c in self.survival if {c.first.index, c.second.index} == pair), None)


def compare_all(runs: Sequence[Run], significance: float) -> Comparisons:
    """Every comparison that the records allow. Training frames decide nothing and are left out."""
    errors: list[tuple[Run, Run, str, Quantity, PairedComparison]] = []
    family = 0
    confidence = 1 - significance
    for split in split_names(runs, AccuracyResult, training=False):
        for quantity in QUANTITIES:
            scored = [(run, _squares(run, split, quantity)) for run in runs]
            members = [(run, sums) for run, sums in scored if sums is not None]
            family += len(members) * (len(members) - 1) // 2
            ordered = sorted(members, key=lambda member: member[1].rank)
            for (a, x), (b, y) in _pairs(ordered):
                if x.fingerprint != y.fingerprint:
                    family -= len(members) <= ALL
                    continue
                a, x, b, y = (a, x, b, y) if a.index < b.index else (b, y, a, x)
                found = compare_errors(x.squares, y.squares, x.count, x.groups, confidence)
                errors.append((a, b, split, quantity, found))
    survivals: list[tuple[Run, Run, SurvivalComparison]] = []
    tested = with_result(runs, StabilityResult)
    tested.sort(key=lambda pair: -float(pair[1].curve.mean or pair[1].time_to_failure.mean()))
    family += len(tested) * (len(tested) - 1) // 2
    for (a, x), (b, y) in _pairs(tested):
        if protocol_differences(x, y):
            family -= len(tested) <= ALL
            continue
        a, x, b, y = (a, x, b, y) if a.index < b.index else (b, y, a, x)
        survivals.append((a, b, compare_survival(x.time_to_failure, x.failed, y.time_to_failure, y.failed, confidence)))
    p = holm([*(e[4].p for e in errors), *(s[2].p for s in survivals)], family)
    return Comparisons(
        [
            ErrorComparison(*e, p=float(q), better=_who(e[0], e[1], e[4].better(significance, float(q))))
            for e, q in zip(errors, p[: len(errors)], strict=True)
        ],
        [
            SurvivalJudged(*s, p=float(q), longer=_who(s[0], s[1], s[2].longer(significance, float(q))))
            for s, q in zip(survivals, p[len(errors) :], strict=True)
        ],
        family,
        significance,
    )


def _pairs(members: Sequence[tuple[Run, R]]) -> Iterator[tuple[tuple[Run, R], tuple[Run, R]]]:
    if len(members) <= ALL:
        yield from combinations(members, 2)
    else:
        yield from ((members[0], other) for other in members[1:])


def _who(first: Run, second: Run, name: Literal["first", "second"] | None) -> Run | None:
    return None if name is None else first if name == "first" else second


@dataclass(frozen=True)
class _Sums:
    """Sums of squared errors of S frames, infinite where the potential diverged, and how many values each has."""

    squares: NDArray[np.float64]
    count: NDArray[np.float64]
    groups: NDArray[np.int64] | None
    fingerprint: str

    @property
    def rank(self) -> tuple[int, float]:
        """Smaller is better: first the frames on which it diverged."""
        fine = np.isfinite(self.squares) & (self.count > 0)
        total = float(self.count[fine].sum())
        lost = int((~np.isfinite(self.squares) & (self.count > 0)).sum())
        return lost, float(self.squares[fine].sum()) / total if total else np.inf


def _squares(run: Run, split: str, quantity: Quantity) -> _Sums | None:
    result = run.result(AccuracyResult)
    data = result.splits.get(split) if result else None
    if data is None:
        return None
    squares, count = frame_squares(data, quantity)
    if not (count > 0).any():
        return None
    groups = data.group if (data.group >= 0).any() else None
    return _Sums(squares, count, groups, data.fingerprint)


def frame_squares(data: SplitAccuracy, quantity: Quantity) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per frame (S,) the sum of squared errors, infinite where a prediction is not finite, and how many there are."""
    frames = data.frames
    if quantity == "energy":
        sizes = np.maximum(np.bincount(data.structure, minlength=frames), 1)
        error = (data.energy_predicted - data.energy_reference) / sizes
        known = np.isfinite(data.energy_reference)
        return np.where(np.isfinite(error), error**2, np.where(known, np.inf, 0.0)), known.astype(np.float64)
    known = np.isfinite(data.forces_reference).all(1)
    error = np.square(data.forces_predicted - data.forces_reference).sum(1)
    error = np.where(known, np.where(np.isfinite(error), error, np.inf), 0.0)
    count = 3.0 * np.bincount(data.structure, known, frames)
    return np.bincount(data.structure, error, frames).astype(np.float64), count.astype(np.float64)


def protocol_differences(first: StabilityResult, second: StabilityResult) -> list[str]:
    """In what two stability assays differ, so that their survival cannot be compared; empty when it can."""
    a, b = first.protocol, second.protocol
    names = [name for name in {**a.settings, **b.settings} if a.settings.get(name) != b.settings.get(name)]
    for name in ("temperature", "timestep", "duration", "thermostat", "criteria"):
        if getattr(a, name) != getattr(b, name) and name not in names:
            names.append(name)
    return [*names, *(["start"] if first.start.fingerprint != second.start.fingerprint else [])]
