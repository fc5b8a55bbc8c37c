"""The shape that every chapter of the report has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fireassay.report.figures import Figure
from fireassay.report.runs import Run
from fireassay.report.tables import Table


@dataclass(frozen=True)
class Chapter:
    """Figures and tables under one heading; `missing` says in one line each what was not recorded."""

    id: str
    title: str
    lead: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)  # a sentence, the command that fills the gap


def missing_assay(runs: Sequence[Run], assay: str, what: str) -> list[tuple[str, str]]:
    """For each run without the assay, the sentence and the command that produces it."""
    return [
        (f"{run.label} has no {what}.", f"fireassay assay {assay} {run.folder}")
        for run in runs
        if assay not in run.assays
    ]
