"""MACE: higher-order equivariant message passing (Batatia et al., NeurIPS 2022, arXiv:2206.07697).

Numbers are those of the public package mace-torch 0.3.16 under copied weights (`interop.mace_weights`). Isolated-atom
energies, scale and shift are `potential.Baseline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal, NamedTuple, Self, cast

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.connectivity import Connectivity
from fireassay.nn.convolution import Coupling
from fireassay.nn.cutoff import polynomial_cutoff
from fireassay.nn.distance_transform import AgnesiTransform, SoftTransform
from fireassay.nn.equivariant import EquivariantLinear, SpeciesOrder, species_order
from fireassay.nn.mlp import SILU_NORM, ScalarMLP
from fireassay.nn.radial import BesselBasis
from fireassay.nn.radial_table import tabulated
from fireassay.nn.screened_repulsion import MACE_TORCH, ScreenedRepulsion
from fireassay.nn.segment import segment_sum
from fireassay.nn.so3 import Irreps, spherical_harmonics
from fireassay.nn.symmetric_contraction import FrozenContraction, SymmetricContraction
from fireassay.potential import NetworkPotential, constructor_arguments


class MACE(NetworkPotential):
    """Atom energies from `n_layers` layers, each a convolution followed by products of up to `correlation` messages.

    species: atomic numbers; cutoff in Å; l_max: degree of the harmonics and of the messages; channels: features of
    each irrep; hidden_l_max: highest degree of the features between layers, 1 for "0e+1o"; correlation: ν, one less
    than the body order of a layer; n_basis Bessel functions, with trainable frequencies if asked, under an envelope of
    degree envelope_p; radial_hidden: widths of the radial network's hidden layers; readout_hidden: width of the last
    readout, an SiLU network (the others are linear); average_neighbours: take it from the training set; residual_first:
    the first layer keeps the species beside the message (mace-torch's ScaleShiftMACE) instead of mapping the message
    by species (its MACE, and the paper); density_normalised: messages are divided by one plus a learned density of
    neighbours instead of average_neighbours; distance_transform of the Bessel functions' argument by covalent radii;
    pair_repulsion: the ZBL energy of pairs closer than the sum of their covalent radii is added (the three are those of
    MACE-MP-0b and later); seed of the initial weights.

    The defaults are those of mace-torch. The last layer keeps scalars only. The energy of an isolated atom is zero;
    with `residual_first` it is subtracted, which mace-torch does not.

    Raises InputError for arguments out of range, and for a graph with an element that is not in `species`.
    """

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        n_layers: int = 2,
        l_max: int = 3,
        channels: int = 128,
        hidden_l_max: int = 1,
        correlation: int = 3,
        n_basis: int = 8,
        trainable_bessel: bool = False,
        envelope_p: int = 5,
        radial_hidden: Sequence[int] = (64, 64, 64),
        readout_hidden: int = 16,
        average_neighbours: float = 16.0,
        residual_first: bool = False,
        density_normalised: bool = False,
        distance_transform: Literal["agnesi", "soft"] | None = None,
        pair_repulsion: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(species, cutoff, isolated_is_zero=not residual_first)
        self.arguments = constructor_arguments(locals())
        sizes = (cutoff, n_layers, channels, correlation, n_basis, envelope_p, readout_hidden, average_neighbours)
        if min(sizes) <= 0 or min(l_max, hidden_l_max) < 0:
            raise InputError(f"sizes of a MACE must be positive, got {self.arguments}")
        if distance_transform not in (None, *TRANSFORMS):
            raise InputError(f"distance_transform is {distance_transform!r}; known are agnesi, soft and none")
        generator = torch.Generator().manual_seed(seed)
        self.l_max = l_max
        self.basis: nn.Module = BesselBasis(cutoff, n_basis, envelope_p, trainable_bessel, orthonormal=True)
        self.transform = TRANSFORMS[distance_transform]() if distance_transform else None
        self.repulsion = PairRepulsion(cutoff, envelope_p) if pair_repulsion else None
        self.register_buffer("atomic_numbers", torch.tensor(self.species), persistent=False)
        self.embedding = nn.Parameter(torch.randn(len(species), channels, generator=generator))
        self.layers, self.readouts = nn.ModuleList(), nn.ModuleList()
        irreps = Irreps("0e")
        for layer in range(n_layers):
            last = layer == n_layers - 1
            block = Layer(
                irreps,
                Irreps("0e") if last else Irreps.harmonics(hidden_l_max),
                Irreps.harmonics(l_max),
                channels,
                correlation,
                (n_basis, *radial_hidden),
                average_neighbours,
                len(species),
                layer > 0 or residual_first,
                density_normalised,
                generator,
            )
            widths = (channels, readout_hidden, 1) if last and layer else (channels, 1)
            self.layers.append(block)
            self.readouts.append(ScalarMLP(widths, generator, SILU_NORM, distribution="normal"))
            irreps = block.irreps_out

    atomic_numbers: Tensor

    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV, and the last layer's scalars (R, channels)."""
        vectors = edge_vectors(graph)
        edges = Connectivity.of(graph.centre, graph.neighbour, graph.shift, len(rows))
        distances = torch.linalg.vector_norm(edges.per_pair(vectors), dim=1)
        ends: list[Tensor] = []  # atomic numbers of the two atoms of a pair
        if self.transform is not None or self.repulsion is not None:
            both = (graph.centre, graph.neighbour)
            ends = [self.atomic_numbers[rows[edges.per_pair(atoms)]] for atoms in both]
        arguments = (distances,) if self.transform is None else (distances, self.transform(distances, *ends))
        around = Surroundings(
            edges=edges,
            harmonics=spherical_harmonics(self.l_max, vectors),
            basis=self.basis(*arguments),
            species=species_order(rows, len(self.index)),
        )
        features = (self.embedding / sqrt(len(self.index)))[rows].unsqueeze(1)  # (R, 1, C)
        energies = features.new_zeros(len(rows))
        if self.repulsion is not None:
            energies = segment_sum(edges.per_edge(self.repulsion(distances, *ends)), edges.centres)
        for layer, readout in zip(self.layers, self.readouts, strict=True):
            features = layer(features, around)
            energies = energies + readout(features[:, 0]).squeeze(1)
        return energies, features[:, 0]

    def frozen(self) -> Self:
        """A twin for inference: radial networks tabulated, weights and constants contracted once."""
        twin = super().frozen()
        if isinstance(cast(Layer, twin.layers[0]).contraction, FrozenContraction):
            return twin
        for layer in cast(list[Layer], list(twin.layers)):
            layer.contraction = cast(SymmetricContraction, layer.contraction).frozen()
            if self.transform is None:  # otherwise the weights depend on the species too
                layer.radial = tabulated(nn.Sequential(twin.basis, layer.radial), self.cutoff)  # type: ignore[assignment]
                if layer.density is not None:
                    layer.density = tabulated(nn.Sequential(twin.basis, layer.density), self.cutoff)
        if self.transform is None:
            twin.basis = nn.Identity()  # the tables take distances
        return twin


class Surroundings(NamedTuple):
    """What all layers share: the edges with their harmonics (E, M_sh), the radial basis (P, B) of their pairs, the
    atoms' species."""

    edges: Connectivity
    harmonics: Tensor
    basis: Tensor
    species: SpeciesOrder


TRANSFORMS: dict[str, type[nn.Module]] = {"agnesi": AgnesiTransform, "soft": SoftTransform}


class PairRepulsion(nn.Module):
    """Half the screened repulsion of a pair, under an envelope to the sum of the covalent radii (mace-torch)."""

    radii: Tensor

    def __init__(self, cutoff: float, envelope_p: int) -> None:
        super().__init__()
        self.cutoff, self.envelope_p = cutoff, envelope_p
        self.screened = ScreenedRepulsion(MACE_TORCH)
        self.register_buffer("radii", torch.tensor(covalent_radii, dtype=torch.get_default_dtype()))

    def forward(self, distances: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Distances (E,) in Å between atoms of the atomic numbers `first` and `second` (E,) to eV per atom (E,)."""
        envelope = polynomial_cutoff(distances / (self.radii[first] + self.radii[second]), 1.0, self.envelope_p)
        energies = self.screened(distances, first, second) * envelope / 2
        return torch.where(distances < self.cutoff, energies, 0.0)


class EdgeDensity(nn.Module):
    """tanh((w · basis)^2) of every edge, whose sum over the neighbours is their density (mace-torch)."""

    def __init__(self, n_basis: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_basis, 1, generator=generator))

    def forward(self, basis: Tensor) -> Tensor:
        """(E, B) to (E, 1)."""
        return torch.tanh((basis @ (self.weight / sqrt(len(self.weight)))).square())


class Layer(nn.Module):
    """One interaction and product: h' = linear(B(A(h))) + self-connection(h) (eqs. 8-11).

    With a residual the species enter by the self-connection, without one by a linear map of A.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        irreps_out: Irreps,
        harmonics: Irreps,
        channels: int,
        correlation: int,
        radial_widths: Sequence[int],
        average_neighbours: float,
        n_species: int,
        residual: bool,
        density_normalised: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.irreps_out, self.residual = irreps_out, residual
        self.coupling = Coupling.of(irreps_in, harmonics, harmonics)
        n_paths = len(self.coupling.paths)
        self.linear_up = EquivariantLinear(irreps_in, irreps_in, channels, channels, generator)
        widths = (*radial_widths, n_paths * channels)
        self.radial = ScalarMLP(widths, generator, SILU_NORM, distribution="normal")
        gain = 1.0 if density_normalised else 1 / average_neighbours
        self.mix = EquivariantLinear(self.coupling.irreps_out, harmonics, channels, channels, generator, gain=gain)
        skip = (irreps_in, irreps_out) if residual else (harmonics, harmonics)
        self.skip = EquivariantLinear(*skip, channels, channels, generator, n_species, count_species=True)
        self.contraction: nn.Module = SymmetricContraction(
            harmonics, irreps_out, correlation, channels, n_species, generator
        )
        self.linear = EquivariantLinear(irreps_out, irreps_out, channels, channels, generator)
        self.density: nn.Module | None = EdgeDensity(radial_widths[0], generator) if density_normalised else None

    def forward(self, features: Tensor, around: Surroundings) -> Tensor:
        """(N, M_in, C) to (N, M_out, C)."""
        weights = self.radial(around.basis).unflatten(1, (len(self.coupling.paths), -1))  # (P, paths, C)
        edges = around.edges
        messages = edges.convolve(self.linear_up(features), around.harmonics, weights, self.coupling)
        messages = self.mix(messages)  # A, eq. 9
        if self.density is not None:
            density = edges.per_edge(self.density(around.basis).squeeze(1))
            messages = messages / (1 + segment_sum(density, edges.centres)).view(-1, 1, 1)
        if not self.residual:
            messages = self.skip(messages, around.species)
        products = self.linear(self.contraction(messages, around.species.species))  # eq. 11
        return products + self.skip(features, around.species) if self.residual else products
