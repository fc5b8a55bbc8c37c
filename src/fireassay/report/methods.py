"""The methods paragraph, generated from the settings in the records, and the papers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fireassay.report.criteria import Criteria
from fireassay.report.runs import Run, Source
from fireassay.report.sections import SECTIONS, training
from fireassay.report.study import Study

PAPERS = {
    "nequip": (
        "Batzner, Musaelian, Sun, Geiger, Mailoa, Kornbluth, Molinari, Smidt, Kozinsky",
        "E(3)-equivariant graph neural networks for data-efficient and accurate interatomic potentials",
    ),
    "mace": (
        "Batatia, Kovács, Simm, Ortner, Csányi",
        "MACE: Higher order equivariant message passing neural networks for fast and accurate force fields",
    ),
    "tea": (
        "Poltavsky and others",
        "Crash testing machine learning force fields for molecules, materials, and interfaces: model analysis in the "
        "TEA Challenge 2023",
    ),
    "vita": (
        "Vita, Schwalbe-Koda",
        "Data efficiency and extrapolation trends in neural network interatomic potentials",
    ),
    "ltau": (
        "Vita, Samanta, Zhou, Lordi",
        "LTAU-FF: Loss trajectory analysis for uncertainty in atomistic force fields",
    ),
    "egraffbench": (
        "Bihani, Mannan, Pratiush, Du, Chen, Miret, Micoulaut, Smedskjaer, Ranu, Krishnan",
        "EGraFFBench: Evaluation of equivariant graph neural network force fields for atomistic simulations",
    ),
    "kaplan": ("Kaplan, Meier", "Nonparametric estimation from incomplete observations"),
    "mantel": ("Mantel", "Evaluation of survival data and two new rank order statistics arising in its consideration"),
    "li": ("Li, Xu, Taylor, Studer, Goldstein", "Visualizing the loss landscape of neural nets"),
    "efron": ("Efron, Tibshirani", "An introduction to the bootstrap"),
    "flyvbjerg": ("Flyvbjerg, Petersen", "Error estimates on averages of correlated data"),
    "cameron": (
        "Cameron, Gelbach, Miller",
        "Bootstrap-based improvements for inference with clustered errors",
    ),
    "holm": ("Holm", "A simple sequentially rejective multiple test procedure"),
    "kovacs": (
        "Kovács, van der Oord, Kucera, Allen, Cole, Ortner, Csányi",
        "Linear atomic cluster expansion force fields for organic molecules: beyond RMSE",
    ),
}


@dataclass(frozen=True)
class Methods:
    """Sentences with the keys of the papers they cite, the papers in order, and every setting with its source."""

    paragraphs: list[tuple[str, list[int]]]
    papers: list[tuple[str, str]]
    settings: list[tuple[str, str, str, str, Source]]
    criteria: list[tuple[str, str, str]]


def methods(study: Study) -> Methods:
    """What was done, said from the records."""
    runs = study.runs
    drafts = training.methods(runs)
    for section in SECTIONS.values():
        drafts += section.methods(runs)
    if study.comparisons.family:
        sentence = (
            f"Decisions are corrected for {study.comparisons.family} comparisons: the chance of any false one is at "
            f"most {100 * study.criteria.significance:g} %."
        )
        drafts.append((sentence, ["holm"]))
    order = list(dict.fromkeys(key for _, keys in drafts for key in keys))
    return Methods(
        [(text, [order.index(key) + 1 for key in keys]) for text, keys in drafts],
        [PAPERS[key] for key in order],
        [
            (run.label, assay, key, _shown(value), run.sources[assay])
            for run in runs
            for assay, record in run.assays.items()
            for key, value in sorted(record.settings.items())
        ],
        _thresholds(study.criteria),
    )


def _thresholds(criteria: Criteria) -> list[tuple[str, str, str]]:
    fields = Criteria.model_fields
    return [(name, f"{value:g}", fields[name].description or "") for name, value in criteria.model_dump().items()]


def _shown(value: Any) -> str:
    words = str(value)
    return words if len(words) <= 160 else f"{words[:157]}..."


def all_sources(runs: Sequence[Run]) -> list[Source]:
    """Every record file, run by run."""
    return [source for run in runs for source in run.sources.values()]
