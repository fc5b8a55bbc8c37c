"""The shape that every chapter of the report has."""

from __future__ import annotations

import shlex
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
    missing: list[tuple[str, str]] = field(
        default_factory=list
    )  # a sentence, the command that fills the gap or nothing


def missing_assay(runs: Sequence[Run], assay: str, what: str) -> list[tuple[str, str]]:
    """For each run without the assay, the sentence and the command that produces it."""
    weights = assay in ("landscape", "uncertainty")
    return [
        (f"{run.label} is a calculator without weights and descriptors of its own: no {what}.", "")
        if run.calculator and weights
        else (f"{run.label} has no {what}.", command(run, assay))
        for run in runs
        if assay not in run.assays
    ]


def command(run: Run, assay: str) -> str:
    """What to type for an assay that is missing."""
    return f"fireassay assay {shlex.quote(str(run.folder))} {assay}"
