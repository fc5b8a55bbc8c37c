"""The chapters of the report; each kind of assay brings its own.

A section's `kind` is the type of the result in `assays/NAME.json`. An assay that is not in `SECTIONS`, somebody's own,
gets the chapter of `generic`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fireassay.report.sections import accuracy, landscape, probes, stability, uncertainty
from fireassay.report.sections.chapter import Section

SECTIONS: Final[Mapping[str, Section]] = {
    "accuracy": accuracy.SECTION,
    "stability": stability.SECTION,
    "landscape": landscape.SECTION,
    "probes": probes.SECTION,
    "uncertainty": uncertainty.SECTION,
}

KINDS: Final[Mapping[str, type]] = {name: section.kind for name, section in SECTIONS.items()}
