"""The table at the top: one row per potential, one graded cell per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fireassay.records.accuracy import AccuracyResult
from fireassay.records.stability import StabilityResult
from fireassay.records.structure import StructureResult
from fireassay.records.trajectories import Likeness
from fireassay.records.uncertainty import UncertaintyResult
from fireassay.report.criteria import Criteria
from fireassay.report.runs import Run, split_names
from fireassay.report.style import brief, digits
from fireassay.report.verdict.advice import md_temperature, survival_of
from fireassay.report.verdict.confidence import calibration_of, honesty_of

Grade = Literal["good", "fair", "poor", "none"]


@dataclass(frozen=True)
class Cell:
    """One field of the overview: a number, what it means, and its grade."""

    text: str
    note: str
    grade: Grade
    href: str = ""


def overview(runs: Sequence[Run], criteria: Criteria) -> tuple[list[str], list[list[Cell]]]:
    """The columns' headings, and a row of cells for each run."""
    splits = split_names(runs, AccuracyResult, training=False)
    md = any(run.result(StabilityResult) is not None for run in runs)
    shapes = any(_likeness(run) is not None for run in runs)
    bars = split_names(runs, UncertaintyResult, training=False)
    hottest = bars[-1:] if bars else []
    columns = [f"forces at {s}" for s in splits] + (["MD"] if md else []) + (["structure"] if shapes else [])
    columns += [f"error bars at {s}" for s in hottest]
    rows = []
    for run in runs:
        row = [_accuracy_cell(run, split, criteria) for split in splits]
        row += [_stability_cell(run, criteria)] if md else []
        row += [_structure_cell(run, criteria)] if shapes else []
        row += [_bars_cell(run, split, criteria) for split in hottest]
        rows.append(row)
    return columns, rows


_MISSING = Cell("–", "not measured", "none")


def _accuracy_cell(run: Run, split: str, criteria: Criteria) -> Cell:
    result = run.result(AccuracyResult)
    data = result.splits.get(split) if result is not None else None
    if data is None:
        return _MISSING
    if data.not_finite:
        note = f"{data.not_finite} of {data.frames} frames not finite"
        return Cell("diverges", note, "poor", "table-accuracy")
    if data.forces is None or data.forces.rmse is None:
        return _MISSING
    share = data.forces.rmse_percent
    grade: Grade = "none"
    if share is not None:
        grade = "good" if share <= criteria.accurate else "fair" if share <= criteria.usable else "poor"
    word = {"good": "accurate", "fair": "usable", "poor": "too large", "none": ""}[grade]
    note = f"{digits(share, 2)} % · {word}" if share is not None else ""
    return Cell(f"{digits(1000 * data.forces.rmse)} meV/Å", note, grade, "table-accuracy")


def _stability_cell(run: Run, criteria: Criteria) -> Cell:
    survival, kelvin = survival_of(run), md_temperature(run)
    if survival is None or kelvin is None:
        return _MISSING
    outcome = survival.outcome(criteria)
    grade: Grade = {"stable": "good", "undecided": "fair", "breaks": "poor"}[outcome]  # type: ignore[assignment]
    word = {"stable": "stable", "undecided": "too few to tell", "breaks": "breaks"}[outcome]
    if outcome == "undecided" and survival.alive == survival.trajectories:
        word = "no failure seen"
    return Cell(f"{survival} alive", f"{word} at {brief(kelvin)} K", grade, "figure-survival")


def _likeness(run: Run) -> tuple[str, Likeness] | None:
    """The kind of the distribution of all pairs, and how far it is from its first reference."""
    result = run.result(StructureResult)
    whole = next((d for d in result.distributions if d.name == "all" and d.likeness), None) if result else None
    return None if whole is None else (whole.kind, next(iter(whole.likeness.values())))


def _structure_cell(run: Run, criteria: Criteria) -> Cell:
    """Right or off by the limit; a trajectory that failed is worse than either."""
    found, result = _likeness(run), run.result(StructureResult)
    if found is None or result is None:
        return _MISSING
    kind, likeness = found
    if kind == "rdf" and likeness.wright is not None:
        right, text = likeness.wright <= criteria.wright, f"WF {digits(likeness.wright, 2)} %"
    else:
        limit = max(criteria.overlap, 2 * (likeness.jensen_shannon_floor or 0.0))
        right, text = likeness.jensen_shannon <= limit, f"JSD {digits(likeness.jensen_shannon, 2)} bit"
    failed = len({f.replica for f in result.failures})
    if failed:
        return Cell(text, f"{failed} of {result.sampled_from.replicas} trajectories failed", "poor", "table-structure")
    word = "as the reference" if right else "another structure"
    note = f"{word} at {brief(result.sampled_from.temperature)} K"
    return Cell(text, note, "good" if right else "poor", "table-structure")


def _bars_cell(run: Run, split: str, criteria: Criteria) -> Cell:
    found = calibration_of(run, split)
    if found is None:
        return _MISSING
    honesty = honesty_of(found, criteria)
    grade: Grade = "good" if honesty == "honest" else "poor" if found.area.value > criteria.misleading else "fair"
    return Cell(f"|A| {digits(found.area.value, 2)}", honesty, grade, "figure-calibration")
