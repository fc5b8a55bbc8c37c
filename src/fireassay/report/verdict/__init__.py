"""Which potential to trust, where, and why: plain sentences, each with the numbers and files that it rests on.

Rules, not taste. A difference is stated only when it exceeds its noise among independent units of frames, or of
trajectories, with all comparisons of the report taken together (`fireassay.report.comparisons`, which decides for the
tables, too). Who alone gives no finite prediction has lost. What was not measured is said.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fireassay.report.criteria import Criteria
from fireassay.report.runs import Run
from fireassay.report.study import Study
from fireassay.report.verdict.advice import advice
from fireassay.report.verdict.cautions import cautions
from fireassay.report.verdict.confidence import confidence, entropy
from fireassay.report.verdict.finding import Finding
from fireassay.report.verdict.overview import Cell, overview
from fireassay.report.verdict.ranking import (
    accuracy_findings,
    accuracy_rankings,
    headline,
    stability_findings,
    stability_rankings,
)

__all__ = ["Cell", "Criteria", "Finding", "Verdict", "verdict"]


@dataclass(frozen=True)
class Verdict:
    """The top of the report."""

    headline: str
    advice: list[Finding]
    reasons: list[Finding]
    cautions: list[Finding]
    columns: list[str]
    overview: list[tuple[Run, list[Cell]]] = field(default_factory=list)


def verdict(study: Study) -> Verdict:
    """Weighs the records."""
    runs, criteria = study.runs, study.criteria
    columns, cells = overview(runs, criteria)
    forces = accuracy_rankings(study, "forces")
    energies = accuracy_rankings(study, "energy")
    survival = stability_rankings(study)
    reasons = [
        *accuracy_findings(forces, study, "forces"),
        *accuracy_findings(energies, study, "energy"),
        *stability_findings(survival),
        *confidence(runs, criteria),
        *entropy(runs, criteria.significance),
    ]
    return Verdict(
        headline=headline(study, forces, survival),
        advice=[finding for run in runs for finding in advice(run, criteria)],
        reasons=reasons,
        cautions=cautions(study),
        columns=columns,
        overview=list(zip(runs, cells, strict=True)),
    )
