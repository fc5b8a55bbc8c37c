"""MACE: higher-order equivariant message passing (Batatia et al., NeurIPS 2022, arXiv:2206.07697).

Numbers are those of the public package mace-torch 0.3.16 under copied weights (`copy_mace_torch`). Isolated-atom
energies, scale and shift are `potential.Baseline`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.convolution import Coupling, EdgeOrder, convolution, edge_order
from fireassay.nn.edge_pairs import EdgePairs, edge_pairs
from fireassay.nn.embedding import SpeciesIndex
from fireassay.nn.equivariant import EquivariantLinear, SpeciesOrder, species_order
from fireassay.nn.mlp import SILU_NORM, ScalarMLP
from fireassay.nn.radial import BesselBasis
from fireassay.nn.radial_table import RadialTable
from fireassay.nn.so3 import Irreps, sign_of_e3nn_0_4, spherical_harmonics
from fireassay.nn.symmetric_contraction import SymmetricContraction
from fireassay.potential import LocalPotential


class MACE(LocalPotential):
    """Atom energies from `n_layers` layers, each a convolution followed by products of up to `correlation` messages.

    species: atomic numbers; cutoff in Å; l_max: degree of the harmonics and of the messages; channels: features of
    each irrep; hidden_l_max: highest degree of the features between layers, 1 for "0e+1o"; correlation: ν, one less
    than the body order of a layer; n_basis Bessel functions, with trainable frequencies if asked, under an envelope of
    degree envelope_p; radial_hidden: widths of the radial network's hidden layers; readout_hidden: width of the last
    readout, an SiLU network (the others are linear); average_neighbours: take it from the training set; residual_first:
    the first layer keeps the species beside the message (mace-torch's ScaleShiftMACE) instead of mapping the message
    by species (its MACE, and the paper); seed of the initial weights.

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
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.arguments = {
            "species": list(species),
            "cutoff": cutoff,
            "n_layers": n_layers,
            "l_max": l_max,
            "channels": channels,
            "hidden_l_max": hidden_l_max,
            "correlation": correlation,
            "n_basis": n_basis,
            "trainable_bessel": trainable_bessel,
            "envelope_p": envelope_p,
            "radial_hidden": list(radial_hidden),
            "readout_hidden": readout_hidden,
            "average_neighbours": average_neighbours,
            "residual_first": residual_first,
            "seed": seed,
        }
        sizes = (cutoff, n_layers, channels, correlation, n_basis, envelope_p, readout_hidden, average_neighbours)
        if min(sizes) <= 0 or min(l_max, hidden_l_max) < 0:
            raise InputError(f"sizes of a MACE must be positive, got {self.arguments}")
        generator = torch.Generator().manual_seed(seed)
        self.index = SpeciesIndex(species)
        self.species, self.cutoff, self.l_max = self.index.species, float(cutoff), l_max
        self.residual_first = residual_first
        self.basis: nn.Module = BesselBasis(cutoff, n_basis, envelope_p, trainable_bessel, orthonormal=True)
        self.embedding = nn.Parameter(torch.randn(len(species), channels, generator=generator))
        self.layers, self.readouts = nn.ModuleList(), nn.ModuleList()
        self.register_buffer("isolated", None, persistent=False)
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
                generator,
            )
            widths = (channels, readout_hidden, 1) if last and layer else (channels, 1)
            self.layers.append(block)
            self.readouts.append(ScalarMLP(widths, generator, SILU_NORM, distribution="normal"))
            irreps = block.irreps_out

    isolated: Tensor | None

    def local(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Atom energies (N,) in eV relative to isolated atoms, and the last layer's scalars (N, channels)."""
        species = self.index(graph.atomic_numbers)
        energies, descriptors = self._energies(species, graph.centre, graph.neighbour, graph.shift, edge_vectors(graph))
        if self.residual_first:
            energies = energies - (self._isolated() if self.isolated is None else self.isolated)[species]
        return energies, descriptors

    def _energies(
        self, species: Tensor, centre: Tensor, neighbour: Tensor, shift: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        order = edge_order(centre, neighbour, len(species))
        pairs = edge_pairs(centre, neighbour, shift, order.by_neighbour)
        across = vectors if pairs is None else vectors.index_select(0, pairs.first)
        around = Surroundings(
            centre=centre,
            neighbour=neighbour,
            order=order,
            pairs=pairs,
            harmonics=spherical_harmonics(self.l_max, vectors),
            basis=self.basis(torch.linalg.vector_norm(across, dim=1)),
            species=species_order(species, len(self.index)),
        )
        features = (self.embedding / sqrt(len(self.index)))[species].unsqueeze(1)  # (N, 1, C)
        energies = features.new_zeros(len(species))
        for layer, readout in zip(self.layers, self.readouts, strict=True):
            features = layer(features, around)
            energies = energies + readout(features[:, 0]).squeeze(1)
        return energies, features[:, 0]

    def _isolated(self) -> Tensor:
        """Energies (Z,) of the network for an atom of each species without neighbours."""
        rows = torch.arange(len(self.index), device=self.embedding.device)
        none = rows[:0]
        return self._energies(rows, none, none, none.new_zeros(0, 3), self.embedding.new_zeros(0, 3))[0]

    def frozen(self) -> MACE:
        """A twin for inference: radial networks tabulated, weights and constants contracted once."""
        twin = copy.deepcopy(self).eval().requires_grad_(False)
        if isinstance(twin.basis, nn.Identity):  # a frozen one already
            return twin
        for layer in cast(list[Layer], list(twin.layers)):
            layer.radial = RadialTable(nn.Sequential(twin.basis, layer.radial), self.cutoff)  # type: ignore[assignment]
            layer.contraction = cast(SymmetricContraction, layer.contraction).frozen()
        twin.basis = nn.Identity()  # the tables take distances
        if self.residual_first:
            twin.isolated = twin._isolated()
        return twin


class Surroundings(NamedTuple):
    """What all layers share: the edges with their harmonics (E, M_sh), the pairs of edges (when every edge has its
    reverse) with their radial basis (E/2, B), or of every edge (E, B), the atoms' species."""

    centre: Tensor
    neighbour: Tensor
    order: EdgeOrder
    pairs: EdgePairs | None
    harmonics: Tensor
    basis: Tensor
    species: SpeciesOrder


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
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.irreps_out, self.residual = irreps_out, residual
        self.coupling = Coupling.of(irreps_in, harmonics, harmonics)
        n_paths = len(self.coupling.paths)
        self.linear_up = EquivariantLinear(irreps_in, irreps_in, channels, channels, generator)
        widths = (*radial_widths, n_paths * channels)
        self.radial = ScalarMLP(widths, generator, SILU_NORM, distribution="normal")
        gain = 1 / average_neighbours
        self.mix = EquivariantLinear(self.coupling.irreps_out, harmonics, channels, channels, generator, gain=gain)
        skip = (irreps_in, irreps_out) if residual else (harmonics, harmonics)
        self.skip = EquivariantLinear(*skip, channels, channels, generator, n_species, count_species=True)
        self.contraction: nn.Module = SymmetricContraction(
            harmonics, irreps_out, correlation, channels, n_species, generator
        )
        self.linear = EquivariantLinear(irreps_out, irreps_out, channels, channels, generator)

    def forward(self, features: Tensor, around: Surroundings) -> Tensor:
        """(N, M_in, C) to (N, M_out, C)."""
        weights = self.radial(around.basis).unflatten(1, (len(self.coupling.paths), -1))  # (E/2, P, C)
        messages = convolution(
            self.linear_up(features),
            around.harmonics,
            weights,
            around.centre,
            around.neighbour,
            self.coupling,
            around.order,
            around.pairs,
        )
        messages = self.mix(messages)  # A, eq. 9
        if not self.residual:
            messages = self.skip(messages, around.species)
        products = self.linear(self.contraction(messages, around.species.species))  # eq. 11
        return products + self.skip(features, around.species) if self.residual else products


@torch.no_grad()
def copy_mace_torch(model: MACE, state: Mapping[str, Tensor]) -> None:
    """Copies the weights of mace-torch 0.3 (a state dict of `MACE` or `ScaleShiftMACE`) of the same architecture.

    Sizes agree weight by weight. Paths of a contraction that vanish for equal factors are dropped, and paths through
    Clebsch-Gordan tensors that e3nn 0.4 has with the opposite sign change sign.

    Raises InputError when an array is missing or has another size.
    """
    species = len(model.index)
    channels = model.embedding.shape[1]

    def copy(target: Tensor, name: str, *shape: int) -> None:
        if name not in state or state[name].numel() != target.numel():
            found = tuple(state[name].shape) if name in state else "nothing"
            raise InputError(f"{name} of mace-torch: found {found}, need {target.numel()} numbers; other architecture")
        value = state[name].detach().reshape(shape or target.shape)
        target.copy_(value.permute(2, 0, 1, 3) if len(shape) == 4 else value)

    copy(model.embedding, "node_embedding.linear.weight")
    frequencies = cast(BesselBasis, model.basis).frequencies
    if "radial_embedding.bessel_fn.bessel_weights" in state:
        copy(frequencies, "radial_embedding.bessel_fn.bessel_weights")
        frequencies.mul_(model.cutoff / torch.pi)
    layers, readouts = cast(list[Layer], list(model.layers)), cast(list[ScalarMLP], list(model.readouts))
    for number, (layer, readout) in enumerate(zip(layers, readouts, strict=True)):
        block = f"interactions.{number}"
        copy(layer.linear_up.weight, f"{block}.linear_up.weight")
        radial = cast(ScalarMLP, layer.radial)
        for k, weight in enumerate(radial.weights):
            copy(weight, f"{block}.conv_tp_weights.layer{k}.weight")
        coupling = layer.coupling
        signs = [
            sign_of_e3nn_0_4(coupling.irreps_in[i].l, coupling.irreps_sh[j].l, out.l) for i, j, out in coupling.paths
        ]
        radial.weights[-1].unflatten(1, (-1, channels)).mul_(torch.tensor(signs).unsqueeze(1))
        copy(layer.mix.weight, f"{block}.linear.weight")
        copy(layer.skip.weight, f"{block}.skip_tp.weight", -1, channels, species, channels)
        copy(layer.linear.weight, f"products.{number}.linear.weight")
        contraction = cast(SymmetricContraction, layer.contraction)
        _copy_contraction(contraction, state, f"products.{number}.symmetric_contractions.contractions")
        linear = "linear" if len(readout.weights) == 1 else "linear_{}"
        for k, weight in enumerate(readout.weights):
            copy(weight, f"readouts.{number}.{linear.format(k + 1)}.weight")


def _copy_contraction(contraction: SymmetricContraction, state: Mapping[str, Tensor], name: str) -> None:
    for k, path in enumerate(contraction.polynomial.paths):
        below = contraction.correlation - path.degree
        source = f"{name}.{path.block}.weights_max" if below == 0 else f"{name}.{path.block}.weights.{below - 1}"
        if source not in state or state[source].shape[1] != path.siblings:
            raise InputError(f"{source} of mace-torch is missing or has another shape; other architecture")
        sign = 1
        for coupling in path.couplings:
            sign *= sign_of_e3nn_0_4(*coupling)
        contraction.weight[:, k] = sign * state[source][:, path.index]
