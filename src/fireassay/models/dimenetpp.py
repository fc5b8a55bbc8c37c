"""DimeNet++: directional message passing (Gasteiger et al., ICLR 2020; arXiv:2003.03123 and arXiv:2011.14115).

Numbers are those of `DimeNetPlusPlus` of the public package torch-geometric 2.8.1 under copied weights, with the exact
roots of the spherical Bessel functions. Isolated-atom energies, scale and shift are `potential.Baseline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.activation import silu
from fireassay.nn.connectivity import Connectivity
from fireassay.nn.dense import dense
from fireassay.nn.radial import BesselBasis
from fireassay.nn.segment import Segments, gather, segment_sum
from fireassay.nn.so3 import spherical_harmonics
from fireassay.nn.spherical_basis import SphericalBesselBasis
from fireassay.nn.triplets import Triplets, triplet_sum
from fireassay.potential import NetworkPotential, constructor_arguments


class DimeNetPP(NetworkPotential):
    """Atom energies from messages m_ji along edges, `n_layers` times updated by the messages m_kj and angles at j.

    species: atomic numbers; cutoff in Å; channels: width of the messages; interaction_channels: width of what the
    triplets carry; basis_channels: width between the two linear maps of a basis; l_max: highest degree of the angular
    basis, one less than the number of spherical functions; n_basis: radial functions, of each degree, those of eq. 7
    with trainable frequencies if asked, all under an envelope of degree envelope_p, one more than what the code calls
    the envelope's exponent; n_before_skip and n_after_skip: residual layers of a block before and after its skip
    connection; readout_hidden: widths of the layers of each output block, which begins by a linear map to the first of
    them; readout_initial: how the last weights are drawn; seed of the initial weights.

    The defaults are those of the authors and of EGraFFBench, but for readout_initial: "zeros", the authors' for
    energies, makes a network that predicts no forces before it is trained. Everything that an edge adds is under the
    envelope, so the published form is smooth at the cutoff. Its output blocks give an isolated atom a constant, which
    is subtracted here: an isolated atom has an energy of exactly zero. The angle is that of the code of DimeNet++,
    π less than the paper's; the excluded k = i is the same image of the atom, in a crystal too.

    Raises InputError for arguments out of range, for a graph with an element that is not in `species`, and for one with
    an edge that lacks its reverse.
    """

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        n_layers: int = 4,
        channels: int = 128,
        interaction_channels: int = 64,
        basis_channels: int = 8,
        l_max: int = 6,
        n_basis: int = 6,
        trainable_bessel: bool = True,
        envelope_p: int = 6,
        n_before_skip: int = 1,
        n_after_skip: int = 2,
        readout_hidden: Sequence[int] = (256, 256, 256),
        readout_initial: Literal["orthogonal", "zeros"] = "orthogonal",
        seed: int = 0,
    ) -> None:
        super().__init__(species, cutoff)
        self.arguments = constructor_arguments(locals())
        sizes = (cutoff, n_layers, channels, interaction_channels, basis_channels, n_basis, envelope_p, *readout_hidden)
        if min(sizes) <= 0 or min(l_max, n_before_skip, n_after_skip) < 0 or not readout_hidden:
            raise InputError(
                f"a DimeNet++ needs positive sizes and a hidden layer in its readouts, got {self.arguments}"
            )
        if readout_initial not in ("orthogonal", "zeros"):
            raise InputError(f"readout_initial is orthogonal or zeros, got {readout_initial!r}")
        generator = torch.Generator().manual_seed(seed)
        self.l_max = l_max
        self.basis = BesselBasis(1.0, n_basis, envelope_p, trainable_bessel)  # of the distance over the cutoff
        self.spherical_basis = SphericalBesselBasis(cutoff, l_max, n_basis, envelope_p)
        self.embedding = EmbeddingBlock(len(self.index), channels, n_basis, generator)
        self.interactions = nn.ModuleList(
            InteractionBlock(
                channels,
                interaction_channels,
                basis_channels,
                l_max,
                n_basis,
                (n_before_skip, n_after_skip),
                generator,
            )
            for _ in range(n_layers)
        )
        self.outputs = nn.ModuleList(
            OutputBlock(channels, n_basis, readout_hidden, readout_initial == "zeros", generator)
            for _ in range(n_layers + 1)
        )

    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV, and what enters the last layer of the last output block (R, D)."""
        around = self._surroundings(len(rows), graph)
        messages = self.embedding(rows, around)  # (E, C)
        interactions, outputs = cast(list[InteractionBlock], self.interactions), cast(list[OutputBlock], self.outputs)
        energies, features = outputs[0](messages, around)
        for interaction, output in zip(interactions, list(outputs)[1:], strict=True):
            messages = interaction(messages, around)
            more, features = output(messages, around)
            energies = energies + more
        return energies, features

    def _surroundings(self, n_atoms: int, graph: Graph) -> Surroundings:
        centre, neighbour, shift, vectors = graph.centre, graph.neighbour, graph.shift, edge_vectors(graph)
        near = torch.linalg.vector_norm(vectors.detach(), dim=1) < self.cutoff
        if not bool(near.all()):  # triplets of edges without effect would cost as much as the others
            kept = torch.nonzero(near).squeeze(1)
            centre, neighbour, shift, vectors = (t.index_select(0, kept) for t in (centre, neighbour, shift, vectors))
        edges = Connectivity.of(centre, neighbour, shift, n_atoms)
        triplets = Triplets.of(centre, edges.order.starts, edges.pairs)
        distances = torch.linalg.vector_norm(vectors.index_select(0, triplets.pairs.first), dim=1)
        pair, order = triplets.pairs.pair, triplets.pairs.order
        return Surroundings(
            edges=edges,
            by_pair=Segments(pair, order, torch.arange(0, len(pair) + 1, 2, device=pair.device)),
            triplets=triplets,
            radial=self.basis(distances / self.cutoff) / 2,  # its factor of 2 / cutoff is not in the code
            spherical=self.spherical_basis(distances).contiguous(),
            harmonics=spherical_harmonics(self.l_max, vectors),
        )


class Surroundings(NamedTuple):
    """What every block sees of the graph; edge i -> j carries the message j -> i."""

    edges: Connectivity
    by_pair: Segments
    triplets: Triplets
    radial: Tensor  # (E/2, n_basis), eq. 7
    spherical: Tensor  # (l_max + 1, E/2, n_basis), eq. 6
    harmonics: Tensor  # (E, (l_max + 1)^2)


def _orthogonal(n_in: int, n_out: int, generator: torch.Generator, bias: bool = True) -> nn.Linear:
    """A random semi-orthogonal matrix scaled to the variance 2 / (n_in + n_out) of Glorot (the authors' choice)."""
    gain = sqrt(2 * max(n_in, n_out) / (n_in + n_out))
    return dense(n_in, n_out, generator, bias, "orthogonal", gain)


class EmbeddingBlock(nn.Module):
    """m_ji = σ(W [h_j, h_i, σ(W_r e(r))] + b) (DimeNet, eq. 9)."""

    def __init__(self, n_species: int, channels: int, n_basis: int, generator: torch.Generator) -> None:
        super().__init__()
        embedding = torch.empty(n_species, channels).uniform_(-sqrt(3), sqrt(3), generator=generator)
        self.embedding = nn.Parameter(embedding)
        self.radial = dense(n_basis, channels, generator, initial="fan_in_uniform")
        self.linear = dense(3 * channels, channels, generator, initial="fan_in_uniform")

    def forward(self, rows: Tensor, around: Surroundings) -> Tensor:
        """Species rows (N,) to messages (E, C): each part of the linear map where it is the same for many edges."""
        at_i, at_j, along = self.linear.weight.chunk(3, 1)
        centre, neighbour = (self.embedding @ part.T for part in (at_i, at_j))  # (Z, C)
        pairs = nn.functional.linear(silu(self.radial(around.radial)), along, self.linear.bias)  # (E/2, C)
        messages = gather(centre.index_select(0, rows), around.edges.centres)
        messages = messages + gather(neighbour.index_select(0, rows), around.edges.neighbours)
        return silu(messages + gather(pairs, around.by_pair))


class ResidualLayer(nn.Module):
    """x + σ(W_2 σ(W_1 x + b_1) + b_2)."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = _orthogonal(channels, channels, generator)
        self.second = _orthogonal(channels, channels, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(E, C) to (E, C)."""
        return x + silu(self.second(silu(self.first(x))))


class InteractionBlock(nn.Module):
    """The messages updated by those that come in, over the angle between them (DimeNet++, fig. 1 and section 3)."""

    def __init__(
        self,
        channels: int,
        interaction_channels: int,
        basis_channels: int,
        l_max: int,
        n_basis: int,
        n_residual: tuple[int, int],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.degrees = l_max + 1
        self.radial = nn.Sequential(
            _orthogonal(n_basis, basis_channels, generator, False),
            _orthogonal(basis_channels, channels, generator, False),
        )
        self.spherical_1 = _orthogonal(self.degrees * n_basis, basis_channels, generator, False)
        self.spherical_2 = _orthogonal(basis_channels, interaction_channels, generator, False)
        self.incoming = _orthogonal(channels, channels, generator)
        self.own = _orthogonal(channels, channels, generator)
        self.down = _orthogonal(channels, interaction_channels, generator, False)
        self.up = _orthogonal(interaction_channels, channels, generator, False)
        self.before_skip = nn.Sequential(*(ResidualLayer(channels, generator) for _ in range(n_residual[0])))
        self.skip = _orthogonal(channels, channels, generator)
        self.after_skip = nn.Sequential(*(ResidualLayer(channels, generator) for _ in range(n_residual[1])))

    def forward(self, messages: Tensor, around: Surroundings) -> Tensor:
        """(E, C) to (E, C)."""
        incoming = silu(self.incoming(messages)) * gather(self.radial(around.radial), around.by_pair)
        incoming = silu(self.down(incoming))  # (E, I)
        weights = torch.bmm(around.spherical, self._angular_weight())  # (L, E/2, I)
        summed = triplet_sum(incoming, weights, around.harmonics, around.triplets)
        x = self.before_skip(silu(self.own(messages)) + silu(self.up(summed)))
        return self.after_skip(silu(self.skip(x)) + messages)

    def _angular_weight(self) -> Tensor:
        """Both maps of the spherical basis (L, n_basis, I), with the factors that make Y_l0 of (2l+1) P_l(cos kji).

        Y_l0 = sqrt((2l+1) / 4π) P_l, and P_l(-x) = (-1)^l P_l(x): the code's angle lies between m_kj and m_ji.
        """
        weight = self.spherical_2.weight @ self.spherical_1.weight  # (I, L n_basis)
        factors = [(-1) ** degree / sqrt(4 * pi * (2 * degree + 1)) for degree in range(self.degrees)]
        return weight.T.unflatten(0, (self.degrees, -1)) * weight.new_tensor(factors).view(-1, 1, 1)


class OutputBlock(nn.Module):
    """t_i from the sum over j of m_ji times a linear map of the radial basis (DimeNet, eq. 12; DimeNet++, fig. 1)."""

    def __init__(
        self, channels: int, n_basis: int, hidden: Sequence[int], zeros: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.radial = _orthogonal(n_basis, channels, generator, False)
        self.up = _orthogonal(channels, hidden[0], generator, False)
        widths = [hidden[0], *hidden]
        self.layers = nn.ModuleList(_orthogonal(a, b, generator) for a, b in zip(widths, hidden, strict=False))
        self.last = _orthogonal(hidden[-1], 1, generator, False)
        if zeros:
            nn.init.zeros_(self.last.weight)

    def forward(self, messages: Tensor, around: Surroundings) -> tuple[Tensor, Tensor]:
        """Messages (E, C) to energies (N,) and hidden features (N, D)."""
        weighted = messages * gather(self.radial(around.radial), around.by_pair)
        x = self.up(segment_sum(weighted, around.edges.centres))
        for layer in self.layers:
            x = silu(layer(x))
        return self.last(x).squeeze(1), x
