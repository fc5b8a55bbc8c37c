"""The equivariant transformer of TorchMD-NET (Thölke and De Fabritiis, ICLR 2022, arXiv:2202.02541).

Numbers are those of the public package torchmd-net 3.1.0 under copied weights. Isolated-atom energies, scale and shift
are `potential.Baseline`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.connectivity import Connectivity
from fireassay.nn.convolution import Coupling
from fireassay.nn.cutoff import cosine_cutoff
from fireassay.nn.dense import dense
from fireassay.nn.pair_attention import AttentionEdges, attention_coefficients, attention_sum
from fireassay.nn.radial import CutBasis, ExponentialBasis
from fireassay.nn.so3 import Irrep, Irreps
from fireassay.nn.vectors import GatedEquivariant
from fireassay.potential import NetworkPotential, constructor_arguments

NEIGHBOURS: Final = Coupling(Irreps("0e"), Irreps("0e"), [(0, 0, Irrep(0, 1))])
# A neighbour's scalar along the direction and its vector as it is, harmonics being (1, direction).
VECTORS: Final = Coupling(Irreps("0e+1o"), Irreps("0e+1o"), [(0, 1, Irrep(1, -1)), (1, 0, Irrep(1, -1))])
FIRST_VECTORS: Final = Coupling(Irreps("0e"), Irreps("0e+1o"), VECTORS.paths[:1])


class TorchMDET(NetworkPotential):
    """Atom energies from `n_layers` layers of attention, of scalars x (N, C) and vectors v (N, 3, C).

    species: atomic numbers; cutoff in Å; channels C, divided among n_heads; n_basis Gaussians of exp(-5 d / cutoff)
    under a cosine cutoff, with trainable centres and widths if asked; smooth: vector messages carry the cutoff, False
    for the published ones; epsilon under the root of |v| in the readout, without a unit, 0 for the published norm; seed
    of the initial weights.

    The other defaults are those of the paper for molecular dynamics (distances in both keys and values). Two
    published terms break a law. Vector messages do not vanish at the cutoff, because their filters have a
    bias: energy and forces jump there; `smooth` is torchmd-net's `vector_cutoff`. The bare norm makes forces jump where
    a vector of the readout vanishes, on centres of symmetry. Atoms attend to themselves, as in torchmd-net. Weights
    from which the energy cannot be reached do not exist (torchmd-net has them): those of the vectors that enter the
    first layer, which vanish, of the vectors that leave the readout, and the last bias, which cancels.

    Raises InputError for arguments out of range, and for a graph with an element that is not in `species`.
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"continuity": {"smooth": False}}

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        n_layers: int = 6,
        channels: int = 128,
        n_heads: int = 8,
        n_basis: int = 32,
        trainable_basis: bool = False,
        smooth: bool = True,
        epsilon: float = 1e-6,
        seed: int = 0,
    ) -> None:
        super().__init__(species, cutoff)
        self.arguments = constructor_arguments(locals())
        if min(cutoff, n_layers, channels, n_heads, n_basis) <= 0 or epsilon < 0 or channels % (2 * n_heads):
            raise InputError(f"sizes must be positive, and channels even in each head, got {self.arguments}")
        generator = torch.Generator().manual_seed(seed)
        self.basis = CutBasis(ExponentialBasis(cutoff, n_basis, 5 / cutoff, trainable_basis), cutoff)
        self.embedding = nn.Parameter(torch.randn(len(species), channels, generator=generator))
        self.neighbour_embedding = nn.Parameter(torch.randn(len(species), channels, generator=generator))
        self.neighbour_filter = Filter(n_basis, channels, generator, activated=False, cut=True)
        self.combine = dense(2 * channels, channels, generator)
        self.layers = nn.ModuleList(
            Attention(channels, n_heads, n_basis, k == 0, smooth, generator) for k in range(n_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.gate = GatedEquivariant(channels, channels // 2, epsilon, True, generator)
        self.readout = GatedEquivariant(channels // 2, 1, epsilon, False, generator)

    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV, and the normalised scalars (R, C) after the last layer."""
        vectors = edge_vectors(graph)
        distances = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        edges = Connectivity.of(graph.centre, graph.neighbour, graph.shift, len(rows))
        across = edges.per_pair(distances).squeeze(1)
        ones = torch.ones_like(distances)
        around = Surroundings(
            edges=edges,
            attended=AttentionEdges.of(*edges),
            directions=torch.cat([ones, vectors / distances], 1),
            cut=cosine_cutoff(distances, self.cutoff),
            radial=self._radial(across),
            origin=self._radial(across.new_zeros(1)),
        )
        seen = self.neighbour_embedding.index_select(0, rows).unsqueeze(1)
        weights = self.neighbour_filter(around.radial).unsqueeze(1)
        seen = edges.convolve(seen, ones, weights, NEIGHBOURS).squeeze(1)
        x = self.combine(torch.cat([self.embedding.index_select(0, rows), seen], 1))  # eqs. 3, 4
        v = None
        for layer in self.layers:
            x, v = layer(x, v, around)
        x = self.norm(x)
        gated, v = self.gate(x, v)
        return self.readout(silu(gated), v)[0].squeeze(1), x

    def _radial(self, distances: Tensor) -> Radial:
        return Radial(*self.basis(distances).split((self.arguments["n_basis"], 1), 1))

    def frozen(self) -> Self:
        """A twin for inference, with what depends on the weights alone evaluated once."""
        twin = super().frozen()
        origin = twin._radial(self.embedding.new_zeros(1).detach())
        for layer in cast(list[Attention], list(twin.layers)):
            layer.itself = layer.own_filters(origin)
        return twin


class Radial(NamedTuple):
    """Functions of the distances of the pairs of edges, or of every edge."""

    functions: Tensor  # (E/2, B)
    cut: Tensor  # (E/2, 1), the cutoff function


class Surroundings(NamedTuple):
    """What every layer sees of the graph; both directions of an edge share their filters."""

    edges: Connectivity
    attended: AttentionEdges
    directions: Tensor  # (E, 4): 1 and r_ij / |r_ij|
    cut: Tensor  # (E, 1), the cutoff function
    radial: Radial
    origin: Radial  # at the distance of zero, for the attention of an atom to itself


class Filter(nn.Module):
    """SiLU of a linear map of the radial functions, or without `activated` the map; times the cutoff if `cut`."""

    def __init__(
        self, n_basis: int, n_out: int, generator: torch.Generator, activated: bool = True, cut: bool = False
    ) -> None:
        super().__init__()
        self.linear = dense(n_basis, n_out, generator)
        self.activated, self.cut = activated, cut

    def forward(self, radial: Radial) -> Tensor:
        """The filters (E/2, n_out)."""
        out = self.linear(radial.functions)
        out = silu(out) if self.activated else out
        return out * radial.cut if self.cut else out


class Attention(nn.Module):
    """x' = x + W_3 y + (W_2 y) <U_1 v, U_2 v>, v' = v + (W_1 y) U_3 v + w, of messages y and w (section
    "Update layer").

    y_i = Σ α_ij d_x(r) s_x(x_j) by head, with α_ij = SiLU(Σ q_i k_j d_k(r)) φ(r) over the neighbours and i itself
    (section "Modified attention mechanism"), and
    w_i = Σ d_1(r) s_1(x_j) v_j + d_2(r) s_2(x_j) r_ij/r.
    """

    def __init__(
        self, channels: int, n_heads: int, n_basis: int, first: bool, smooth: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.coupling = FIRST_VECTORS if first else VECTORS
        n_paths = len(self.coupling.paths)
        self.norm = nn.LayerNorm(channels)
        self.query, self.key, self.value = (dense(channels, channels, generator) for _ in range(3))
        self.vector_value = dense(channels, n_paths * channels, generator)  # s_2, then s_1
        self.key_filter = Filter(n_basis, channels, generator)
        self.value_filter = Filter(n_basis, channels, generator)
        self.vector_filter = Filter(n_basis, n_paths * channels, generator, cut=smooth)
        self.out = dense(channels, (1 if first else 3) * channels, generator)  # W_3, then W_2 and W_1
        self.register_buffer("itself", None, persistent=False)
        self.mix = None if first else dense(channels, 3 * channels, generator, bias=False)  # U_1, U_2, U_3

    itself: Tensor | None

    def own_filters(self, origin: Radial) -> Tensor:
        """The filters d_k and d_x of an atom to itself, and d_1 unless this is the first layer: (1, 3C) or (1, 2C)."""
        filters = [self.key_filter(origin), self.value_filter(origin), self.vector_filter(origin)]
        return torch.cat([*filters[:2], filters[2][:, filters[0].shape[1] :]], 1)

    def forward(self, x: Tensor, v: Tensor | None, around: Surroundings) -> tuple[Tensor, Tensor]:
        """x (N, C) and v (N, 3, C), None for the first layer, of the next layer."""
        own = (self.own_filters(around.origin) if self.itself is None else self.itself).split(x.shape[1], 1)
        normed = self.norm(x)
        y = self.out(self._scalars(normed, own, around))
        if v is None or self.mix is None:
            return x + y, self._first_vectors(normed, around)
        w3, w2, w1 = y.chunk(3, 1)
        u1, u2, u3 = self.mix(v).chunk(3, 2)
        w = self._vectors(normed, v, own[2], around)
        return x + w3 + w2 * (u1 * u2).sum(1), v + w + w1.unsqueeze(1) * u3

    def _scalars(self, x: Tensor, own: Sequence[Tensor], around: Surroundings) -> Tensor:
        """y (N, C)."""
        heads = (self.n_heads, -1)
        q, k, s = (layer(x).unflatten(1, heads) for layer in (self.query, self.key, self.value))  # (N, H, F)
        d_k, d_x = (layer(around.radial).unflatten(1, heads) for layer in (self.key_filter, self.value_filter))
        alpha = silu(attention_coefficients(q, k, d_k, around.attended)) * around.cut  # (E, H)
        own_k, own_x = (part.unflatten(1, heads) for part in own[:2])
        itself = silu((q * k * own_k).sum(2, keepdim=True)) * s * own_x
        return (attention_sum(alpha, s, around.attended, d_x) + itself).flatten(1)

    def _first_vectors(self, x: Tensor, around: Surroundings) -> Tensor:
        """w (N, 3, C) where v is zero."""
        values, filters = self.vector_value(x).unsqueeze(1), self.vector_filter(around.radial).unsqueeze(1)
        return around.edges.convolve(values, around.directions, filters, self.coupling)

    def _vectors(self, x: Tensor, v: Tensor, own: Tensor, around: Surroundings) -> Tensor:
        """w (N, 3, C)."""
        along_r, along_v = self.vector_value(x).unflatten(1, (2, -1)).split(1, 1)  # (N, 1, C)
        sources = torch.cat([along_r, v * along_v], 1)  # (N, 4, C)
        filters = self.vector_filter(around.radial).unflatten(1, (2, -1))  # (E/2, 2, C)
        new, passed = around.edges.convolve(sources, around.directions, filters, self.coupling).split(3, 1)
        return new + passed + sources[:, 1:] * own
