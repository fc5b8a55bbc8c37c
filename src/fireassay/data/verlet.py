"""Neighbour lists that are kept while atoms move: a Verlet list with a skin (Verlet, Phys. Rev. 159, 98, 1967)."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fireassay.data.graph import Graph
from fireassay.data.neighbours import batched_neighbour_list
from fireassay.errors import InputError
from fireassay.kernel_cache import cached


class _List(NamedTuple):
    """All pairs within cutoff + skin of the positions at which they were found."""

    reference: Tensor  # (N, 3) Å
    cell: Tensor  # (S, 3, 3)
    pbc: Tensor  # (S, 3)
    structure: Tensor  # (N,)
    centre: Tensor  # (E,)
    neighbour: Tensor  # (E,)
    shift: Tensor  # (E, 3)
    shift_vector: Tensor | None  # (E, 3) Å, shift @ cell; None when every shift is zero


class VerletList:
    """The edges within `cutoff` Å of moving atoms, found anew only when one has moved by more than `skin` / 2.

    In a cell that changes, what counts is the motion beside that of the cell, and a contraction takes part of the skin.

    Between rebuilds the pairs within cutoff + skin are kept, and those that are within the cutoff at the moment are
    handed out, sorted by centre, neighbour and shift. So what comes out does not depend on when the list was built, nor
    on what else is in the batch: a simulation that is interrupted and resumed repeats itself to the last bit.

    Raises InputError when the cutoff is negative or the skin is not positive.
    """

    def __init__(self, cutoff: float, skin: float = 1.0) -> None:
        if cutoff < 0 or not skin > 0:
            raise InputError(f"cutoff {cutoff} Å and skin {skin} Å: the cutoff must be >= 0 and the skin > 0")
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.rebuilds = 0
        self._list: _List | None = None

    def graph(
        self, atomic_numbers: Tensor, positions: Tensor, cell: Tensor, pbc: Tensor, structure: Tensor
    ) -> tuple[Graph, Tensor]:
        """The graph at `positions` (N, 3) and the length (E,) of each edge in Å.

        Positions need not be wrapped, and must not jump by a lattice vector: that costs a rebuild. Raises InputError
        when a position is not finite.
        """
        current = self._list
        if current is None or not self._valid(current, positions, cell, pbc, structure):
            current = self.build(positions, cell, pbc, structure)
        if current.shift_vector is not None and not torch.equal(current.cell, cell):
            current = current._replace(shift_vector=_shift_vectors(current.centre, current.shift, cell, structure))
        centre, neighbour, shift, length = _within(current, positions, self.cutoff)
        return Graph(atomic_numbers, positions, cell, pbc, structure, centre, neighbour, shift), length

    def build(self, positions: Tensor, cell: Tensor, pbc: Tensor, structure: Tensor) -> _List:
        """Finds all pairs anew. Raises InputError when a position is not finite."""
        if not bool(torch.isfinite(positions).all()):
            atom = int((~torch.isfinite(positions)).any(1).nonzero()[0, 0])
            raise InputError(f"atom {atom} is at {positions[atom].tolist()} Å; positions must be finite")
        if self.cutoff > 0:
            centre, neighbour, shift = batched_neighbour_list(positions, cell, pbc, structure, self.cutoff + self.skin)
        else:
            centre = neighbour = structure.new_zeros(0)
            shift = structure.new_zeros((0, 3))
        vectors = None
        if len(centre) and bool(pbc.any()):
            order = _ordered(centre, neighbour, shift, len(positions))
            centre, neighbour, shift = centre[order], neighbour[order], shift[order]
            vectors = _shift_vectors(centre, shift, cell, structure)
        self.rebuilds += 1
        self._list = _List(
            positions.clone(), cell.clone(), pbc.clone(), structure.clone(), centre, neighbour, shift, vectors
        )
        return self._list

    def _valid(self, current: _List, positions: Tensor, cell: Tensor, pbc: Tensor, structure: Tensor) -> bool:
        if current.reference.shape != positions.shape or current.reference.device != positions.device:
            return False
        if not (torch.equal(current.structure, structure) and torch.equal(current.pbc, pbc)):
            return False
        ones = positions.new_ones(3)
        if torch.equal(current.cell, cell):
            moved = torch.mv(torch.sub(positions, current.reference).square_(), ones).max()
            return bool(moved <= (self.skin / 2) ** 2)  # False for NaN
        if not bool(pbc.all()):
            return False
        # A pair at distance d before is at σ d at least after a deformation whose least stretch is σ, less what its two
        # atoms moved beside it: what was beyond cutoff + skin must still be beyond the cutoff.
        deformation = torch.linalg.solve(current.cell, cell)
        carried = torch.bmm(current.reference.unsqueeze(1), deformation.index_select(0, structure)).squeeze(1)
        moved = torch.mv(torch.sub(positions, carried).square_(), ones).max().sqrt()
        least = torch.linalg.svdvals(deformation)[:, 2].min()
        return bool(2 * moved <= least * (self.cutoff + self.skin) - self.cutoff)


def _shift_vectors(centre: Tensor, shift: Tensor, cell: Tensor, structure: Tensor) -> Tensor:
    cells = cell.index_select(0, structure.index_select(0, centre))
    return torch.bmm(shift.to(cells.dtype).unsqueeze(1), cells).squeeze(1)


def _ordered(centre: Tensor, neighbour: Tensor, shift: Tensor, n_atoms: int) -> Tensor:
    """The order by centre, neighbour and shift: one and the same whenever and however the pairs were found."""
    reach = shift.abs().max() * 2 + 1
    code = (shift[:, 0] * reach + shift[:, 1]) * reach + shift[:, 2] + (reach**3) // 2
    return ((centre * n_atoms + neighbour) * reach**3 + code).argsort()


def _within(current: _List, positions: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    vectors = current.shift_vector
    if positions.device.type == "cpu":
        found = _prune(
            positions.detach().double().numpy(),
            current.centre.numpy(),
            current.neighbour.numpy(),
            current.shift.numpy(),
            None if vectors is None else vectors.double().numpy(),
            cutoff,
        )
        centre, neighbour, shift, length = (torch.from_numpy(array) for array in found)
        if vectors is None:
            shift = current.shift[: len(centre)]  # all of them zero
        return centre, neighbour, shift, length.to(positions.dtype)
    r = positions.index_select(0, current.neighbour) - positions.index_select(0, current.centre)
    length = torch.linalg.vector_norm(r if vectors is None else r + vectors, dim=1)
    index = (length < cutoff).nonzero().squeeze(1)
    centre, neighbour, shift = (t.index_select(0, index) for t in (current.centre, current.neighbour, current.shift))
    return centre, neighbour, shift, length.index_select(0, index)


@cached(numba.njit, nogil=True)
def _prune(
    positions: NDArray[np.float64],
    centre: NDArray[np.int64],
    neighbour: NDArray[np.int64],
    shift: NDArray[np.int64],
    vectors: NDArray[np.float64] | None,
    cutoff: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:  # pragma: no cover (compiled)
    """Centre, neighbour, shift (empty when `vectors` is None) and length of the pairs closer than the cutoff."""
    n = len(centre)
    near_centre, near_neighbour, length = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.float64)
    near_shift = np.empty((0 if vectors is None else n, 3), np.int64)
    count = 0
    for e in range(n):
        i, j = centre[e], neighbour[e]
        x = positions[j, 0] - positions[i, 0]
        y = positions[j, 1] - positions[i, 1]
        z = positions[j, 2] - positions[i, 2]
        if vectors is not None:
            x += vectors[e, 0]
            y += vectors[e, 1]
            z += vectors[e, 2]
        squared = x * x + y * y + z * z
        near_centre[count], near_neighbour[count], length[count] = i, j, squared  # overwritten by the next unless near
        if vectors is not None:
            near_shift[count] = shift[e]
        count += squared < cutoff * cutoff
    return near_centre[:count], near_neighbour[:count], near_shift[:count], np.sqrt(length[:count])
