"""What an assay is, what it may ask for, and the one place that says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from fireassay.data.structure import Structure
from fireassay.potential import LocalPotential, Potential, Predictor
from fireassay.progress import Progress, Silent, unheard
from fireassay.records.error_trajectory import ErrorTrajectory
from fireassay.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The potential on trial, and everything that an assay may ask for; an assay names what it cannot do without.

    `test` holds the test frames by the name of their split; `train` the frames that the weights were fitted to, in that
    order; `validation` those held out; `start` where molecular dynamics begins; `errors` the per-atom errors of the
    training; `reference` a reference trajectory; `oracle` a predictor that is taken for the truth. In `folder` an assay
    keeps what it needs to go on after an interruption. `tell` takes lines for the user.
    """

    predictor: Predictor
    name: str = "potential"
    train: Sequence[Structure] = ()
    validation: Sequence[Structure] = ()
    test: Mapping[str, Sequence[Structure]] = field(default_factory=dict)
    start: Structure | None = None
    errors: ErrorTrajectory | None = None
    reference: Sequence[Structure] = ()
    oracle: Predictor | None = None
    folder: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = field(default_factory=Silent)
    tell: Callable[[str], None] = unheard

    @property
    def potential(self) -> Potential:
        """The predictor as a potential. Raises TypeError for a calculator: an assay that asks needs `Need.WEIGHTS`."""
        if not isinstance(self.predictor, Potential):
            raise TypeError(f"a {type(self.predictor).__name__} has no weights; the assay must need them")
        return self.predictor


class Need(Enum):
    """What an assay may need, as its messages call it."""

    WEIGHTS = "weights"
    DESCRIPTORS = "descriptors"
    TRAINING_FRAMES = "training frames"
    TRAINING_FORCES = "training frames with forces"
    LABELLED_TEST_FRAMES = "labelled test frames"
    TEST_FORCES = "test frames with forces"
    START = "a start"
    ERROR_TRAJECTORIES = "error trajectories"
    REFERENCE_TRAJECTORY = "a reference trajectory"
    ORACLE = "an oracle"


@dataclass(frozen=True)
class Assay:
    """One question put to a potential: `run(subject, settings)` answers with a record (`fireassay.records.record`).

    Whatever `needs` names is there when `run` is called. One that takes long, or asks what not everybody wants to know,
    is not run unless it is named: `by_default` is false.
    """

    name: str
    settings: type[Settings]
    needs: tuple[Need, ...]
    run: Callable[[Subject, Any], Any]
    by_default: bool = True


def missing(assay: Assay, subject: Subject) -> str | None:
    """What the assay needs and the subject lacks, in one line that says what to do; None when it can run."""
    for need in assay.needs:
        there, advice = _PROVISIONS[need]
        if not there(subject):
            return f"{assay.name} needs {need.value}; {advice}"
    return None


def _labelled(structures: Sequence[Structure]) -> bool:
    return any(s.energy is not None or s.forces is not None or s.stress is not None for s in structures)


def _forced(structures: Sequence[Structure]) -> bool:
    return any(s.forces is not None for s in structures)


_TEST = "give data.test, such as data.test={300K: test.xyz}"
_PROVISIONS: Mapping[Need, tuple[Callable[[Subject], bool], str]] = {
    Need.WEIGHTS: (lambda s: isinstance(s.predictor, Potential), "a calculator has none that can be moved"),
    Need.DESCRIPTORS: (
        lambda s: isinstance(s.predictor, LocalPotential),
        "only potentials that are sums over atoms have them, such as those that fireassay trains",
    ),
    Need.TRAINING_FRAMES: (lambda s: _labelled(s.train), "give data.train with energies or forces"),
    Need.TRAINING_FORCES: (lambda s: _forced(s.train), "give data.train with forces"),
    Need.LABELLED_TEST_FRAMES: (lambda s: any(map(_labelled, s.test.values())), _TEST),
    Need.TEST_FORCES: (lambda s: any(map(_forced, s.test.values())), _TEST),
    Need.START: (lambda s: s.start is not None, "give data.start"),
    Need.ERROR_TRAJECTORIES: (
        lambda s: s.errors is not None,
        "they are kept when fireassay trains the potential; a potential from a file has none",
    ),
    Need.REFERENCE_TRAJECTORY: (lambda s: len(s.reference) > 0, "give data.reference, such as data.reference=aimd.xyz"),
    Need.ORACLE: (lambda s: s.oracle is not None, "give --oracle package.module:Class(key=value)"),
}
