"""Many structures packed into flat tensors once, and batches cut out of them by index arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fireassay.data.graph import Graph, Labels, labels_of, per_structure
from fireassay.data.neighbours import neighbour_list
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.progress import Progress, Silent, track

Indices = Tensor | Sequence[int] | NDArray[np.integer]


class Batch(NamedTuple):
    """Some structures of a data set, and where they stand in it."""

    graph: Graph
    labels: Labels
    atoms: Tensor  # (N,) int64, each atom's number in the data set: structure by structure, atom by atom
    structures: Tensor  # (S,) int64, each structure's number in the data set


class Dataset:
    """Structures with their neighbour lists at one cutoff, packed on the CPU.

    Atom numbers are stable: atom k of structure s is `sum(structure_sizes[:s]) + k`, whatever batch it comes in.
    Edges are kept as small integers relative to their structure, 14 bytes each.

    Raises InputError when there are no structures or the cutoff is not a positive number.
    """

    def __init__(self, structures: Sequence[Structure], cutoff: float, progress: Progress | None = None) -> None:
        if len(structures) == 0:
            raise InputError("a data set needs at least one structure, got none")
        if not (np.isfinite(cutoff) and cutoff > 0):
            raise InputError(f"cutoff is {cutoff}, needs a positive number of Å")
        self.structures = tuple(structures)
        self.cutoff = float(cutoff)
        self.structure_sizes = torch.tensor([len(s) for s in self.structures], dtype=torch.int64)  # (S,)
        self.labels = labels_of(self.structures)
        self._atomic_numbers = _joined([s.atomic_numbers for s in self.structures], np.int64)
        self._positions = _joined([s.positions for s in self.structures], np.float64)
        self._cell = torch.from_numpy(np.stack([s.cell for s in self.structures]).astype(np.float64))
        self._pbc = torch.from_numpy(np.stack([s.pbc for s in self.structures]).astype(bool))
        self._charge = per_structure([s.charge for s in self.structures])
        self._spin = per_structure([s.spin for s in self.structures])
        lists = []
        watched = track(self.structures, len(self.structures), "neighbour lists", progress or Silent())
        for structure in watched:
            centre, neighbour, shift = neighbour_list(structure, self.cutoff)
            lists.append((centre.astype(np.int32), neighbour.astype(np.int32), _narrowed(shift)))
        self.edge_counts = torch.tensor([len(edges[0]) for edges in lists], dtype=torch.int64)  # (S,)
        self._centre = _joined([edges[0] for edges in lists], np.int32)
        self._neighbour = _joined([edges[1] for edges in lists], np.int32)
        self._shift = torch.from_numpy(np.concatenate([edges[2] for edges in lists]))
        self._first_atom = self.structure_sizes.cumsum(0) - self.structure_sizes
        self._first_edge = self.edge_counts.cumsum(0) - self.edge_counts

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all structures together."""
        return len(self._atomic_numbers)

    @property
    def n_edges(self) -> int:
        """Number of directed edges of all structures together."""
        return len(self._centre)

    @property
    def species(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        return torch.unique(self._atomic_numbers).tolist()

    @property
    def atomic_numbers(self) -> Tensor:
        """Atomic number of every atom of the data set, (N,) int64."""
        return self._atomic_numbers

    def select(self, indices: Indices, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Batch:
        """The structures `indices`, in that order, as one batch; energies stay float64.

        Raises InputError when `indices` is empty or out of range.
        """
        chosen = self._checked(indices)
        sizes, edge_counts = self.structure_sizes[chosen], self.edge_counts[chosen]
        structure = torch.repeat_interleave(torch.arange(len(chosen)), sizes)
        start = sizes.cumsum(0) - sizes
        atoms = torch.arange(len(structure)) + torch.repeat_interleave(self._first_atom[chosen] - start, sizes)
        first_edge = self._first_edge[chosen] - (edge_counts.cumsum(0) - edge_counts)
        edges = torch.arange(int(edge_counts.sum())) + torch.repeat_interleave(first_edge, edge_counts)
        offset = torch.repeat_interleave(start, edge_counts)
        graph = Graph(
            atomic_numbers=self._atomic_numbers.index_select(0, atoms),
            positions=self._positions.index_select(0, atoms),
            cell=self._cell.index_select(0, chosen),
            pbc=self._pbc.index_select(0, chosen),
            structure=structure,
            centre=self._centre.index_select(0, edges) + offset,
            neighbour=self._neighbour.index_select(0, edges) + offset,
            shift=self._shift.index_select(0, edges).to(torch.int64),
            charge=None if self._charge is None else self._charge.index_select(0, chosen),
            spin=None if self._spin is None else self._spin.index_select(0, chosen),
        )
        labels = Labels(
            energy=self.labels.energy.index_select(0, chosen),
            forces=self.labels.forces.index_select(0, atoms),
            stress=self.labels.stress.index_select(0, chosen),
            has_energy=self.labels.has_energy.index_select(0, chosen),
            has_forces=self.labels.has_forces.index_select(0, atoms),
            has_stress=self.labels.has_stress.index_select(0, chosen),
        )
        return Batch(graph.to(device, dtype), labels.to(device, dtype), atoms.to(device), chosen.to(device))

    def batches_by_size(self, size: int, order: Indices | None = None) -> list[Tensor]:
        """Consecutive groups of `size` indices of `order` (default: all in turn); the last may be smaller."""
        if size < 1:
            raise InputError(f"batch size is {size}, needs at least 1 structure")
        return list(torch.split(self._checked(range(len(self)) if order is None else order), size))

    def batches_by_edges(self, max_edges: int, order: Indices | None = None) -> list[Tensor]:
        """Consecutive groups of indices of `order` (default: all in turn) with at most `max_edges` edges each.

        A structure with more edges than the budget makes a batch of its own.
        """
        if max_edges < 1:
            raise InputError(f"edge budget is {max_edges}, needs at least 1 edge a batch")
        chosen = self._checked(range(len(self)) if order is None else order)
        total = self.edge_counts[chosen].cumsum(0).numpy()
        groups, first = [], 0
        while first < len(chosen):
            spent = total[first - 1] if first else 0
            last = max(int(np.searchsorted(total, spent + max_edges, side="right")), first + 1)
            groups.append(chosen[first:last])
            first = last
        return groups

    def _checked(self, indices: Indices) -> Tensor:
        chosen = torch.as_tensor(indices, dtype=torch.int64, device="cpu").reshape(-1)
        if len(chosen) == 0:
            raise InputError("a batch needs at least one structure, got an empty list of indices")
        if int(chosen.min()) < 0 or int(chosen.max()) >= len(self):
            raise InputError(
                f"indices from {int(chosen.min())} to {int(chosen.max())} leave the data set, "
                f"which has structures 0 to {len(self) - 1}"
            )
        return chosen


def _joined(arrays: Sequence[NDArray], dtype: type) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(dtype, copy=False))


def _narrowed(shift: NDArray[np.int64]) -> NDArray[np.integer]:
    """Shifts as int16, or int32 where atoms have wandered more than 32767 cells."""
    fits = shift.size == 0 or np.abs(shift).max() < 2**15
    return shift.astype(np.int16 if fits else np.int32)
