"""Which potential to trust, where, and why: plain sentences, each with the numbers and files that it rests on.

Rules, not taste. A difference is stated only when it exceeds its noise (paired bootstrap of the force RMSE, log-rank
test of survival, both corrected by Bonferroni for the number of comparisons with the best). What was not measured is
said. Loss entropies are compared within one architecture only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fireassay.report.runs import Run
from fireassay.report.verdict.advice import advice
from fireassay.report.verdict.cautions import cautions
from fireassay.report.verdict.confidence import confidence, entropy
from fireassay.report.verdict.finding import Criteria, Finding
from fireassay.report.verdict.overview import Cell, overview
from fireassay.report.verdict.ranking import (
    accuracy_findings,
    accuracy_rankings,
    headline,
    stability_findings,
    stability_ranking,
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


def verdict(runs: Sequence[Run], criteria: Criteria) -> Verdict:
    """Weighs the records."""
    columns, cells = overview(runs, criteria)
    forces = accuracy_rankings(runs, criteria, "forces")
    energies = accuracy_rankings(runs, criteria, "energy")
    survival = stability_ranking(runs, criteria)
    reasons = [
        *accuracy_findings(forces, criteria, "forces"),
        *accuracy_findings(energies, criteria, "energy"),
        *stability_findings(survival),
        *confidence(runs, criteria),
        *entropy(runs),
    ]
    return Verdict(
        headline=headline(runs, forces, survival, criteria),
        advice=[finding for run in runs for finding in advice(run, criteria)],
        reasons=reasons,
        cautions=cautions(runs),
        columns=columns,
        overview=list(zip(runs, cells, strict=True)),
    )
