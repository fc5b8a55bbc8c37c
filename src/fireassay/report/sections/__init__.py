"""The chapters of the report; each kind of assay brings its own.

A section's `kind` is the type of the result in `assays/NAME.json`. An assay that is not in `SECTIONS`, somebody's own,
gets the chapter of `generic`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from fireassay.report.runs import Run
from fireassay.report.sections import accuracy, dynamics, landscape, probes, stability, structure, uncertainty
from fireassay.report.sections.chapter import Section

SECTIONS: Final[Mapping[str, Section]] = {
    "accuracy": accuracy.SECTION,
    "stability": stability.SECTION,
    "structure": structure.SECTION,
    "dynamics": dynamics.SECTION,
    "landscape": landscape.SECTION,
    "probes": probes.SECTION,
    "uncertainty": uncertainty.SECTION,
}


def of_study(runs: Sequence[Run], sections: Mapping[str, Section] = SECTIONS) -> dict[str, Section]:
    """The sections of a report on these runs: all, but for optional ones that no run has."""
    return {
        name: section
        for name, section in sections.items()
        if not section.optional or any(name in run.assays or name in run.left_out for run in runs)
    }


KINDS: Final[Mapping[str, type]] = {name: section.kind for name, section in SECTIONS.items()}
