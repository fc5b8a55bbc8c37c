"""The device-side noun: always a batch of S >= 1 structures. There is no unbatched graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fireassay.data.neighbours import neighbour_list
from fireassay.data.structure import Structure


class Graph(NamedTuple):
    """S structures with N atoms and E directed edges in all; edges are sorted by centre, atoms by structure.

    An edge i -> j has the vector r_ij = positions[neighbour] + shift @ cell - positions[centre]. The edges may reach
    farther than a potential's cutoff (a skin in MD, say): a potential ignores what lies beyond its own.
    """

    atomic_numbers: Tensor  # (N,) int64
    positions: Tensor  # (N, 3) Å
    cell: Tensor  # (S, 3, 3) Å, rows are lattice vectors; zero where there is none
    pbc: Tensor  # (S, 3) bool
    structure: Tensor  # (N,) int64, the index of each atom's structure, ascending
    centre: Tensor  # (E,) int64, i, ascending
    neighbour: Tensor  # (E,) int64, j
    shift: Tensor  # (E, 3) int64
    charge: Tensor | None = None  # (S,) e, float64, the total charge; NaN where not given, None when it never is
    spin: Tensor | None = None  # (S,) float64, the multiplicity 2S + 1; NaN and None likewise

    @property
    def n_atoms(self) -> int:
        return self.positions.shape[0]

    @property
    def n_structures(self) -> int:
        return self.cell.shape[0]

    @property
    def n_edges(self) -> int:
        return self.centre.shape[0]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Graph:
        """The same graph elsewhere; `dtype` changes positions and cell only."""
        moved = Graph(*(None if tensor is None else tensor.to(device) for tensor in self))  # type: ignore[arg-type]
        return moved._replace(positions=moved.positions.to(dtype), cell=moved.cell.to(dtype))


class Labels(NamedTuple):
    """Reference values in the shapes of `Prediction`, with a mask per field; masked entries hold zeros."""

    energy: Tensor  # (S,) eV, always float64
    forces: Tensor  # (N, 3) eV/Å
    stress: Tensor  # (S, 3, 3) eV/Å^3, positive in tension
    has_energy: Tensor  # (S,) bool
    has_forces: Tensor  # (N,) bool
    has_stress: Tensor  # (S,) bool

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Labels:
        """The same labels elsewhere; `dtype` changes forces and stress only."""
        moved = Labels(*(tensor.to(device) for tensor in self))
        return moved._replace(forces=moved.forces.to(dtype), stress=moved.stress.to(dtype))


def edge_vectors(graph: Graph) -> Tensor:
    """r_ij (E, 3) in Å, differentiable in positions and cell."""
    vectors = graph.positions.index_select(0, graph.neighbour) - graph.positions.index_select(0, graph.centre)
    cells = graph.cell.index_select(0, graph.structure.index_select(0, graph.centre))  # (E, 3, 3)
    return vectors + torch.bmm(graph.shift.to(cells.dtype).unsqueeze(1), cells).squeeze(1)


def sum_over_neighbours(values: Tensor, graph: Graph) -> Tensor:
    """Sum of per-edge values (E, ...) over the edges of each centre: (N, ...)."""
    return values.new_zeros((graph.n_atoms, *values.shape[1:])).index_add(0, graph.centre, values)


def sum_over_atoms(values: Tensor, graph: Graph) -> Tensor:
    """Sum of per-atom values (N, ...) over the atoms of each structure: (S, ...)."""
    return values.new_zeros((graph.n_structures, *values.shape[1:])).index_add(0, graph.structure, values)


def from_structures(
    structures: Sequence[Structure],
    cutoff: float,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Graph:
    """The graph of `structures` with all edges shorter than `cutoff` Å."""
    lists = [neighbour_list(structure, cutoff) for structure in structures]
    sizes = np.array([len(structure) for structure in structures])
    starts = np.cumsum(sizes) - sizes
    graph = Graph(
        atomic_numbers=torch.from_numpy(np.concatenate([s.atomic_numbers for s in structures]).astype(np.int64)),
        positions=torch.from_numpy(np.concatenate([s.positions for s in structures]).astype(np.float64)),
        cell=torch.from_numpy(np.stack([s.cell for s in structures]).astype(np.float64)),
        pbc=torch.from_numpy(np.stack([s.pbc for s in structures])),
        structure=torch.from_numpy(np.repeat(np.arange(len(structures)), sizes)),
        centre=torch.from_numpy(np.concatenate([e[0] + start for e, start in zip(lists, starts, strict=True)])),
        neighbour=torch.from_numpy(np.concatenate([e[1] + start for e, start in zip(lists, starts, strict=True)])),
        shift=torch.from_numpy(np.concatenate([e[2] for e in lists])),
        charge=per_structure([s.charge for s in structures]),
        spin=per_structure([s.spin for s in structures]),
    )
    return graph.to(device, dtype)


def per_structure(values: Sequence[float | None]) -> Tensor | None:
    """Values (S,) float64 with NaN for None; None when there is no value at all."""
    if all(value is None for value in values):
        return None
    return torch.tensor([torch.nan if value is None else value for value in values], dtype=torch.float64)


def value_of(values: Tensor | None, row: int) -> float | None:
    """The value of one structure in what `per_structure` makes; None where it has none."""
    return None if values is None or bool(values[row].isnan()) else float(values[row])


def labels_of(
    structures: Sequence[Structure], dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> Labels:
    """The labels of `structures`, masked where a structure has none; a stress needs a periodic cell with a volume."""
    has_forces = [s.forced for s in structures]
    forces = [np.zeros((len(s), 3)) if s.forces is None else np.nan_to_num(s.forces) for s in structures]
    stress = [s.stress if s.stress is not None else np.zeros((3, 3)) for s in structures]
    labels = Labels(
        energy=torch.tensor([s.energy if s.energy is not None else 0.0 for s in structures], dtype=torch.float64),
        forces=torch.from_numpy(np.concatenate(forces).astype(np.float64)),
        stress=torch.from_numpy(np.stack(stress).astype(np.float64)),
        has_energy=torch.tensor([s.energy is not None for s in structures]),
        has_forces=torch.from_numpy(np.concatenate(has_forces)),
        has_stress=torch.tensor([s.stress is not None and s.solid for s in structures]),
    )
    return labels.to(device, dtype)
