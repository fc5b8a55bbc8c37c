"""Small potentials for tests: closed forms with known answers, and a network that trains in a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors, sum_over_neighbours
from fireassay.potential import LocalPotential


class Pair(LocalPotential):
    """ε (σ/r)^p with a C2 switch to zero at the cutoff; parameters ε and σ; descriptor: the density at the atom."""

    def __init__(self, cutoff: float = 5.0, epsilon: float = 0.3, sigma: float = 1.5, power: int = 6) -> None:
        super().__init__()
        self.arguments = {"cutoff": cutoff, "epsilon": epsilon, "sigma": sigma, "power": power}
        self.cutoff, self.power = cutoff, power
        self.epsilon = nn.Parameter(torch.tensor(epsilon, dtype=torch.float64))
        self.sigma = nn.Parameter(torch.tensor(sigma, dtype=torch.float64))

    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        r = edge_vectors(graph).norm(dim=1)
        x = (r / self.cutoff).clamp(max=1.0)
        switch = 1 - 10 * x**3 + 15 * x**4 - 6 * x**5
        pair = self.epsilon * (self.sigma / r) ** self.power * switch
        density = sum_over_neighbours(torch.stack([switch, switch**2], 1), graph)
        return sum_over_neighbours(pair, graph) / 2, density


class Network(LocalPotential):
    """Species-weighted Gaussian densities through a small MLP: the least that can be trained on anything."""

    def __init__(
        self, species: list[int], cutoff: float = 4.0, width: int = 16, n_basis: int = 8, seed: int = 0
    ) -> None:
        super().__init__()
        self.arguments = {"species": species, "cutoff": cutoff, "width": width, "n_basis": n_basis, "seed": seed}
        self.species, self.cutoff = tuple(species), cutoff
        generator = torch.Generator().manual_seed(seed)
        z = torch.zeros(119, dtype=torch.int64)
        z[species] = torch.arange(len(species))
        self.register_buffer("index", z, persistent=False)
        self.register_buffer("centres", torch.linspace(0.7, cutoff, n_basis), persistent=False)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) / shape[0] ** 0.5)

        n = len(species)
        self.pair = nn.Parameter(torch.randn(n, n, n_basis, width, generator=generator) / n_basis**0.5)
        self.hidden = weight(width, width)
        self.readout = weight(width, 1)

    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        r = edge_vectors(graph).norm(dim=1, keepdim=True)
        x = (r / self.cutoff).clamp(max=1.0)
        basis = torch.exp(-4 * (r - self.centres) ** 2) * (1 - 10 * x**3 + 15 * x**4 - 6 * x**5)
        z = self.index[graph.atomic_numbers]
        weights = self.pair[z[graph.centre], z[graph.neighbour]]  # (E, n_basis, width)
        density = sum_over_neighbours(torch.einsum("eb,ebw->ew", basis, weights), graph)
        hidden = torch.tanh(density) @ self.hidden
        return (torch.tanh(hidden) @ self.readout).squeeze(1), hidden
