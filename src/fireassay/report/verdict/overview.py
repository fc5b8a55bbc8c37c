"""The table at the top: one row per potential, one graded cell per question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fireassay.report.runs import Run, split_names
from fireassay.report.style import brief, digits
from fireassay.report.verdict.advice import md_temperature, survival_of
from fireassay.report.verdict.finding import Criteria

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
    splits = split_names(runs, "accuracy", training=False)
    md = any("stability" in run.assays for run in runs)
    bars = split_names(runs, "uncertainty", training=False)
    hottest = bars[-1:] if bars else []
    columns = [f"forces at {s}" for s in splits] + (["MD"] if md else []) + [f"error bars at {s}" for s in hottest]
    rows = []
    for run in runs:
        row = [_accuracy_cell(run, split, criteria) for split in splits]
        row += [_stability_cell(run, criteria)] if md else []
        row += [_bars_cell(run, split, criteria) for split in hottest]
        rows.append(row)
    return columns, rows


_MISSING = Cell("–", "not measured", "none")


def _accuracy_cell(run: Run, split: str, criteria: Criteria) -> Cell:
    error = run.number("accuracy", f"{split}.forces.rmse")
    share = run.number("accuracy", f"{split}.forces.rmse_percent")
    if error is None:
        return _MISSING
    grade: Grade = "none"
    if share is not None:
        grade = "good" if share <= criteria.accurate else "fair" if share <= criteria.usable else "poor"
    word = {"good": "accurate", "fair": "usable", "poor": "too large", "none": ""}[grade]
    note = f"{digits(share, 2)} % · {word}" if share is not None else ""
    return Cell(f"{digits(1000 * error)} meV/Å", note, grade, "table-accuracy")


def _stability_cell(run: Run, criteria: Criteria) -> Cell:
    survival = survival_of(run)
    if survival is None:
        return _MISSING
    kelvin, share = md_temperature(run), survival.share
    grade: Grade = "good" if share == 1 else "fair" if share >= criteria.survival else "poor"
    word = {"good": "no failure seen", "fair": "rare failures", "poor": "breaks"}[grade]
    where = f" at {brief(kelvin)} K" if kelvin is not None else ""
    return Cell(f"{survival} alive", f"{word}{where}", grade, "figure-survival")


def _bars_cell(run: Run, split: str, criteria: Criteria) -> Cell:
    area = run.number("uncertainty", f"{split}.area")
    if area is None:
        return _MISSING
    over, under = (run.number("uncertainty", f"{split}.area_{side}") or 0.0 for side in ("over", "under"))
    grade: Grade = "good" if area <= criteria.calibrated else "fair" if area <= criteria.misleading else "poor"
    word = "honest" if grade == "good" else "overconfident" if over >= under else "underconfident"
    return Cell(f"|A| {digits(area, 2)}", word, grade, "figure-calibration")
