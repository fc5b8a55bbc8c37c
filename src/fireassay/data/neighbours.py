"""Neighbour lists of structures."""

from __future__ import annotations

import numpy as np
import vesin
from numpy.typing import NDArray

from fireassay.data.structure import Structure


def neighbour_list(
    structure: Structure, cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All directed pairs within `cutoff` Å over all periodic images, sorted by centre.

    Returns centre (E,), neighbour (E,), shift (E, 3) with r_ij = x_j + shift @ cell - x_i and |r_ij| < cutoff. An
    atom neighbours its own images but not itself.
    """
    calculator = vesin.NeighborList(cutoff=cutoff, full_list=True)
    centre, neighbour, shift = calculator.compute(
        points=structure.positions, box=structure.cell, periodic=structure.pbc, quantities="ijS"
    )
    order = np.lexsort((neighbour, centre))
    return (
        centre[order].astype(np.int64),
        neighbour[order].astype(np.int64),
        shift[order].astype(np.int64).reshape(-1, 3),
    )


def completed_cell(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The cell (3, 3) with every non-periodic row replaced by a unit vector normal to all the others: invertible."""
    full = np.where(pbc[:, None], cell, 0.0).astype(np.float64)
    missing = np.flatnonzero(~pbc)
    if len(missing):
        _, _, rows = np.linalg.svd(full)  # the last rows of V^T span what the lattice vectors leave free
        full[missing] = rows[3 - len(missing) :]
    return full
