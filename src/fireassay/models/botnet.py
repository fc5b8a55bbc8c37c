"""BOTNet: body-ordered equivariant message passing (Batatia et al., Nat. Mach. Intell. 7, 56, 2025, arXiv:2205.06643).

Numbers are those of the authors' code, github.com/gncs/botnet, under copied weights. Isolated-atom energies, scale and
shift are `potential.Baseline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.connectivity import Connectivity
from fireassay.nn.convolution import Coupling
from fireassay.nn.equivariant import EquivariantLinear, SpeciesOrder, species_order
from fireassay.nn.mlp import SILU_NORM, ScalarMLP
from fireassay.nn.radial import BesselBasis
from fireassay.nn.radial_table import tabulated
from fireassay.nn.so3 import Irrep, Irreps, spherical_harmonics
from fireassay.potential import NetworkPotential, constructor_arguments


class BOTNet(NetworkPotential):
    """Atom energies from `n_layers` linear equivariant convolutions, each of which adds one to the body order.

    Nothing but the radial functions and the last readout is non-linear: layer t makes functions of t + 1 bodies, read
    out one by one, E_i = sum over t of R_t(h_i^t); the last readout, an SiLU network, stands for the bodies beyond.

    species: atomic numbers; cutoff in Å; l_max: degree of the harmonics; hidden_l_max and parity: degree of the
    features between layers, of both parities or of those of the harmonics, (-1)^l; channels: features of each irrep;
    n_basis Bessel functions, with trainable frequencies if asked, under an envelope of degree envelope_p;
    radial_hidden: widths of the radial network's hidden layers; readout_hidden: width of the last readout;
    average_neighbours: take it from the training set; seed of the initial weights.

    Published options. element_dependent: from the second layer on the radial functions are linear in the basis, with
    coefficients of the neighbour's species, instead of a network without species. residual_first: the first layer,
    too, adds the features of the atom itself to its message (and has element-dependent radial functions when the
    others have), instead of mapping the message by species.

    The defaults are those of the authors' run for 3BPA. Features from which the energy cannot be reached do not exist
    (the authors' code makes them). The energy of an isolated atom is zero; with `residual_first` it is subtracted,
    which the authors' code does not.

    Raises InputError for arguments out of range, and for a graph with an element that is not in `species`.
    """

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 4.0,
        n_layers: int = 5,
        l_max: int = 3,
        hidden_l_max: int = 3,
        parity: bool = True,
        channels: int = 80,
        n_basis: int = 8,
        trainable_bessel: bool = False,
        envelope_p: int = 6,
        radial_hidden: Sequence[int] = (64, 64, 64),
        readout_hidden: int = 16,
        average_neighbours: float = 16.0,
        element_dependent: bool = False,
        residual_first: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(species, cutoff, isolated_is_zero=not residual_first)
        self.arguments = constructor_arguments(locals())
        sizes = (cutoff, n_layers, channels, n_basis, envelope_p, readout_hidden, average_neighbours, *radial_hidden)
        if min(sizes) <= 0 or min(l_max, hidden_l_max) < 0:
            raise InputError(f"sizes of a BOTNet must be positive, got {self.arguments}")
        generator = torch.Generator().manual_seed(seed)
        self.l_max = l_max
        self.basis: nn.Module = BesselBasis(cutoff, n_basis, envelope_p, trainable_bessel, orthonormal=True)
        self.embedding = nn.Parameter(torch.randn(len(species), channels, generator=generator))
        self.layers, self.readouts = nn.ModuleList(), nn.ModuleList()
        harmonics, irreps = Irreps.harmonics(l_max), Irreps("0e")
        for layer, wanted in enumerate(_layer_irreps(n_layers, harmonics, hidden_l_max, parity)):
            residual = layer > 0 or residual_first
            radial = (n_basis,) if element_dependent and residual else (n_basis, *radial_hidden)
            block = Layer(
                irreps,
                wanted,
                harmonics,
                channels,
                radial,
                average_neighbours,
                len(species),
                residual,
                element_dependent and residual,
                generator,
            )
            last = layer and layer == n_layers - 1
            widths = (channels, readout_hidden, 1) if last else (channels, 1)
            self.layers.append(block)
            self.readouts.append(ScalarMLP(widths, generator, SILU_NORM, distribution="normal"))
            irreps = block.irreps_out

    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV, and the last layer's even scalars (R, channels)."""
        around = self._surroundings(rows, graph)
        features = (self.embedding / sqrt(len(self.index))).index_select(0, rows).unsqueeze(1)  # (R, 1, C)
        energies = features.new_zeros(len(rows))
        for layer, readout in zip(self.layers, self.readouts, strict=True):
            features = layer(features, around)
            energies = energies + readout(features[:, layer.scalars]).squeeze(1)
        return energies, features[:, 0]

    def _surroundings(self, rows: Tensor, graph: Graph) -> Surroundings:
        vectors = edge_vectors(graph)
        edges = Connectivity.of(graph.centre, graph.neighbour, graph.shift, len(rows))
        neighbours = None
        if any(layer.element_dependent for layer in self.layers):
            neighbours = species_order(rows.index_select(0, graph.neighbour), len(self.index))
        return Surroundings(
            edges=edges,
            harmonics=spherical_harmonics(self.l_max, vectors),
            radial=self.basis(torch.linalg.vector_norm(edges.per_pair(vectors), dim=1)),
            species=species_order(rows, len(self.index)),
            neighbours=neighbours,
        )

    def frozen(self) -> Self:
        """A twin for inference whose radial networks are tables."""
        twin = super().frozen()
        if isinstance(twin.basis, nn.Identity):  # a frozen one already
            return twin
        for layer in twin.layers:
            assert isinstance(layer, Layer)
            if layer.element_dependent:
                layer.basis = twin.basis
            else:
                layer.radial = tabulated(nn.Sequential(twin.basis, layer.radial), self.cutoff)
        twin.basis = nn.Identity()  # the layers take distances
        return twin


def _layer_irreps(n_layers: int, harmonics: Irreps, hidden_l_max: int, parity: bool) -> list[Irreps]:
    """What each layer has to make: of the features between layers those from which the energy can be reached."""
    both = Irreps(Irrep(degree, p) for degree in range(hidden_l_max + 1) for p in (-1, 1))
    hidden = Irreps(irrep for irrep in both if parity or irrep.p == (-1) ** irrep.l)
    layers = [Irreps("0e")]
    for _ in range(n_layers - 1):
        layers.insert(0, hidden.leading_to(layers[0], harmonics))
    return layers


class Surroundings(NamedTuple):
    """What all layers share."""

    edges: Connectivity
    harmonics: Tensor  # (E, M_sh)
    radial: Tensor  # (P, B) of the pairs of edges, or their distances (P,) for tables
    species: SpeciesOrder  # of the atoms
    neighbours: SpeciesOrder | None  # of the edges (E,), by the species of the neighbour


class Layer(nn.Module):
    """One linear interaction: m_i = W (1/N) sum over j of R(r_ij) Y(r_ij) x U h_j; then h'_i = m_i + S_z h_i, or
    S_z m_i when it is not residual.

    Of the `wanted` output irreps those are made that the convolution can reach.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        wanted: Irreps,
        harmonics: Irreps,
        channels: int,
        radial_widths: Sequence[int],
        average_neighbours: float,
        n_species: int,
        residual: bool,
        element_dependent: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.residual, self.element_dependent = residual, element_dependent
        self.coupling = Coupling.of(irreps_in, harmonics, wanted)
        out = Irreps(irrep for irrep in wanted if irrep in self.coupling.irreps_out)
        self.irreps_out, self.scalars = out, out.slices[out.index(Irrep(0, 1))].start
        self.linear_up = EquivariantLinear(irreps_in, irreps_in, channels, channels, generator)
        n_weights = len(self.coupling.paths) * channels
        self.basis: nn.Module = nn.Identity()
        if element_dependent:
            scalar = Irreps("0e")
            self.radial: nn.Module = EquivariantLinear(
                scalar, scalar, radial_widths[0], n_weights, generator, n_species
            )
        else:
            self.radial = ScalarMLP((*radial_widths, n_weights), generator, SILU_NORM, distribution="normal")
        gain = 1 / average_neighbours
        self.mix = EquivariantLinear(self.coupling.irreps_out, out, channels, channels, generator, gain=gain)
        self.skip = EquivariantLinear(
            irreps_in if residual else out, out, channels, channels, generator, n_species, count_species=True
        )

    def forward(self, features: Tensor, around: Surroundings) -> Tensor:
        """(N, M_in, C) to (N, M_out, C)."""
        radial, edges = self.basis(around.radial), around.edges
        if self.element_dependent:  # both edges of a pair have the same weights for equal species only
            weights = self.radial(edges.per_edge(radial).unsqueeze(1), around.neighbours).squeeze(1)
            edges = edges._replace(pairs=None)
        else:
            weights = self.radial(radial)
        weights = weights.unflatten(1, (len(self.coupling.paths), -1))  # (P, paths, C), or (E, paths, C)
        messages = edges.convolve(self.linear_up(features), around.harmonics, weights, self.coupling)
        if self.residual:
            return self.mix(messages) + self.skip(features, around.species)
        return self.skip(self.mix(messages), around.species)
