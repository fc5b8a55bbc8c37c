"""Many structures packed into flat tensors once, and batches cut out of them by index arithmetic."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fireassay.data.graph import Graph, Labels, per_structure
from fireassay.data.neighbours import neighbour_list
from fireassay.data.store import StoredFrames
from fireassay.data.structure import Structure
from fireassay.errors import InputError
from fireassay.progress import Progress, Silent, track

Indices = Tensor | Sequence[int] | NDArray[np.integer]
BLOCK = 1 << 14  # structures that are looked at together where a whole set is


class Batch(NamedTuple):
    """Some structures of a data set, and where they stand in it."""

    graph: Graph
    labels: Labels
    atoms: Tensor  # (N,) int64, each atom's number in the data set: structure by structure, atom by atom
    structures: Tensor  # (S,) int64, each structure's number in the data set


class Dataset:
    """Structures with their neighbour lists at one cutoff, on the CPU.

    Structures in memory are packed with all their edges, 14 bytes each. Those of a store stay on disk: their edges are
    found anew for every batch, and only their numbers are kept.

    Atom numbers are stable: atom k of structure s is `sum(structure_sizes[:s]) + k`, whatever batch it comes in.

    Raises InputError when there are no structures or the cutoff is not a positive number.
    """

    def __init__(self, structures: Sequence[Structure], cutoff: float, progress: Progress | None = None) -> None:
        if len(structures) == 0:
            raise InputError("a data set needs at least one structure, got none")
        if not (np.isfinite(cutoff) and cutoff > 0):
            raise InputError(f"cutoff is {cutoff}, needs a positive number of Å")
        self.cutoff = float(cutoff)
        watched = progress or Silent()
        if isinstance(structures, StoredFrames):
            self.structures: Sequence[Structure] = structures
            self._frames: _Frames = _Stored(structures)
            self._edges: _Edges = _Computed(structures, self.cutoff, watched)
        else:
            self.structures = tuple(structures)
            self._frames = _Packed(self.structures)
            self._edges = _PackedEdges(self.structures, self.cutoff, watched)
        self.structure_sizes = self._frames.sizes  # (S,)
        self.edge_counts = self._edges.counts  # (S,)
        self._first_atom = self.structure_sizes.cumsum(0) - self.structure_sizes

    def __len__(self) -> int:
        return len(self.structures)

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all structures together."""
        return int(self.structure_sizes.sum())

    @property
    def n_edges(self) -> int:
        """Number of directed edges of all structures together."""
        return int(self.edge_counts.sum())

    @cached_property
    def species(self) -> list[int]:
        """Atomic numbers that occur, ascending."""
        return sorted({z for chosen in self.blocks() for z in torch.unique(self._numbers(chosen)).tolist()})

    @property
    def atomic_numbers(self) -> Tensor:
        """Atomic number of every atom of the data set, (N,) int64."""
        return torch.cat([self._numbers(chosen) for chosen in self.blocks()])

    @cached_property
    def labels(self) -> Labels:
        """The labels of all structures; forces of a store are read into memory by this."""
        parts = [self.labels_at(chosen) for chosen in self.blocks()]
        return parts[0] if len(parts) == 1 else Labels(*(torch.cat(column) for column in zip(*parts, strict=True)))

    @cached_property
    def labelled(self) -> dict[str, bool]:
        """Whether any structure has energy, forces, stress."""
        found: dict[str, bool] = dict.fromkeys(("energy", "forces", "stress"), False)
        for chosen in self.blocks():
            labels = self.labels_at(chosen)
            for name in found:
                found[name] = found[name] or bool(getattr(labels, f"has_{name}").any())
        return found

    def blocks(self) -> Iterator[Tensor]:
        """All indices in turn, in groups of at most `BLOCK`."""
        yield from torch.split(torch.arange(len(self)), BLOCK)

    def labels_at(self, indices: Indices) -> Labels:
        """The labels of some structures."""
        chosen = self._checked(indices)
        return self._labels(chosen, self._places(chosen)[1])

    def numbers_at(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Atomic numbers (N,) of some structures, and the index of each atom's structure among them."""
        chosen = self._checked(indices)
        structure, places = self._places(chosen)
        return self._frames.gathered("numbers", places), structure

    def select(self, indices: Indices, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Batch:
        """The structures `indices`, in that order, as one batch; energies stay float64.

        Raises InputError when `indices` is empty or out of range.
        """
        chosen = self._checked(indices)
        sizes = self.structure_sizes[chosen]
        structure, places = self._places(chosen)
        start = sizes.cumsum(0) - sizes
        atoms = torch.arange(len(structure)) + torch.repeat_interleave(self._first_atom[chosen] - start, sizes)
        centre, neighbour, shift = self._edges.of(chosen, start)
        frames = self._frames
        graph = Graph(
            atomic_numbers=frames.gathered("numbers", places),
            positions=frames.gathered("positions", places),
            cell=frames.column("cell", chosen).reshape(-1, 3, 3),
            pbc=frames.column("pbc", chosen).to(torch.bool),
            structure=structure,
            centre=centre,
            neighbour=neighbour,
            shift=shift,
            charge=frames.state("charge", chosen),
            spin=frames.state("spin", chosen),
        )
        labels = self._labels(chosen, places)
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

    def _numbers(self, chosen: Tensor) -> Tensor:
        return self._frames.gathered("numbers", self._places(chosen)[1])

    def _places(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The index among `chosen` of each of their atoms' structures, and where the atoms are kept."""
        sizes = self.structure_sizes[chosen]
        structure = torch.repeat_interleave(torch.arange(len(chosen)), sizes)
        start = sizes.cumsum(0) - sizes
        places = torch.arange(len(structure)) + torch.repeat_interleave(self._frames.first[chosen] - start, sizes)
        return structure, places

    def _labels(self, chosen: Tensor, places: Tensor) -> Labels:
        frames = self._frames
        energy, stress = frames.column("energy", chosen), frames.column("stress", chosen).reshape(-1, 3, 3)
        forces = frames.gathered("forces", places)
        has_forces = ~forces[:, 0].isnan()
        cell, pbc = frames.column("cell", chosen).reshape(-1, 3, 3), frames.column("pbc", chosen).to(torch.bool)
        solid = pbc.any(1) & (torch.linalg.det(cell).abs() > 0)
        return Labels(
            energy=energy.nan_to_num(0.0),
            forces=torch.where(has_forces.unsqueeze(1), forces, 0.0),
            stress=stress.nan_to_num(0.0),
            has_energy=~energy.isnan(),
            has_forces=has_forces,
            has_stress=~stress[:, 0, 0].isnan() & solid,
        )

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


class _Frames(Protocol):
    """Where the numbers of structures are kept: `first` is the place of each one's first atom."""

    sizes: Tensor
    first: Tensor

    def gathered(self, name: str, places: Tensor) -> Tensor:
        """numbers (N,) int64, positions or forces (N, 3) of the atoms at `places`; NaN for missing forces."""
        ...

    def column(self, name: str, chosen: Tensor) -> Tensor:
        """energy (S,), stress, cell (S, 9) or pbc (S, 3) of structures; NaN for missing labels."""
        ...

    def state(self, name: str, chosen: Tensor) -> Tensor | None:
        """charge or spin (S,), None where no structure of the data set has one."""
        ...


class _Packed:
    """Structures in memory."""

    def __init__(self, structures: Sequence[Structure]) -> None:
        self.sizes = torch.tensor([len(s) for s in structures], dtype=torch.int64)
        self.first = self.sizes.cumsum(0) - self.sizes
        forces = [np.full((len(s), 3), np.nan) if s.forces is None else s.forces for s in structures]
        self._atoms = {
            "numbers": _joined([s.atomic_numbers for s in structures], np.int64),
            "positions": _joined([s.positions for s in structures], np.float64),
            "forces": _joined(forces, np.float64),
        }
        stress = [np.full((3, 3), np.nan) if s.stress is None else s.stress for s in structures]
        energy = [np.nan if s.energy is None else s.energy for s in structures]
        self._columns = {
            "energy": torch.tensor(energy, dtype=torch.float64),
            "stress": torch.from_numpy(np.stack(stress).astype(np.float64)),
            "cell": torch.from_numpy(np.stack([s.cell for s in structures]).astype(np.float64)),
            "pbc": torch.from_numpy(np.stack([s.pbc for s in structures]).astype(bool)),
        }
        self._states = {
            "charge": per_structure([s.charge for s in structures]),
            "spin": per_structure([s.spin for s in structures]),
        }

    def gathered(self, name: str, places: Tensor) -> Tensor:
        return self._atoms[name].index_select(0, places)

    def column(self, name: str, chosen: Tensor) -> Tensor:
        return self._columns[name].index_select(0, chosen)

    def state(self, name: str, chosen: Tensor) -> Tensor | None:
        values = self._states[name]
        return None if values is None else values.index_select(0, chosen)


class _Stored:
    """Structures on disk."""

    def __init__(self, frames: StoredFrames) -> None:
        self._frames = frames
        self.sizes = torch.from_numpy(frames.sizes)
        self.first = torch.from_numpy(frames.store.first[frames.indices])
        self._states = {name: not bool(np.isnan(frames.column(name)).all()) for name in ("charge", "spin")}

    def gathered(self, name: str, places: Tensor) -> Tensor:
        array = self._frames.store.arrays[name][places.numpy()]
        self._frames.store.touch(4 * array.nbytes)
        return torch.from_numpy(array.astype(np.int64) if name == "numbers" else array)

    def column(self, name: str, chosen: Tensor) -> Tensor:
        return torch.from_numpy(self._frames.store.arrays[name][self._frames.indices[chosen.numpy()]])

    def state(self, name: str, chosen: Tensor) -> Tensor | None:
        return self.column(name, chosen) if self._states[name] else None


class _Edges(Protocol):
    """The neighbours within the cutoff: `counts` (S,) are numbers of directed edges."""

    counts: Tensor

    def of(self, chosen: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centres, neighbours (E,) and shifts (E, 3) of a batch whose structures begin at the atoms `start`."""
        ...


class _PackedEdges:
    """Edges found once, kept as small integers relative to their structure."""

    def __init__(self, structures: Sequence[Structure], cutoff: float, progress: Progress) -> None:
        lists = []
        for structure in track(structures, len(structures), "neighbour lists", progress):
            centre, neighbour, shift = neighbour_list(structure, cutoff)
            lists.append((centre.astype(np.int32), neighbour.astype(np.int32), _narrowed(shift)))
        self.counts = torch.tensor([len(edges[0]) for edges in lists], dtype=torch.int64)
        self._centre = _joined([edges[0] for edges in lists], np.int32)
        self._neighbour = _joined([edges[1] for edges in lists], np.int32)
        self._shift = torch.from_numpy(np.concatenate([edges[2] for edges in lists]))
        self._first = self.counts.cumsum(0) - self.counts

    def of(self, chosen: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        counts = self.counts[chosen]
        first = self._first[chosen] - (counts.cumsum(0) - counts)
        edges = torch.arange(int(counts.sum())) + torch.repeat_interleave(first, counts)
        offset = torch.repeat_interleave(start, counts)
        return (
            self._centre.index_select(0, edges) + offset,
            self._neighbour.index_select(0, edges) + offset,
            self._shift.index_select(0, edges).to(torch.int64),
        )


class _Computed:
    """Edges found anew for every batch; their numbers are kept beside the store."""

    def __init__(self, frames: StoredFrames, cutoff: float, progress: Progress) -> None:
        self._frames, self._cutoff = frames, cutoff
        path = frames.store.folder / f"edges-{cutoff!r}.i4"
        if not path.exists():
            everything = StoredFrames(frames.store)
            watched = track(everything, len(everything), "neighbour lists", progress)
            counts = np.fromiter((len(neighbour_list(s, cutoff)[0]) for s in watched), np.int32, len(everything))
            part = path.with_suffix(f".{os.getpid()}.part")
            counts.tofile(part)
            part.replace(path)
        self.counts = torch.from_numpy(np.fromfile(path, dtype=np.int32)[frames.indices].astype(np.int64))

    def of(self, chosen: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lists = [neighbour_list(self._frames[k], self._cutoff) for k in chosen.tolist()]
        offsets = start.tolist()
        return (
            torch.from_numpy(np.concatenate([e[0] + at for e, at in zip(lists, offsets, strict=True)])),
            torch.from_numpy(np.concatenate([e[1] + at for e, at in zip(lists, offsets, strict=True)])),
            torch.from_numpy(np.concatenate([e[2] for e in lists])),
        )


def _joined(arrays: Sequence[NDArray], dtype: type) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays).astype(dtype, copy=False))


def _narrowed(shift: NDArray[np.int64]) -> NDArray[np.integer]:
    """Shifts as int16, or int32 where atoms have wandered more than 32767 cells."""
    fits = shift.size == 0 or np.abs(shift).max() < 2**15
    return shift.astype(np.int16 if fits else np.int32)
