"""Assays: each puts one question to a potential and answers with an `AssayResult`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fireassay.assays import accuracy, landscape, stability, uncertainty
from fireassay.records import AssayResult
from fireassay.settings import Settings


class Assay(NamedTuple):
    """An assay's settings and the function that carries it out."""

    settings: type[Settings]
    run: Callable[..., AssayResult]


ASSAYS: dict[str, Assay] = {
    "accuracy": Assay(accuracy.AccuracySettings, accuracy.run),
    "stability": Assay(stability.StabilitySettings, stability.run),
    "landscape": Assay(landscape.LandscapeSettings, landscape.run),
    "uncertainty": Assay(uncertainty.UncertaintySettings, uncertainty.run),
}
