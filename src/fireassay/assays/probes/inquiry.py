"""How probes ask a predictor, and how an answer is judged."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fireassay.assays.assay import Subject
from fireassay.assays.predictions import dataset_for, predict
from fireassay.assays.probes.settings import ProbesSettings
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.potential import Predictor
from fireassay.records.probes import Probe, Verdict

Array = NDArray[np.float64]


@dataclass
class Answer:
    """Energies (S,) eV, forces by structure (n, 3) eV/Å, stresses (S, 3, 3) eV/Å^3; NaN where a calculation failed."""

    energy: Array
    forces: list[Array]
    stress: Array | None
    why: str = ""  # of the first failure


@dataclass
class Inquiry:
    """A subject, a displaced start, and the number of structures that were asked for."""

    subject: Subject
    settings: ProbesSettings
    start: Structure  # as given
    base: Structure  # with displaced atoms, so that forces act on them
    scale: float = 1.0  # eV/Å, the root mean square of its forces
    stressed: bool = False  # whether the predictor gives stresses there
    works: bool = True
    why: str = ""
    count: int = 0
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    @classmethod
    def of(cls, subject: Subject, settings: ProbesSettings) -> Inquiry:
        """An inquiry of the subject, the base calculated."""
        assert subject.start is not None
        rng = np.random.default_rng(settings.seed)
        start = bare(subject.start)
        base = replace(start, positions=start.positions + settings.rattle * rng.normal(size=start.positions.shape))
        inquiry = cls(subject, settings, start, base, rng=rng)
        answer = inquiry.ask([base], stress=base.solid)
        inquiry.works = bool(np.isfinite(answer.energy[0]) and np.isfinite(answer.forces[0]).all())
        inquiry.why = answer.why or "energy or forces are not finite"
        inquiry.stressed = answer.stress is not None and bool(np.isfinite(answer.stress).all())
        inquiry.scale = max(float(np.sqrt(np.mean(answer.forces[0] ** 2))), 1e-3) if inquiry.works else 1.0
        return inquiry

    def ask(
        self,
        structures: Sequence[Structure],
        stress: bool = False,
        together: int | None = None,
        predictor: Predictor | None = None,
    ) -> Answer:
        """The predictor's answers, in batches of at most `together` structures."""
        predictor = self.subject.predictor if predictor is None else predictor
        data = dataset_for(predictor, structures)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of calculators at the distances that dimers begin with
            found = predict(
                predictor,
                data,
                forces=True,
                stress=stress,
                device=self.subject.device,
                max_edges=self.settings.max_edges,
                max_structures=together or self.settings.max_structures,
                progress=self.subject.progress,
            )
        self.count += len(structures)
        assert found.forces is not None
        ends = np.cumsum([len(s) for s in structures])[:-1]
        return Answer(found.energy, np.split(found.forces, ends), found.stress, next(iter(found.failed.values()), ""))

    def planned(self) -> int:
        """How many structures conservation, consistency and curves ask for at most, for the progress."""
        s = self.settings
        kinds = len(s.elements or set(self.start.atomic_numbers.tolist()))
        paths = kinds * (kinds + 1) // 2 * s.dimers + s.bonds + 2  # an atom carried away has twice the points
        return 32 * s.directions + 40 + paths * (s.points + 120)


def bare(structure: Structure) -> Structure:
    """The structure without labels."""
    return replace(structure, energy=None, forces=None, stress=None)


def judged(
    name: str, group: str, value: float, sound: float, broken: float, sentence: str, meaning: str, unit: str = ""
) -> Probe:
    """A probe whose value is sound up to one limit and broken beyond the other; what is not finite is broken."""
    verdict: Verdict = "sound" if value <= sound else "doubtful" if value <= broken else "broken"
    return Probe(
        name=name, group=group, verdict=verdict, sentence=sentence, meaning=meaning if verdict != "sound" else "",
        value=value if np.isfinite(value) else None, unit=unit, sound=sound, broken=broken,
    )  # fmt: skip


def left_out(name: str, group: str, reason: str) -> Probe:
    """A probe that was not asked, and why."""
    return Probe(name=name, group=group, verdict="not asked", sentence=reason)


def attempted(inquiry: Inquiry, structures: Sequence[Structure], predictor: Predictor | None = None) -> Answer | str:
    """As `Inquiry.ask`, or why it cannot be asked."""
    try:
        return inquiry.ask(structures, predictor=predictor)
    except InputError as error:
        return str(error)
