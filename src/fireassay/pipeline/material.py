"""The frames that a configuration names: read, checked and split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np

from fireassay.config import Data
from fireassay.data.baseline import isolated_atoms, read_e0
from fireassay.data.fingerprint import fingerprint, fingerprint_of
from fireassay.data.ingest import SAMPLE
from fireassay.data.inspect import quality
from fireassay.data.readers import Reading, Source, display, read_checked
from fireassay.data.split import split_blocks, split_group, split_random, split_temperature
from fireassay.data.store import StoredFrames, chosen, sample, species_of
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.progress import Progress

_SAID_ELSEWHERE: Final = frozenset({"charge"})  # by training, which knows what the potential uses


@dataclass(frozen=True)
class Material:
    """The frames of a run, by what they are for."""

    train: Sequence[Structure]
    validation: Sequence[Structure]
    test: dict[str, Sequence[Structure]]
    start: Structure
    reference: Sequence[Structure]
    isolated: dict[int, float]  # E0 in eV by atomic number, as far as the files tell
    notes: tuple[str, ...] = ()  # what the checks of the training frames found that does not forbid to use them

    @property
    def fingerprint(self) -> str:
        """That of training and validation frames together."""
        if any(isinstance(part, StoredFrames) for part in (self.train, self.validation)):
            return fingerprint_of([fingerprint(self.train), fingerprint(self.validation)])
        return fingerprint(chain(self.train, self.validation))

    def fingerprints(self) -> dict[str, str]:
        """That of the frames of each split; test splits under their names."""
        parts = {"train": self.train, "validation": self.validation, "start": [self.start], **self.test}
        return {name: fingerprint(frames) for name, frames in parts.items()}

    @property
    def species(self) -> list[int]:
        """Atomic numbers among training and validation frames, ascending."""
        return sorted({*species_of(self.train), *species_of(self.validation)})


def read_material(data: Data, seed: int, progress: Progress | None = None) -> Material:
    """Reads and splits the files of a configuration's data section. Raises InputError when one cannot be used."""

    def frames(source: Source, labels: bool = True) -> Sequence[Structure]:
        return reading(source, labels).structures

    def reading(source: Source, labels: bool = True, required: bool = True) -> Reading:
        return read_checked(
            source, data.keys, data.units, labels=labels, elements=data.elements, accept=data.accept,
            on_disk=data.on_disk, progress=progress, required=required,
        )  # fmt: skip

    everything, findings = reading(data.train) if data.train else Reading([], [])
    looked_at = sample(everything, SAMPLE)
    found = [*findings, *quality(looked_at)]
    notes = [finding.line for finding in found if finding.kind not in _SAID_ELSEWHERE]
    if len(looked_at) < len(everything):
        notes.append(f"net forces and repeated frames were looked for in {len(looked_at)} of {len(everything)} frames")
    if isinstance(everything, StoredFrames):
        notes.append(f"the {len(everything)} frames are kept on disk in {everything.store.folder}; delete it when done")
    rng = np.random.default_rng(seed)
    if data.validation.file is not None:
        train, validation = everything, frames(data.validation.file)
    else:
        kept, held_out = _split(everything, data, rng)
        train, validation = chosen(everything, kept), chosen(everything, held_out)
    if data.limit is not None and data.limit < len(train):
        train = chosen(train, sorted(rng.permutation(len(train))[: data.limit]))
    if not train and data.train:
        raise InputError(
            f"{display(data.train)}: the split leaves no training frames of {len(everything)}; lower data.validation"
        )
    test = {name: frames(source) for name, source in data.test.items()}
    start = frames(data.start, labels=False)[0] if data.start else next(iter(test.values()), train)[0]
    if data.isolated_atoms is not None:
        isolated = read_e0(data.isolated_atoms, keys=data.keys, units=data.units)
    else:
        isolated = isolated_atoms(everything)
    reference = _reference(data, reading) if data.reference else []
    return Material(train, validation, test, start, reference, isolated, tuple(notes))


def _reference(data: Data, reading: Callable[..., Reading]) -> Sequence[Structure]:
    """The frames of the reference trajectory, with the labels that can be relied on: its positions are what counts."""
    assert data.reference is not None
    try:
        return reading(data.reference, required=False).structures
    except InputError:
        return reading(data.reference, labels=False).structures


def _split(everything: Sequence[Structure], data: Data, rng: np.random.Generator) -> tuple[Any, Any]:
    """Indices of training and validation frames, ascending."""
    settings, n = data.validation, len(everything)
    held_out = settings.count if settings.count is not None else round(settings.fraction * n)
    if held_out == 0:
        return np.arange(n), np.arange(0)
    if settings.method == "blocks":
        train, validation = split_blocks(everything, held_out, gap=settings.gap)
    else:
        split = {"random": split_random, "group": split_group, "temperature": split_temperature}[settings.method]
        train, validation = split(everything, held_out, rng)
    return np.sort(train), np.sort(validation)
