"""Elements of atom types that a file only numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fireassay.data.frame import ATOMIC_NUMBERS
from fireassay.errors import InputError


def known_elements(elements: Sequence[str] | None) -> None:
    """Raises InputError for a symbol that is no element."""
    for name in elements or ():
        if name not in ATOMIC_NUMBERS:
            raise InputError(f"elements: {name!r} is no chemical element; needed are symbols such as [Cu, Au]")


def numbers_of_types(types: NDArray, elements: Sequence[str] | None, first: int, where: str) -> NDArray[np.int64]:
    """Atomic numbers of types that count from `first`. Raises InputError when their elements are not known."""
    kinds = np.rint(types).astype(np.int64) - first
    if elements is None:
        count = int(kinds.max()) + 1
        example = ", ".join(["Cu", "Au", "Ag", "Pt", "Pd", "Ni"][:count])
        raise InputError(
            f"{re.sub(r' frame .*', '', where)}: has types {sorted({int(k) + first for k in kinds})} and not their "
            f'elements; name all {count} in order, as in "data.elements=[{example}]"'
        )
    unknown = [name for name in elements if name not in ATOMIC_NUMBERS]
    if unknown or int(kinds.min()) < 0 or int(kinds.max()) >= len(elements):
        raise InputError(
            f"{where}: types {sorted({int(k) + first for k in kinds})} with elements {list(elements)}; needs one "
            f"chemical symbol for each type from {first} on"
        )
    return np.array([ATOMIC_NUMBERS[name] for name in elements], dtype=np.int64)[kinds]
