"""ZBL: the repulsion of screened nuclei (Ziegler, Biersack and Littmark, 1985), a core for a network beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fireassay.data.graph import Graph, edge_vectors, sum_over_neighbours
from fireassay.errors import InputError
from fireassay.nn.cutoff import polynomial_cutoff
from fireassay.nn.embedding import SpeciesIndex
from fireassay.nn.screened_repulsion import LAMMPS, ScreenedRepulsion
from fireassay.potential import LocalPotential


class ZBL(LocalPotential):
    """Atom energies, half the screened repulsion of each pair, under the polynomial envelope of degree envelope_p.

    species: atomic numbers; cutoff in Å; pair_cutoffs: cutoffs in Å for each species of the centre and of the
    neighbour, none above `cutoff`. The constants are those of LAMMPS and of nequip's `ZBL`, whose numbers these are.
    There are no parameters and no descriptors (N, 0).

    Raises InputError for arguments out of range, and for a graph with an element that is not in `species`.
    """

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 4.0,
        envelope_p: int = 6,
        pair_cutoffs: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        table = None if pair_cutoffs is None else [list(row) for row in pair_cutoffs]
        self.arguments = {
            "species": list(species),
            "cutoff": cutoff,
            "envelope_p": envelope_p,
            "pair_cutoffs": table,
        }
        self.index = SpeciesIndex(species)
        self.species, self.cutoff, self.envelope_p = self.index.species, float(cutoff), envelope_p
        square = table or [[cutoff] * len(species)] * len(species)
        if not cutoff > 0 or envelope_p < 1 or [len(row) for row in square] != [len(species)] * len(species):
            raise InputError(f"a ZBL needs positive sizes and a square table of pair cutoffs, got {self.arguments}")
        if not all(0 < value <= cutoff for row in square for value in row):
            raise InputError(f"pair_cutoffs {table} must lie in (0, {cutoff}] Å")
        self.screened = ScreenedRepulsion(LAMMPS)
        self.register_buffer("cutoffs", torch.tensor(square, dtype=torch.get_default_dtype()))

    cutoffs: Tensor  # (Z, Z)

    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Atom energies (N,) in eV, zero for isolated atoms, and no descriptors (N, 0)."""
        rows = self.index(graph.atomic_numbers)
        distances = torch.linalg.vector_norm(edge_vectors(graph), dim=1)
        ends = graph.centre, graph.neighbour
        envelope = polynomial_cutoff(distances / self.cutoffs[rows[ends[0]], rows[ends[1]]], 1.0, self.envelope_p)
        pairs = self.screened(distances, *(graph.atomic_numbers[atoms] for atoms in ends))
        energies = sum_over_neighbours(pairs * envelope / 2, graph)
        return energies, energies.new_zeros(graph.n_atoms, 0)
