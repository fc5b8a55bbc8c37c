"""Which frames: a short text that changes with their atoms, their geometry or their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from fireassay.data.store import StoredFrames
from fireassay.data.structure import Structure


def fingerprint(structures: Iterable[Structure]) -> str:
    """The fingerprint of structures in their order; where they come from does not count."""
    if isinstance(structures, StoredFrames):
        return structures.remembered("fingerprint", lambda: _digest(structures))
    return _digest(structures)


def _digest(structures: Iterable[Structure]) -> str:
    digest = hashlib.sha256()
    for structure in structures:
        s = structure
        for array in (s.atomic_numbers, s.positions, s.cell, s.pbc, s.energy, s.forces, s.stress):
            # A missing label and one that is zero are not the same.
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
            digest.update(b"|")
    return digest.hexdigest()[:16]


def fingerprint_of(parts: Iterable[str]) -> str:
    """The fingerprint of parts that have one each."""
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
