"""Allegro: strictly local equivariant pair energies (Musaelian et al., Nat. Commun. 14, 579, 2023).

Numbers are those of the authors' repository at version 0.2.0, the paper's, and with other arguments of the package
nequip-allegro 0.3.0, under copied weights. Isolated-atom energies, scale and shift are `potential.Baseline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import pi, sqrt
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.cutoff import polynomial_cutoff
from fireassay.nn.embedding import one_hot
from fireassay.nn.mlp import SILU_NORM, ScalarMLP
from fireassay.nn.radial import BesselBasis
from fireassay.nn.segment import Segments, gather, segment_sum
from fireassay.nn.so3 import Irrep, Irreps, spherical_harmonics
from fireassay.nn.tensor_product import ChannelwiseProduct, mixed_product, tensor_product
from fireassay.nn.weighted_harmonics import weighted_harmonics
from fireassay.potential import NetworkPotential, constructor_arguments


class Allegro(NetworkPotential):
    """Pair energies from `n_layers` tensor products of the features of each edge with the environment of its centre.

    species: atomic numbers; cutoff in Å, beyond which no atom sees another, however many layers; l_max: degree of the
    harmonics; parity: features of both parities for each degree, or only those of the harmonics, (-1)^l; channels:
    features of each irrep; n_basis Bessel functions, with trainable frequencies if asked, under an envelope of degree
    envelope_p; two_body_widths and latent_widths: widths of the layers of the two-body network and of every later one,
    the last being that of the latents; readout_hidden and readout_activation: hidden layers of the network of the
    pair energies, linear in the paper; average_neighbours: take it from the training set; seed of the initial weights.

    two_body: the two-body network sees the species of both atoms beside the basis, and all latents are multiplied by
    the envelope ("one_hot", the paper), or a product of an embedding of both with a linear map of the basis, and no
    latent vanishes but because its input does ("product", nequip-allegro since 0.3). own_edge: the environment of an
    edge holds the edge itself (the paper) or only the others of its centre. update_ratio: weight α of the new latents
    relative to the old ones in the residual update, one for all layers or one for each; nequip-allegro 0.3 has
    1 / sqrt(L) in layer L.

    The defaults are those of the example that the authors publish with their code, which EGraFFBench uses (table 12).
    Every network is without biases and every latent vanishes smoothly at the cutoff, so an isolated atom has an energy
    of exactly zero. Features from which no scalar can be reached do not exist.

    Raises InputError for arguments out of range, and for a graph with an element that is not in `species`.
    """

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 5.0,
        n_layers: int = 2,
        l_max: int = 2,
        parity: bool = True,
        channels: int = 64,
        n_basis: int = 8,
        trainable_bessel: bool = True,
        envelope_p: int = 6,
        two_body_widths: Sequence[int] = (128, 256, 512, 1024),
        latent_widths: Sequence[int] = (1024, 1024, 1024),
        readout_hidden: Sequence[int] = (128,),
        readout_activation: Literal["silu"] | None = None,
        average_neighbours: float = 16.0,
        two_body: Literal["one_hot", "product"] = "one_hot",
        own_edge: bool = True,
        update_ratio: float | Sequence[float] = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(species, cutoff, isolated_is_zero=True)
        self.arguments = constructor_arguments(locals())
        ratios = [update_ratio] * n_layers if isinstance(update_ratio, int | float) else list(update_ratio)
        sizes = (cutoff, n_layers, channels, n_basis, envelope_p, average_neighbours, *readout_hidden)
        widths = (*two_body_widths, *latent_widths)
        if min(*sizes, *widths, *ratios) <= 0 or l_max < 0 or readout_activation not in (None, "silu"):
            raise InputError(f"an Allegro needs positive sizes and the activation silu or none, got {self.arguments}")
        if not widths or [*two_body_widths][-1:] != [*latent_widths][-1:] or len(ratios) != n_layers:
            raise InputError(f"an Allegro's networks end in one width, one ratio per layer, got {self.arguments}")
        if two_body not in ("one_hot", "product") or (not own_edge and average_neighbours <= 1):
            raise InputError(f"two_body is one_hot or product, other neighbours more than none, got {self.arguments}")
        generator = torch.Generator().manual_seed(seed)
        self.l_max = l_max
        self.envelope_p, self.average_neighbours = envelope_p, float(average_neighbours)
        basis = BesselBasis(cutoff, n_basis, envelope_p, trainable_bessel)
        kind = OneHotTwoBody if two_body == "one_hot" else ProductTwoBody
        self.two_body = kind(basis, len(species), two_body_widths, generator)
        self.layers = nn.ModuleList()
        harmonics = Irreps.harmonics(l_max)
        irreps = _layer_irreps(n_layers, l_max, parity)
        neighbours = average_neighbours if own_edge else average_neighbours - 1
        for layer, (before, after) in enumerate(pairwise(irreps)):
            sizes = layer, n_layers, channels, latent_widths, neighbours, own_edge, ratios[layer]
            self.layers.append(Layer(before, after, harmonics, *sizes, generator))
        self.readout = ScalarMLP((latent_widths[-1], *readout_hidden, 1), generator, SILU_NORM, readout_activation)

    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV, and the final latents (R, D) summed over the edges of each atom, over the root of the
        average number of neighbours."""
        vectors = edge_vectors(graph)
        distances = torch.linalg.vector_norm(vectors, dim=1)
        centres = Segments.ascending(graph.centre, len(rows))
        pairs = rows.index_select(0, graph.centre), rows.index_select(0, graph.neighbour)
        latents, envelope = self.two_body(distances, *pairs)
        around = Surroundings(spherical_harmonics(self.l_max, vectors), centres, envelope)
        features: list[Tensor] = []
        for layer in self.layers:
            latents, features = layer(latents, features, around)
        gain = 1 / sqrt(self.average_neighbours)
        descriptors = segment_sum(latents, centres) * gain
        if self.readout.activation is None:  # linear: the sum over edges comes first
            return self.readout(descriptors).squeeze(1), descriptors
        return segment_sum(self.readout(latents), centres).squeeze(1) * gain, descriptors


def _layer_irreps(n_layers: int, l_max: int, parity: bool) -> list[Irreps]:
    """The irreps before the first tensor product and after each: those from which later ones reach a scalar, of those
    that earlier ones make."""
    harmonics = Irreps.harmonics(l_max)
    both = Irreps(Irrep(degree, p) for degree in range(l_max + 1) for p in (1, -1))
    allowed = both if parity else harmonics
    made = [harmonics]
    for _ in range(n_layers - 1):
        reached = {out for a in made[-1] for b in harmonics for out in a.product(b)}
        made.append(Irreps(irrep for irrep in allowed if irrep in reached))
    out = [Irreps("0e")]
    for irreps in reversed(made):
        out.insert(0, irreps.leading_to(out[0], harmonics).sorted())
    return out


class Surroundings(NamedTuple):
    """What all layers share."""

    harmonics: Tensor  # (E, M)
    centres: Segments
    envelope: Tensor | None  # (E, 1), that of the latents


class OneHotTwoBody(nn.Module):
    """x0 = u(r) MLP(1(Z_i) | 1(Z_j) | B(r)) (eq. 4, "Two-body latent embedding").

    Each Bessel function has mean zero and variance one over the distances from zero to the cutoff, before its envelope.
    """

    mean: Tensor
    inverse: Tensor

    def __init__(self, basis: BesselBasis, n_species: int, widths: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        self.n_species, self.p = n_species, basis.p
        n_basis = len(basis.frequencies)
        x = torch.linspace(0, 1, 4001, dtype=torch.float64)[1:, None]
        values = 2 / basis.cutoff**2 * torch.sin(pi * x * torch.arange(1, n_basis + 1)) / x
        deviation, mean = torch.std_mean(values, 0)
        self.register_buffer("mean", mean.to(basis.frequencies.dtype))
        self.register_buffer("inverse", (1 / deviation).to(basis.frequencies.dtype))
        self.basis = basis
        self.latent = ScalarMLP((2 * n_species + n_basis, *widths), generator, SILU_NORM)

    def forward(self, distances: Tensor, centre: Tensor, neighbour: Tensor) -> tuple[Tensor, Tensor | None]:
        """Distances and species of the atoms of each edge (E,) to latents (E, D) and their envelope (E, 1)."""
        envelope = polynomial_cutoff(distances, self.basis.cutoff, self.p).unsqueeze(1)
        basis = (self.basis(distances) - envelope * self.mean) * self.inverse
        species = torch.cat([one_hot(atom, self.n_species, basis.dtype) for atom in (centre, neighbour)], 1)
        return self.latent(species, basis) * envelope, envelope


class ProductTwoBody(nn.Module):
    """x0 = MLP((T(Z_i) | T'(Z_j)) W B(r)) with the basis under its envelope (nequip-allegro since 0.3)."""

    def __init__(self, basis: BesselBasis, n_species: int, widths: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        if widths[0] % 2:
            raise InputError(f"the width of the embedding of two species is even, not {widths[0]}")
        self.basis, self.scale = basis, basis.cutoff**2 / (2 * pi)  # the published basis is sin(k π x) / (π x)
        self.embedding = nn.Parameter(torch.randn(2, n_species, widths[0] // 2, generator=generator))
        self.linear = ScalarMLP((len(basis.frequencies), widths[0]), generator)
        self.latent = ScalarMLP((widths[0], *widths), generator, SILU_NORM)

    def forward(self, distances: Tensor, centre: Tensor, neighbour: Tensor) -> tuple[Tensor, Tensor | None]:
        """Distances and species of the atoms of each edge (E,) to latents (E, D); no envelope."""
        atoms = zip((centre, neighbour), self.embedding.unbind(0), strict=True)
        species = torch.cat([nn.functional.embedding(atom, table) for atom, table in atoms], 1)
        return self.latent(self.linear(self.basis(distances) * self.scale) * species), None


class Layer(nn.Module):
    """One tensor product and the latents after it.

    w = linear(x), V' = V ⊗ sum of w Y over the edges of the centre, V <- linear(V') (eqs. 6-9, 11), and
    x <- (x + α u MLP(x | scalars of V')) / sqrt(1 + α^2) (eqs. 10, 12). The first layer makes V = w Y of its own
    (eq. 5) and the last no new V.
    """

    def __init__(
        self,
        before: Irreps,
        after: Irreps,
        harmonics: Irreps,
        layer: int,
        n_layers: int,
        channels: int,
        widths: Sequence[int],
        neighbours: float,
        own_edge: bool,
        ratio: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.harmonics, self.own_edge, self.channels, self.gain = harmonics, own_edge, channels, 1 / sqrt(neighbours)
        self.keep, self.gather = 1 / sqrt(1 + ratio**2), ratio / sqrt(1 + ratio**2)
        n_weights = len(harmonics) * channels
        self.initial = ScalarMLP((widths[-1], n_weights), generator) if layer == 0 else None
        self.embed = ScalarMLP((widths[-1], n_weights), generator)
        even = Irrep(0, 1)
        self.scalars = ChannelwiseProduct(before, harmonics, Irreps([even]))
        n_scalars = self.scalars.targets[0][1] * channels
        self.place = after.index(even)
        self.others = ChannelwiseProduct(before, harmonics, Irreps(irrep for irrep in after if irrep != even))
        self.mix = nn.ModuleList()
        if layer < n_layers - 1:
            self.mix.append(ScalarMLP((n_scalars, channels), generator))
            self.mix.extend(ScalarMLP((paths * channels, channels), generator) for _, paths in self.others.targets)
        self.latent = ScalarMLP((widths[-1] + n_scalars, *widths), generator, SILU_NORM)

    def forward(self, latents: Tensor, features: list[Tensor], around: Surroundings) -> tuple[Tensor, list[Tensor]]:
        """Latents (E, D) and features, one (E, 2l+1, C) per irrep, to those after the layer."""
        harmonics, irreps, centres = around.harmonics, self.harmonics, around.centres
        if self.initial is not None:
            features = [weighted_harmonics(harmonics, self._by_channel(self.initial(latents)), irreps)]
        weights = self._by_channel(self.embed(latents))
        environment = weighted_harmonics(harmonics, weights, irreps, centres)  # (N, M, C)
        if not self.own_edge:
            environment = gather(environment, centres) - weighted_harmonics(harmonics, weights, irreps)
            every = torch.arange(len(latents) + 1, device=latents.device)
            centres = Segments(every[:-1], None, every)
        environment = environment * self.gain
        (scalars,) = tensor_product(features, environment, centres, self.scalars)  # (E, 1, P C)
        new = self.latent(latents, scalars.squeeze(1))
        if around.envelope is None:
            latents = torch.add(self.keep * latents, new, alpha=self.gather)
        else:
            latents = torch.addcmul(self.keep * latents, new, around.envelope, value=self.gather)
        if not self.mix:
            return latents, []
        first, *rest = cast(list[ScalarMLP], list(self.mix))
        matrices = [mix.matrices()[0] for mix in rest]
        mixed = mixed_product(features, environment, centres, self.others, matrices) if rest else []
        mixed.insert(self.place, first(scalars))
        return latents, mixed

    def _by_channel(self, weights: Tensor) -> Tensor:
        return weights.unflatten(1, (-1, self.channels))  # (E, L, C)
