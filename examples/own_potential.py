# %% [markdown]
# # A new architecture in one file
# A local potential needs its constructor's arguments, a cutoff and one method. Forces, stress, molecular dynamics,
# landscapes and uncertainty follow. The contract says whether it is sound.

# %%
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors, from_structures, sum_over_neighbours
from fireassay.data.readers import read
from fireassay.nn.embedding import SpeciesIndex
from fireassay.nn.radial import BesselBasis
from fireassay.potential import LocalPotential
from fireassay.testing import assert_potential_contract


class Density(LocalPotential):
    """Atom energies from learnable, species-dependent pair densities."""

    def __init__(self, species: Sequence[int], cutoff: float = 5.0, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.arguments = {"species": list(species), "cutoff": cutoff, "width": width, "seed": seed}
        self.index = SpeciesIndex(species)
        self.species, self.cutoff = self.index.species, cutoff
        self.basis = BesselBasis(cutoff, 8, 6, trainable=True)
        generator = torch.Generator().manual_seed(seed)
        n = len(self.species)
        self.mix = nn.Parameter(torch.randn(n, n, 8, width, generator=generator) / 8**0.5)
        self.out = nn.Parameter(torch.randn(width, 1, generator=generator) / width**0.5)

    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Atom energies (N,) in eV and descriptors (N, width)."""
        z = self.index(graph.atomic_numbers)
        r = torch.linalg.vector_norm(edge_vectors(graph), dim=1)
        weights = self.mix[z[graph.centre], z[graph.neighbour]]  # (E, 8, width)
        hidden = torch.tanh(sum_over_neighbours(torch.einsum("eb,ebw->ew", self.basis(r), weights), graph))
        return (hidden @ self.out).squeeze(1), hidden


# %%
print(assert_potential_contract(lambda: Density(species=[1, 6, 7, 8], cutoff=4.0)))

# %%
frames = read("3bpa-xtb/train_300K")[:4]
prediction = Density(species=[1, 6, 7, 8]).predict(from_structures(frames, 5.0, torch.float32))
print(prediction.energy)
