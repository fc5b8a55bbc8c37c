"""Which frames: a short text that changes with their atoms, their geometry or their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from fireassay.data.structure import Structure


def fingerprint(structures: Iterable[Structure]) -> str:
    """The fingerprint of structures in their order; where they come from does not count."""
    digest = hashlib.sha256()
    for structure in structures:
        s = structure
        for array in (s.atomic_numbers, s.positions, s.cell, s.pbc, s.energy, s.forces, s.stress):
            # A missing label and one that is zero are not the same.
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
            digest.update(b"|")
    return digest.hexdigest()[:16]
