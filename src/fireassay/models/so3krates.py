"""SO3krates: a Euclidean transformer (Frank, Unke and Müller, NeurIPS 2022; Frank et al., Nat. Commun. 15, 6539, 2024).

Numbers are those of the public package mlff (github.com/thorben-frank/mlff, commit 02107c2) under copied weights.
Its energy per atom carries a scale and a shift per species, which are `potential.Baseline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import pi, sqrt
from typing import Literal, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.connectivity import Connectivity
from fireassay.nn.cutoff import cosine_cutoff, polynomial_cutoff
from fireassay.nn.dense import dense
from fireassay.nn.pair_attention import AttentionEdges, attention_coefficients, attention_sum
from fireassay.nn.radial import ExponentialBasis
from fireassay.nn.radial_table import tabulated
from fireassay.nn.segment import Segments, gather, segment_sum
from fireassay.nn.so3 import spherical_harmonics
from fireassay.potential import NetworkPotential, constructor_arguments


class SO3krates(NetworkPotential):
    """Atom energies from invariant features x (N, C) and Euclidean variables χ (N, M), one per degree, that attention
    refines together: messages see of χ only the lengths of its differences, so no tensor product is taken.

    species: atomic numbers; cutoff in Å; n_layers; degrees l of the Euclidean variables, distinct and from 1;
    channels C, a multiple of n_heads, the heads of the attention between features, and of the number of degrees, each
    of which is a head of the attention between Euclidean variables; n_basis Gaussians in exp(-r), fixed; envelope_p:
    None for the cosine cutoff of the papers, or the degree of the polynomial one; radial_hidden and spherical_hidden:
    widths of the hidden layers of the filters' two networks, by default C, and C / 4; residual_attention and
    residual_update: a residual network of C channels after the attention and after the update (both in the TEA
    Challenge 2023, challenges II and III); layer_norm: layer normalisation before attention and update; initial_chi:
    zeros (the package's default), or the harmonics of the neighbours summed under the envelope and divided by
    average_neighbours; readout_hidden: widths of the readout's hidden layers, by default C; seed of the initial
    weights, uniform with the variance of flax's normal ones.

    The defaults are those of the 2024 paper. The 2022 form differs by initial_chi = "neighbours" and by attention
    between atoms close in χ, which lets atoms beyond the cutoff interact: not local, removed from the package, not
    here. No term jumps at the cutoff: every message carries the envelope, so laws 10 to 12 hold as published, except
    that atoms without neighbours have an energy; energies are relative to theirs.

    Raises InputError for arguments out of range, and for a graph with an element that is not in `species`.
    """

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        n_layers: int = 3,
        degrees: Sequence[int] = (1, 2, 3),
        channels: int = 132,
        n_heads: int = 4,
        n_basis: int = 32,
        envelope_p: int | None = None,
        radial_hidden: Sequence[int] | None = None,
        spherical_hidden: Sequence[int] | None = None,
        residual_attention: bool = False,
        residual_update: bool = False,
        layer_norm: bool = False,
        initial_chi: Literal["zeros", "neighbours"] = "zeros",
        readout_hidden: Sequence[int] | None = None,
        average_neighbours: float = 16.0,
        seed: int = 0,
    ) -> None:
        super().__init__(species, cutoff)
        self.arguments = constructor_arguments(locals())
        radial = [channels] if radial_hidden is None else list(radial_hidden)
        spherical = [max(channels // 4, 1)] if spherical_hidden is None else list(spherical_hidden)
        readout = [channels] if readout_hidden is None else list(readout_hidden)
        sizes = (cutoff, n_layers, channels, n_heads, n_basis, envelope_p or 1, average_neighbours, *degrees)
        distinct = bool(degrees) and list(degrees) == sorted(set(degrees)) and initial_chi in ("zeros", "neighbours")
        if min(sizes) <= 0 or min([1, *radial, *spherical, *readout]) <= 0 or envelope_p == 0 or not distinct:
            raise InputError(f"a SO3krates needs positive sizes and ascending degrees from 1, got {self.arguments}")
        if channels % n_heads or channels % len(degrees):
            raise InputError(f"{channels} channels are no multiple of {n_heads} heads and of {len(degrees)} degrees")
        generator = torch.Generator().manual_seed(seed)
        self.envelope_p, self.average_neighbours = envelope_p, average_neighbours
        self.initial_chi, self.tabulated = initial_chi, False
        self.irreps = Degrees(degrees)
        self.basis = ExponentialBasis(cutoff, n_basis)
        self.embedding = nn.Parameter(torch.randn(len(species), channels, generator=generator) / sqrt(channels))
        filters = ((n_basis, *radial, channels), (len(degrees), *spherical, channels))
        self.layers = nn.ModuleList(
            Layer(channels, n_heads, len(degrees), filters, residual_attention, residual_update, layer_norm, generator)
            for _ in range(n_layers)
        )
        self.readout = _network((channels, *readout, 1), generator, last_bias=False)  # it would cancel

    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV, and the last features x (R, C)."""
        vectors = edge_vectors(graph)
        edges = Connectivity.of(graph.centre, graph.neighbour, graph.shift, len(rows))
        distances = torch.linalg.vector_norm(edges.per_pair(vectors), dim=1)
        ends = (Segments.of(edges.per_pair(atoms), len(rows)) for atoms in (graph.centre, graph.neighbour))
        envelope = edges.per_edge(self._envelope(distances)).unsqueeze(1)
        around = Surroundings(
            irreps=self.irreps,
            edges=AttentionEdges.of(*edges),
            centres=edges.centres,
            first=(next(ends), next(ends)),
            radial=distances if self.tabulated else self.basis(distances),
            envelope=envelope,
            harmonics=self.irreps.of(vectors) * envelope,
        )
        x, chi = self.embedding.index_select(0, rows), None
        if self.initial_chi == "neighbours":
            chi = segment_sum(around.harmonics, around.centres) / self.average_neighbours
        for layer in self.layers:
            x, chi = layer(x, chi, around)
        return self.readout(x).squeeze(1), x

    def _envelope(self, distances: Tensor) -> Tensor:
        if self.envelope_p is None:
            return cosine_cutoff(distances, self.cutoff)
        return polynomial_cutoff(distances, self.cutoff, self.envelope_p)

    def frozen(self) -> Self:
        """A twin for inference whose radial filters are tables; forces differ by about 1e-6 of the largest."""
        twin = super().frozen()
        if not self.tabulated:
            for layer in cast(list[Layer], list(twin.layers)):
                for block in (layer.features, layer.geometry):
                    block.radial = tabulated(nn.Sequential(twin.basis, block.radial), self.cutoff)
            twin.tabulated = True
        return twin


class Degrees(nn.Module):
    """The degrees l of the Euclidean variables, M = sum of 2l + 1 components, with orthonormal harmonics."""

    def __init__(self, degrees: Sequence[int]) -> None:
        super().__init__()
        self.l_max = max(degrees)
        self.columns = [(degree**2, 2 * degree + 1) for degree in degrees]
        dims = torch.tensor([2 * degree + 1 for degree in degrees])
        place = torch.repeat_interleave(torch.arange(len(degrees)), dims)
        members = nn.functional.one_hot(place, len(degrees)).to(torch.get_default_dtype())
        self.register_buffer("dims", dims, persistent=False)
        self.register_buffer("members", members, persistent=False)

    dims: Tensor  # (L,) int64, 2l + 1
    members: Tensor  # (M, L), one where a component belongs to a degree

    def of(self, vectors: Tensor) -> Tensor:
        """Harmonics (E, M) of vectors (E, 3), orthonormal on the sphere."""
        harmonics = spherical_harmonics(self.l_max, vectors) / sqrt(4 * pi)
        if len(self.dims) == self.l_max:  # all degrees but zero
            return harmonics[:, 1:]
        return torch.cat([harmonics.narrow(1, first, dim) for first, dim in self.columns], 1)

    def invariants(self, chi: Tensor) -> Tensor:
        """(..., M) to (..., L): |χ_l|^2 / sqrt(2l + 1), the product with itself contracted to degree zero."""
        return (chi.square() @ self.members) * self.dims.to(chi.dtype).rsqrt()

    def spread(self, values: Tensor) -> Tensor:
        """One value per degree (..., L) to each of its components (..., M)."""
        return values @ self.members.T


class Surroundings(NamedTuple):
    """What every layer sees of the graph; both directions of an edge share one filter."""

    irreps: Degrees
    edges: AttentionEdges
    centres: Segments  # of the edges
    first: tuple[Segments, Segments]  # centre and neighbour of the edge that stands for each pair
    radial: Tensor  # (P, n_basis), or the distances (P,) for tables
    envelope: Tensor  # (E, 1)
    harmonics: Tensor  # (E, M), under the envelope


class Layer(nn.Module):
    """Euclidean attention, then the update of each atom by itself (2024, Methods).

    x' = x + sum_j u(r) α_ij V x_j and χ'_l = χ_l + sum_j u(r) β_ij,l Y_l(r_ij), with coefficients α and β of
    `FilteredAttention`; then (Δx, b) = W (x', |χ'_1|^2, ...) + bias, x'' = x' + Δx and χ''_l = (1 + b_l) χ'_l.
    """

    def __init__(
        self,
        channels: int,
        n_heads: int,
        n_degrees: int,
        filters: tuple[Sequence[int], Sequence[int]],
        residual_attention: bool,
        residual_update: bool,
        layer_norm: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.features = FilteredAttention(n_heads, channels, 1, filters, generator)
        self.geometry = FilteredAttention(n_degrees, channels, 0, filters, generator)
        self.update = _flax_dense(channels + n_degrees, channels + n_degrees, generator)
        self.sizes = (channels, n_degrees)
        identity = nn.Identity()
        self.norm_1 = nn.LayerNorm(channels, eps=1e-6) if layer_norm else identity
        self.norm_2 = nn.LayerNorm(channels, eps=1e-6) if layer_norm else identity
        self.residual_1 = ResidualNetwork(channels, generator) if residual_attention else identity
        self.residual_2 = ResidualNetwork(channels, generator) if residual_update else identity

    def forward(self, x: Tensor, chi: Tensor | None, around: Surroundings) -> tuple[Tensor, Tensor]:
        """(N, C) and (N, M), None for zeros, to the same."""
        irreps, edges = around.irreps, around.edges
        if chi is None:
            distance = x.new_zeros(1, len(irreps.dims))
        else:
            distance = irreps.invariants(gather(chi, around.first[1]) - gather(chi, around.first[0]))  # (P, L)
        normed = self.norm_1(x)
        beta, _ = self.geometry(normed, around.radial, distance, edges)
        change = segment_sum(irreps.spread(beta) * around.harmonics, around.centres)
        chi = change if chi is None else chi + change
        alpha, values = self.features(normed, around.radial, distance, edges)
        x = self.residual_1(x + attention_sum(alpha * around.envelope, values[0], edges).flatten(1))
        both = torch.cat([self.norm_2(x), irreps.invariants(chi)], 1)
        step, scale = self.update(both).split(self.sizes, 1)
        return self.residual_2(x + step), chi + irreps.spread(scale) * chi


class FilteredAttention(nn.Module):
    """Coefficients q_i · (w_ij * k_j) / sqrt(F) of each head of F channels, without a softmax.

    The filter w_ij is the sum of a network of the radial basis and one of the invariants of χ_j - χ_i. `projections`
    (H, F, (2 + n_values) F) make each head's query, key and values of its own channels.
    """

    def __init__(
        self,
        n_heads: int,
        channels: int,
        n_values: int,
        filters: tuple[Sequence[int], Sequence[int]],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        width = channels // n_heads
        weights = 2 * torch.rand(n_heads, width, (2 + n_values) * width, generator=generator) - 1
        self.projections = nn.Parameter(weights * sqrt(3 / width))  # of variance 1 / F
        self.radial: nn.Module = _network(filters[0], generator)
        self.spherical = _network(filters[1], generator)

    def forward(
        self, x: Tensor, radial: Tensor, distance: Tensor, edges: AttentionEdges
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Features (N, C), radial (P, n_basis), distances of χ (P, L) to coefficients (E, H) and values (N, H, F)."""
        n_heads, width, _ = self.projections.shape
        filters = (self.radial(radial) + self.spherical(distance)).unflatten(1, (n_heads, width))  # (P, H, F)
        heads = x.unflatten(1, (n_heads, width)).transpose(0, 1)
        query, key, *values = torch.bmm(heads, self.projections).transpose(0, 1).split(width, 2)  # (N, H, F) each
        return attention_coefficients(query / sqrt(width), key, filters, edges), tuple(values)


class ResidualNetwork(nn.Module):
    """W_3 σ(x + W_2 σ(W_1 σ(x))), without biases; σ is SiLU."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_flax_dense(channels, channels, generator, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) to (N, C)."""
        silu = nn.functional.silu
        inner = self.layers[1](silu(self.layers[0](silu(x))))
        return self.layers[2](silu(x + inner))


def _flax_dense(n_in: int, n_out: int, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    return dense(n_in, n_out, generator, bias, "fan_in_uniform", gain=sqrt(3))  # variance 1 / n_in


def _network(widths: Sequence[int], generator: torch.Generator, last_bias: bool = True) -> nn.Sequential:
    """Dense layers with biases and SiLU between them."""
    sizes = list(pairwise(widths))
    layers: list[nn.Module] = []
    for number, (n_in, n_out) in enumerate(sizes):
        layers += [_flax_dense(n_in, n_out, generator, last_bias or number + 1 < len(sizes)), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
