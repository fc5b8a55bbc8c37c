"""The shape that every chapter of the report has, and what a kind of assay brings to the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fireassay.records import renewal
from fireassay.report.figures import Figure
from fireassay.report.runs import Run
from fireassay.report.study import Study
from fireassay.report.tables import Table

PAGE = 10  # potentials in one figure: as many as there are colours that stay apart


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


@dataclass(frozen=True)
class Section:
    """What one kind of assay brings: the type of its result, its chapter, and its sentences of the methods.

    A sentence of the methods comes with the keys of the papers that it cites. `weights` says that the assay cannot be
    had of a calculator; an `optional` one is not missed unless some potential has it.
    """

    kind: type
    chapter: Callable[[Study], Chapter]
    methods: Callable[[Sequence[Run]], list[tuple[str, list[str]]]]
    weights: bool = False
    optional: bool = False


def missing_assay(runs: Sequence[Run], assay: str, weights: bool = False) -> list[tuple[str, str]]:
    """For each run without the assay the sentence, and the command that produces it."""
    lines = []
    for run in runs:
        if assay in run.assays:
            continue
        stale = run.left_out.get(assay)
        if stale is not None:
            lines.append((f"The {assay} assay of {run.label} {stale.reason} and is left out.", stale.command))
        elif run.calculator and weights:
            lines.append(
                (f"{run.label} is a calculator without weights and descriptors of its own: no {assay} assay.", "")
            )
        else:
            lines.append((f"{run.label} has no {assay} assay.", renewal(run.folder, assay)))
    return lines


def paged(members: Sequence[Any], make: Callable[[Sequence[Any]], Sequence[Figure]]) -> list[Figure]:
    """The figures of at most `PAGE` potentials each; `members` are runs, or pairs that start with one."""
    pages = [members[start : start + PAGE] for start in range(0, len(members), PAGE)]
    if len(pages) == 1:
        return list(make(members))
    figures = []
    for number, page in enumerate(pages, start=1):
        for figure in make(page):
            id = figure.id if number == 1 else f"{figure.id}-{number}"
            figures.append(replace(figure, id=id, title=f"{figure.title} ({number} of {len(pages)})"))
    return sorted(figures, key=lambda figure: [f.id for f in figures].index(_first(figure.id)))


def _first(id: str) -> str:
    stem, _, tail = id.rpartition("-")
    return stem if tail.isdigit() else id
