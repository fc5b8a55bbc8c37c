"""Equiformer: an equivariant graph attention transformer (Liao and Smidt, ICLR 2023, arXiv:2206.11990).

Numbers are those of the public repository atomicarchitects/equiformer under copied weights, with `smooth=False`.
Isolated-atom energies, scale and shift are `potential.Baseline`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any, ClassVar, Final, NamedTuple

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.connectivity import Connectivity
from fireassay.nn.convolution import Coupling
from fireassay.nn.cutoff import cosine_cutoff, polynomial_cutoff
from fireassay.nn.dense import dense
from fireassay.nn.edge_tensor_product import EdgeCoupling, attended_product, mixed_product, reaching
from fireassay.nn.equivariant_norm import EquivariantLayerNorm
from fireassay.nn.mlp import SILU_NORM
from fireassay.nn.radial import ExponentialBasis
from fireassay.nn.segment import Segments, gather, segment_sum
from fireassay.nn.segment_softmax import segment_softmax
from fireassay.nn.sized_features import SCALAR, Features, SizedIrreps, SizedLinear, add, gate
from fireassay.nn.so3 import Irrep, Irreps, spherical_harmonics
from fireassay.potential import NetworkPotential, constructor_arguments

# 1 / sqrt(<f(z)^2>) of the leaky activation for normal z, e3nn's estimate as in `mlp`; the integral gives 1.52909.
LEAKY_NORM: Final = 1.531320475574866
# The published network divides its energy by the root of the mean number of atoms of QM9; here it is part of the
# initial scale of the last layer.
ATOMS_OF_QM9: Final = 18.03065905448718


class Equiformer(NetworkPotential):
    """Atom energies from `n_layers` blocks of equivariant graph attention with nonlinear messages.

    species: atomic numbers; cutoff in Å; irreps: channels of the features of each irrep, "128x0e+64x1o+..."; harmonics
    go up to their highest degree; irreps_head: those of each of the n_heads attention heads; irreps_ffn: those inside
    the feed-forward networks; feature_channels: scalars that enter the readout; parity: harmonics of degree l have the
    parity (-1)^l; n_basis functions of the distance; radial_hidden: widths of the radial networks' hidden layers;
    average_neighbours: of the edge-degree embedding, take it from the training set; smooth and envelope_p: see below;
    seed of the initial weights.

    The default is the E(3) form of the paper with l <= 2 and the radial basis of its MD17 experiments. The SE(3) form,
    `parity=False` with even irreps ("128x0e+64x1e+32x2e"), treats vectors as pseudo-vectors: its energy changes under
    reflection, against law 2. As published (`smooth=False`), energy and forces jump when a neighbour crosses the
    cutoff: the radial networks have offsets, and the softmax counts neighbours. By default the edge-degree embedding
    carries an envelope u(r) of degree envelope_p, attention is u exp(a) / sum(u exp(a)) and messages are scaled by u.

    There is no drop-out and no stochastic depth (both zero in the MD17 experiments). Features from which the energy
    cannot be reached do not exist (the public code makes them), nor do constants that only multiply others. Energies
    are relative to those of isolated atoms, which the biases make.

    Raises InputError for arguments out of range, and for a graph with an element that is not in `species`.
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "continuity": {"smooth": False},
        "rotation": {
            "parity": False,
            "irreps": "128x0e+64x1e+32x2e",
            "irreps_head": "32x0e+16x1e+8x2e",
            "irreps_ffn": "384x0e+192x1e+96x2e",
        },
    }

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        n_layers: int = 6,
        irreps: str = "128x0e+32x0o+32x1e+32x1o+16x2e+16x2o",
        irreps_head: str = "32x0e+8x0o+8x1e+8x1o+4x2e+4x2o",
        irreps_ffn: str = "384x0e+96x0o+96x1e+96x1o+48x2e+48x2o",
        n_heads: int = 4,
        feature_channels: int = 512,
        parity: bool = True,
        n_basis: int = 32,
        radial_hidden: Sequence[int] = (64, 64),
        average_neighbours: float = 15.57930850982666,
        smooth: bool = True,
        envelope_p: int = 6,
        seed: int = 0,
    ) -> None:
        super().__init__(species, cutoff)
        self.arguments = constructor_arguments(locals())
        sizes = (cutoff, n_layers, n_heads, feature_channels, n_basis, average_neighbours, envelope_p, *radial_hidden)
        if min(sizes) <= 0:
            raise InputError(f"sizes of an Equiformer must be positive, got {self.arguments}")
        features, head, ffn = (_checked(text, parity) for text in (irreps, irreps_head, irreps_ffn))
        parts = Parts(features, head, ffn, n_heads)
        generator = torch.Generator().manual_seed(seed)
        self.l_max, self.smooth, self.envelope_p = parts.features.irreps.l_max, smooth, envelope_p
        harmonics = Irreps(Irrep(degree, (-1) ** degree if parity else 1) for degree in range(self.l_max + 1))
        live = _live(n_layers, parts.features, harmonics)
        widths = (n_basis, *radial_hidden)
        self.basis = ExponentialBasis(cutoff, n_basis, alpha=5.0 / cutoff)
        self.embedding = nn.Parameter(torch.randn(len(species), parts.features.size(SCALAR), generator=generator))
        self.embedding_bias = nn.Parameter(torch.zeros(parts.features.size(SCALAR)))
        self.degree = EdgeDegreeEmbedding(
            parts.features, harmonics, live[0].irreps, widths, average_neighbours, generator
        )
        self.layers = nn.ModuleList()
        made = self.degree.sizes
        for layer in range(n_layers):
            out = None if layer < n_layers - 1 else SizedIrreps(Irreps([SCALAR]), (feature_channels,))
            block = TransformerBlock(made, live[layer + 1], parts, harmonics, widths, out, generator)
            self.layers.append(block)
            made = block.sizes
        self.norm = EquivariantLayerNorm(made)
        self.readout = nn.ModuleList(
            [
                SizedLinear(made, made, generator),
                SizedLinear(
                    made, SizedIrreps.parse("1x0e"), generator, bias=False, gain=SILU_NORM / sqrt(ATOMS_OF_QM9)
                ),
            ]
        )

    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV, and the features (R, feature_channels) read out."""
        around = self._surroundings(len(rows), graph)
        scalars = (self.embedding.index_select(0, rows) + self.embedding_bias).unsqueeze(1)
        features = add((scalars,), self.degree(around), SizedIrreps.parse("1x0e"), self.degree.sizes)
        for layer in self.layers:
            features = layer(features, around)
        features = self.norm(features)
        hidden = self.readout[0](features)
        (energies,) = self.readout[1]((nn.functional.silu(hidden[0]),))
        return energies.flatten(), features[0].squeeze(1)

    def _surroundings(self, n_atoms: int, graph: Graph) -> Surroundings:
        vectors = edge_vectors(graph)
        edges = Connectivity.of(graph.centre, graph.neighbour, graph.shift, n_atoms)
        distances = torch.linalg.vector_norm(edges.per_pair(vectors), dim=1)
        envelope = (
            polynomial_cutoff(distances, self.cutoff, self.envelope_p)
            if self.smooth
            else (distances < self.cutoff).to(distances)
        )
        harmonics = spherical_harmonics(self.l_max, vectors)
        basis = self.basis(distances) * cosine_cutoff(distances, self.cutoff).unsqueeze(1)
        return Surroundings(edges, harmonics, *_paired(edges, harmonics, envelope), envelope, basis, self.smooth)


class Parts(NamedTuple):
    """The channels of each irrep, of the features, of one attention head, and within a feed-forward network."""

    features: SizedIrreps
    head: SizedIrreps
    ffn: SizedIrreps
    n_heads: int


class Surroundings(NamedTuple):
    """What all blocks share of the edges; an edge and its reverse, one after the other, share what depends on distance.

    Without pairs (an edge has no reverse) every edge has its own.
    """

    by_centre: Connectivity
    harmonics_by_centre: Tensor  # (E, M)
    centres: Segments  # the paired edges, as all that follows
    neighbours: Segments
    harmonics: Tensor  # (E, M)
    envelope: Tensor  # (E,)
    shared: int  # edges that share a distance, 1 or 2
    envelope_of_pairs: Tensor  # (E / shared,)
    basis: Tensor  # (E / shared, n_basis)
    smooth: bool


def _paired(edges: Connectivity, harmonics: Tensor, envelope: Tensor) -> tuple[Segments, Segments, Tensor, Tensor, int]:
    """The edges pair by pair: segments of centres and of neighbours, harmonics, envelope, edges per distance."""
    if edges.pairs is None:
        return edges.centres, edges.neighbours, harmonics, envelope, 1
    place = edges.pairs.order
    rank = torch.empty_like(place).index_copy(0, place, torch.arange(len(place), device=place.device))
    by_neighbour = rank.index_select(0, edges.order.by_neighbour)
    return (
        Segments(edges.centre.index_select(0, place), rank, edges.order.starts),
        Segments(edges.neighbour.index_select(0, place), by_neighbour, edges.order.neighbour_starts),
        harmonics.index_select(0, place),
        envelope.repeat_interleave(2),
        2,
    )


def _checked(text: str, parity: bool) -> SizedIrreps:
    sizes = SizedIrreps.parse(text)
    if SCALAR not in sizes.irreps or (not parity and any(irrep.p != 1 for irrep in sizes.irreps)):
        raise InputError(f"{text!r} of an Equiformer needs 0e, and without parity even irreps only")
    return sizes


def _live(n_layers: int, features: SizedIrreps, harmonics: Irreps) -> list[SizedIrreps]:
    """The irreps of the features before each block, and after the last, from which the energy can be reached."""
    live = [features.only([SCALAR])]
    for _ in range(n_layers):
        gated = reaching(features, harmonics, live[0].irreps)
        used = reaching(features, harmonics, [*gated.irreps, SCALAR])
        live.insert(0, features.only([*used.irreps, *live[0].irreps]))
    return live


def radial_network(widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with layer norm and SiLU between them, and an offset that is not zero at first."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths[:-1]):
        linear = dense(n_in, n_out, generator, initial="fan_in_uniform")
        layers += [linear, nn.LayerNorm(n_out), nn.SiLU()]
    last = dense(widths[-2], widths[-1], generator, initial="fan_in_uniform")
    with torch.no_grad():
        last.bias.uniform_(-1 / sqrt(widths[-2]), 1 / sqrt(widths[-2]), generator=generator)
    return nn.Sequential(*layers, last)


class EdgeDegreeEmbedding(nn.Module):
    """linear(sum over neighbours of s x Y(r_ij) x R(r_ij)) / sqrt(average_neighbours), with s the same for all atoms.

    The paper's "Edge-Degree Embedding". Makes those of the `wanted` irreps that harmonics have.
    """

    def __init__(
        self,
        features: SizedIrreps,
        harmonics: Irreps,
        wanted: Irreps,
        widths: Sequence[int],
        average_neighbours: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.gain = 1 / sqrt(average_neighbours)
        channels = features.size(SCALAR)
        self.coupling = Coupling.of(Irreps([SCALAR]), harmonics, wanted)
        self.scalars = nn.Parameter(torch.randn(channels, generator=generator))
        self.radial = radial_network((*widths, len(self.coupling.paths) * channels), generator)
        sums = SizedIrreps(self.coupling.irreps_out, (channels,) * len(self.coupling.paths))
        self.linear = SizedLinear(sums, features, generator)
        self.sizes = self.linear.sizes
        # The published initial scale counts the paths from features that are zero here, too.
        every = EdgeCoupling(features, harmonics, features.irreps).sizes_out
        with torch.no_grad():
            for irrep, weight in zip(self.sizes.irreps, self.linear.weights, strict=True):
                weight *= sqrt(channels / every.size(irrep))

    def forward(self, around: Surroundings) -> Features:
        """Features of `sizes`, (N, 2l+1, C_l) each."""
        edges = around.by_centre
        n_atoms, channels = len(edges.order.starts) - 1, len(self.scalars)
        weights = self.radial(around.basis) * around.envelope_of_pairs.unsqueeze(1) * self.gain
        scalars = self.scalars.expand(n_atoms, 1, channels)
        sums = edges.convolve(scalars, around.harmonics_by_centre, weights.unflatten(1, (-1, channels)), self.coupling)
        blocks = tuple(sums[:, rows] for rows in self.coupling.irreps_out.slices)
        degree = segment_sum(around.envelope, around.centres) * self.gain
        bias = self.linear.bias
        assert bias is not None
        return tuple(
            values - bias + degree[:, None, None] * bias if irrep == SCALAR else values  # one bias for each edge
            for irrep, values in zip(self.sizes.irreps, self.linear(blocks), strict=True)
        )


class GraphAttention(nn.Module):
    """Messages, their attention over the neighbours of each atom, and a linear map (fig. 1b).

    From features of `sizes_in` the `wanted` irreps of the features are made, as far as they can be: `sizes`.
    """

    filter_axes: ClassVar = {"dot": (1,)}  # a head sums over its own channels

    def __init__(
        self,
        sizes_in: SizedIrreps,
        wanted: Irreps,
        parts: Parts,
        harmonics: Irreps,
        widths: Sequence[int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        heads = parts.head.times(parts.n_heads).only(wanted)
        gated = reaching(parts.features, harmonics, heads.irreps)
        self.n_heads, self.n_logits = parts.n_heads, heads.size(SCALAR)
        self.used = reaching(sizes_in, harmonics, [*gated.irreps, SCALAR])
        self.from_neighbour = SizedLinear(self.used, self.used, generator)
        self.from_centre = SizedLinear(self.used, self.used, generator, bias=False)
        self.coupling = EdgeCoupling(self.used, harmonics, [*gated.irreps, SCALAR])
        self.radial = radial_network((*widths, self.coupling.n_weights), generator)
        self.gated = gated.only(self.coupling.sizes_out.irreps)
        mixed = self.gated.with_gates()
        channels = [n + self.n_logits * (irrep == SCALAR) for irrep, n in zip(*mixed, strict=True)]
        self.mix = SizedLinear(self.coupling.sizes_out, mixed._replace(channels=tuple(channels)), generator)
        bound = sqrt(6 / (self.n_heads + self.n_logits // self.n_heads))
        dot = torch.empty(self.n_heads, self.n_logits // self.n_heads).uniform_(-bound, bound, generator=generator)
        self.dot = nn.Parameter(dot)
        self.second = EdgeCoupling(self.gated, harmonics, heads.irreps)
        self.scales = nn.ParameterList(
            nn.Parameter(torch.randn(n, generator=generator)) for n in self.second.sizes_out.channels
        )
        self.values = SizedLinear(self.second.sizes_out, heads, generator)
        self.project = SizedLinear(self.values.sizes, parts.features.only(wanted), generator)
        self.sizes = self.project.sizes

    def forward(self, features: Features, around: Surroundings) -> Features:
        """Features of `used` to features of `sizes`."""
        both = zip(self.from_neighbour(features), self.from_centre(features), strict=True)
        merged = tuple(gather(j, around.neighbours) + gather(i, around.centres) for j, i in both)
        mixed = self._mixed(merged, around)
        place = self.gated.irreps.index(SCALAR)
        logits, mixed[place] = mixed[place].split([self.n_logits, mixed[place].shape[2] - self.n_logits], 2)
        attention = segment_softmax(self._scores(logits), around.envelope, around.centres)
        if around.smooth:
            attention = attention * around.envelope.unsqueeze(1)
        messages = gate(tuple(mixed), self.gated)
        sums = attended_product(messages, around.harmonics, self.second, attention, around.centres)
        return self.project(self._heads(sums, segment_sum(attention, around.centres)))

    def _mixed(self, merged: Features, around: Surroundings) -> list[Tensor]:
        """Products with the harmonics and a linear layer: (E, 2l+1, C_l) of the irreps of `mix.sizes`."""
        matrices = dict(zip(self.mix.sources, self.mix.weights, strict=True))
        ordered = [matrices[k] for k in range(len(matrices))]
        weights = self.radial(around.basis)  # (E / shared, n_weights)
        values = mixed_product(merged, around.harmonics, self.coupling, weights, ordered, around.shared)
        parts = zip(self.mix.sources, self.mix.sizes.irreps, strict=True)
        return [self.mix.shifted(values[k], irrep) for k, irrep in parts]

    def _scores(self, logits: Tensor) -> Tensor:
        """(E, 1, n_logits) to (E, H): the leaky activation and an inner product for each head ("MLP Attention")."""
        leaky = (0.2 * logits + 0.8 * nn.functional.silu(logits)) * LEAKY_NORM
        return (leaky.squeeze(1).unflatten(1, (self.n_heads, -1)) * self.dot).sum(2)

    def _heads(self, sums: Features, total: Tensor) -> Features:
        """The linear layer of the messages, behind their sums: (H, N, 2l+1, K) each to (N, 2l+1, H C_head).

        `total` (N, H) is the sum of attention, by which the bias of each message comes.
        """
        out = []
        for k, irrep in enumerate(self.values.sizes.irreps):
            source = self.values.sources[k]
            weight = (self.scales[source].unsqueeze(1) * self.values.weights[k]).unflatten(1, (self.n_heads, -1))
            value = torch.bmm(sums[source].flatten(1, 2), weight.transpose(0, 1))  # (H, N (2l+1), C_head)
            value = value.unflatten(1, (-1, irrep.dim)).permute(1, 2, 0, 3)
            if irrep == SCALAR:
                assert self.values.bias is not None
                value = value + total[:, None, :, None] * self.values.bias.unflatten(0, (self.n_heads, -1))
            out.append(value.flatten(2))
        return tuple(out)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then the same with a feed-forward network (fig. 1a).

    Of the features the `wanted` irreps are kept. The last block has another size of output, `out`, and a linear map
    instead of the second identity.
    """

    def __init__(
        self,
        sizes_in: SizedIrreps,
        wanted: SizedIrreps,
        parts: Parts,
        harmonics: Irreps,
        widths: Sequence[int],
        out: SizedIrreps | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.sizes_in = sizes_in
        self.attention = GraphAttention(sizes_in, wanted.irreps, parts, harmonics, widths, generator)
        self.norm_1 = EquivariantLayerNorm(self.attention.used)
        self.kept = sizes_in.only(wanted.irreps)
        self.between = wanted.only([*self.kept.irreps, *self.attention.sizes.irreps])
        self.norm_2 = EquivariantLayerNorm(self.between)
        inside = parts.ffn.only(self.between.irreps)
        self.inside = inside
        self.expand = SizedLinear(self.between, inside.with_gates(), generator)
        self.contract = SizedLinear(inside, out or self.between, generator)
        self.shortcut = None if out is None else SizedLinear(self.between, out, generator)
        self.sizes = out or self.between

    def forward(self, features: Features, around: Surroundings) -> Features:
        """Features of `sizes_in` to features of `sizes`."""
        given = dict(zip(self.sizes_in.irreps, features, strict=True))
        used = self.norm_1(tuple(given[irrep] for irrep in self.attention.used.irreps))
        attended = dict(zip(self.attention.sizes.irreps, self.attention(used, around), strict=True))
        features = tuple(
            given[irrep] + attended[irrep]
            if irrep in given and irrep in attended
            else given.get(irrep, attended.get(irrep))  # type: ignore[misc]
            for irrep in self.between.irreps
        )
        inner = self.contract(gate(self.expand(self.norm_2(features)), self.inside))
        if self.shortcut is not None:
            return add(inner, self.shortcut(features), self.sizes, self.sizes)
        return add(inner, features, self.contract.sizes, self.sizes)
