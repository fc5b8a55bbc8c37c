"""Assays: each puts one question to a potential and answers with a record of its own type."""

from __future__ import annotations

from fireassay.assays import accuracy, dynamics, landscape, probes, stability, structure, uncertainty
from fireassay.assays.assay import Assay

ASSAYS: dict[str, Assay] = {
    "accuracy": accuracy.ASSAY,
    "stability": stability.ASSAY,
    "structure": structure.ASSAY,
    "dynamics": dynamics.ASSAY,
    "landscape": landscape.ASSAY,
    "probes": probes.ASSAY,
    "uncertainty": uncertainty.ASSAY,
}
