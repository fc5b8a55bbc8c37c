"""NequIP: E(3)-equivariant message passing (Batzner et al., Nat. Commun. 13, 2453, 2022).

Numbers are those of the public package nequip 0.19.1 under copied weights. A scale and shift per species (eq. 10) and
the isolated-atom energies are `potential.Baseline`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.connectivity import Connectivity
from fireassay.nn.convolution import Coupling
from fireassay.nn.equivariant import EquivariantLinear, Gate, SpeciesOrder, species_order
from fireassay.nn.mlp import ScalarMLP
from fireassay.nn.radial import BesselBasis
from fireassay.nn.radial_table import tabulated
from fireassay.nn.so3 import Irrep, Irreps, spherical_harmonics
from fireassay.potential import NetworkPotential, constructor_arguments


class NequIP(NetworkPotential):
    """Atom energies from `n_layers` equivariant convolutions of features up to degree `l_max`.

    species: atomic numbers; cutoff in Å; parity: features of both parities for each degree, or only those of the
    harmonics, (-1)^l; channels: features of each irrep; n_basis Bessel functions with trainable frequencies, under an
    envelope of degree envelope_p; radial_hidden: widths of the radial network's hidden layers; readout_hidden and
    readout_activation: those of the output block, by default two linear layers; average_neighbours: N of eq. 8, take it
    from the training set, one number or one for each species of the neighbour; pair_cutoffs: cutoffs in Å for each
    species of the centre and of the neighbour, none above `cutoff`; first_self_connection: also in the first layer, as
    in nequip 0.6; reflections: False makes all features and harmonics even (nequip 0.6 without parity), so that a
    molecule and its mirror image may differ in energy, against law 2; seed of the initial weights.

    The defaults are those of the paper for small molecules (Methods, "Hyperparameters"; table VII). The first layer
    has no self-connection, as in nequip 0.19.1, so that an isolated atom has an energy of exactly zero; with
    `first_self_connection` it has one, which is subtracted. The weights of the self-connections are those of each
    species (nequip 0.19.1 contracts shared ones with its embedding of the species: the same functions). Features from
    which the energy cannot be reached do not exist (nequip makes them).

    Raises InputError for arguments out of range, and for a graph with an element that is not in `species`.
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rotation": {"reflections": False, "n_layers": 3}}

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 4.0,
        n_layers: int = 5,
        l_max: int = 2,
        parity: bool = True,
        channels: int = 32,
        n_basis: int = 8,
        trainable_bessel: bool = True,
        envelope_p: int = 6,
        radial_hidden: Sequence[int] = (64, 64, 64),
        readout_hidden: Sequence[int] = (16,),
        readout_activation: Literal["silu"] | None = None,
        average_neighbours: float | Sequence[float] = 16.0,
        pair_cutoffs: Sequence[Sequence[float]] | None = None,
        first_self_connection: bool = False,
        reflections: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(species, cutoff, isolated_is_zero=not first_self_connection)
        self.arguments = constructor_arguments(locals())
        averages = list(average_neighbours) if isinstance(average_neighbours, Sequence) else [average_neighbours]
        sizes = (cutoff, n_layers, channels, n_basis, envelope_p, *averages, *radial_hidden, *readout_hidden)
        if min(sizes) <= 0 or l_max < 0 or readout_activation not in (None, "silu"):
            raise InputError(f"a NequIP needs positive sizes and the activation silu or none, got {self.arguments}")
        if isinstance(average_neighbours, Sequence) and len(averages) != len(species):
            raise InputError(
                f"{len(averages)} average_neighbours for {len(species)} species: give one number, or one each"
            )
        generator = torch.Generator().manual_seed(seed)
        self.l_max, self.tabulated = l_max, False
        self.basis = BesselBasis(cutoff, n_basis, envelope_p, trainable_bessel)
        self.embedding = nn.Parameter(torch.randn(len(species), channels, generator=generator))
        self.stretch = None if pair_cutoffs is None else PairStretch(cutoff, pair_cutoffs, len(species))
        self.first_self_connection = first_self_connection
        self.layers = nn.ModuleList()
        harmonics = Irreps(Irrep(degree, (-1) ** degree if reflections else 1) for degree in range(l_max + 1))
        irreps = Irreps("0e")
        for layer, wanted in enumerate(_layer_irreps(n_layers, harmonics, parity and reflections)):
            block = InteractionBlock(
                irreps,
                wanted,
                harmonics,
                channels,
                (n_basis, *radial_hidden),
                averages,
                len(species) if layer or first_self_connection else None,
                generator,
            )
            self.layers.append(block)
            irreps = block.irreps_out
        self.readout = ScalarMLP((channels, *readout_hidden, 1), generator, activation=readout_activation)

    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV, and the last layer's even scalars (R, channels)."""
        vectors = edge_vectors(graph)
        edges = Connectivity.of(graph.centre, graph.neighbour, graph.shift, len(rows))
        if self.stretch is not None and not self.stretch.symmetric:
            edges = edges._replace(pairs=None)
        distances = torch.linalg.vector_norm(edges.per_pair(vectors), dim=1)
        if self.stretch is not None:
            ends = (rows[edges.per_pair(atoms)] for atoms in (graph.centre, graph.neighbour))
            distances = self.stretch(distances, *ends)
        around = Surroundings(
            edges=edges,
            species=species_order(rows, len(self.index)),
            harmonics=spherical_harmonics(self.l_max, vectors),
            radial=distances if self.tabulated else self.basis(distances),
        )
        features = self.embedding.index_select(0, rows).unsqueeze(1)  # (R, 1, C)
        for layer in self.layers:
            features = layer(features, around)
        scalars = features.squeeze(1)
        return self.readout(scalars).squeeze(1), scalars

    def frozen(self) -> Self:
        """A twin for inference whose radial networks are tables; forces differ by about 1e-6 of the largest."""
        twin = super().frozen()
        if not self.tabulated:
            for layer in twin.layers:
                assert isinstance(layer, InteractionBlock)
                layer.radial = tabulated(nn.Sequential(twin.basis, layer.radial), self.cutoff)
            twin.tabulated = True
        return twin


def _layer_irreps(n_layers: int, harmonics: Irreps, parity: bool) -> list[Irreps]:
    """The irreps that each layer makes: those of the paper from which a later layer reaches the energy."""
    hidden = Irreps(Irrep(degree, p) for degree, own in harmonics for p in ((1, -1) if parity else (own,)))
    layers = [Irreps("0e")]
    for _ in range(n_layers - 1):
        layers.insert(0, hidden.leading_to(layers[0], harmonics))
    return layers


class PairStretch(nn.Module):
    """Distances stretched so that the cutoff of every pair of species becomes `cutoff`, the argument of the basis."""

    factors: Tensor  # (Z, Z), of centre and neighbour

    def __init__(self, cutoff: float, pair_cutoffs: Sequence[Sequence[float]], n_species: int) -> None:
        super().__init__()
        table = [list(row) for row in pair_cutoffs]
        if [len(row) for row in table] != [n_species] * n_species or not all(0 < x <= cutoff for r in table for x in r):
            raise InputError(f"pair_cutoffs {table} must be {n_species} rows of {n_species} numbers in (0, {cutoff}] Å")
        cutoffs = torch.tensor(table, dtype=torch.float64)
        self.symmetric = bool((cutoffs == cutoffs.T).all())
        self.register_buffer("factors", (cutoff / cutoffs).to(torch.get_default_dtype()))

    def forward(self, distances: Tensor, centre: Tensor, neighbour: Tensor) -> Tensor:
        """Distances (E,) between atoms of the species rows `centre` and `neighbour` (E,) to (E,)."""
        return distances * self.factors[centre, neighbour]


class Surroundings(NamedTuple):
    """What every layer sees of the graph; both directions of an edge share their radial weights."""

    edges: Connectivity
    species: SpeciesOrder
    harmonics: Tensor  # (E, M_sh)
    radial: Tensor  # (P, n_basis), or the distances (P,) for tables


class InteractionBlock(nn.Module):
    """x' = gate(linear(convolution(linear(x))) + self-connection(x)) (fig. 2, section "Interaction Block").

    Of the `wanted` output irreps those are made that the convolution can reach. `n_species` is None for a layer
    without a self-connection.
    """

    def __init__(
        self,
        irreps_in: Irreps,
        wanted: Irreps,
        harmonics: Irreps,
        channels: int,
        radial_widths: Sequence[int],
        average_neighbours: Sequence[float],
        n_species: int | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        reached = {out for a in irreps_in for b in harmonics for out in a.product(b)}
        self.gate = Gate(Irreps(irrep for irrep in wanted if irrep in reached))
        self.irreps_out = self.gate.irreps_out
        paths = Coupling.of(irreps_in, harmonics, self.gate.irreps_in).paths
        used = Irreps(irrep for block, irrep in enumerate(irreps_in) if any(block == path[0] for path in paths))
        self.coupling = Coupling.of(used, harmonics, self.gate.irreps_in)
        gains = [1 / sqrt(average) for average in average_neighbours]  # of eq. 8, moved before the sum
        gain = gains[0] if len(gains) == 1 else 1.0
        norms = None if len(gains) == 1 else torch.tensor(gains, dtype=torch.get_default_dtype()).view(-1, 1, 1)
        self.register_buffer("norms", norms)  # of the species of the neighbour
        self.linear = EquivariantLinear(irreps_in, used, channels, channels, generator, gain=gain)
        n_paths = len(self.coupling.paths)
        self.radial: nn.Module = ScalarMLP((*radial_widths, n_paths * channels), generator)  # eq. 7
        self.mix = EquivariantLinear(self.coupling.irreps_out, self.gate.irreps_in, channels, channels, generator)
        self.self_connection = None
        if n_species is not None:
            self.self_connection = EquivariantLinear(
                irreps_in, self.gate.irreps_in, channels, channels, generator, n_species
            )

    norms: Tensor | None

    def forward(self, features: Tensor, around: Surroundings) -> Tensor:
        """(N, M_in, C) to (N, M_out, C)."""
        weights = self.radial(around.radial).unflatten(1, (len(self.coupling.paths), -1))  # (P, paths, C)
        sent = self.linear(features)
        if self.norms is not None:
            sent = sent * self.norms[around.species.species]
        messages = self.mix(around.edges.convolve(sent, around.harmonics, weights, self.coupling))
        if self.self_connection is not None:
            messages = messages + self.self_connection(features, around.species)
        return self.gate(messages)
