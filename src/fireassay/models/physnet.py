"""PhysNet: energies and charges, long-range electrostatics and dispersion (Unke and Meuwly, J. Chem. Theory Comput. 15,
3678, 2019).

Numbers are those of the authors' public code under copied weights. Isolated-atom energies and a shift per species are
`potential.Baseline`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log, sqrt
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fireassay.data.advice import keys_option
from fireassay.data.graph import Graph, edge_vectors
from fireassay.errors import InputError
from fireassay.nn.connectivity import Connectivity
from fireassay.nn.convolution import Coupling
from fireassay.nn.cutoff import polynomial_cutoff
from fireassay.nn.dense import dense
from fireassay.nn.dispersion import HARTREE_FOCK, D3Dispersion
from fireassay.nn.electrostatics import conserve_locally, conserve_totally, coulomb_energies
from fireassay.nn.pairwise import AtomPairs
from fireassay.nn.radial import ExponentialBasis
from fireassay.nn.so3 import Irrep, Irreps
from fireassay.potential import NetworkPotential, constructor_arguments

_FIRST_CHARGES = 0.1  # of the weights of the charges, relative to other weights
_SCALARS = Coupling(Irreps("0e"), Irreps("0e"), [(0, 0, Irrep(0, 1))])


class PhysNet(NetworkPotential):
    """E = Σ_i E_i + Σ_{i<j} k q_i q_j χ(r_ij) + E_D3 with E_i and q_i from `n_layers` modules (fig. 1 of the paper).

    species: atomic numbers; cutoff in Å, where electrostatics and dispersion go to zero, which the edges of a graph
    have to reach; short_cutoff in Å, up to which the network sees neighbours, by default the cutoff; channels: F;
    n_basis: K radial functions; n_layers: modules, each with residual_interaction residual blocks for the message,
    residual_atomic for the atoms and residual_output for the output; trainable_basis: centres and widths of the radial
    functions are trained; electrostatics and dispersion: whether these terms are there; charge_conservation: see below;
    total_charge: of each structure whose graph states none, in e, for "total"; dispersion_coefficients: s6, s8, a1 and
    a2 (bohr) of D3(BJ), at first if trainable_dispersion; zero_start: the network's energies are zero at first and its
    charges small, so that training starts from the dispersion, otherwise all weights are drawn alike; seed of the
    initial weights.

    The defaults are those of the paper, whose authors' long-range terms have no cutoff unless asked. Its correction of
    the charges spreads their excess over a whole structure, so that the energy of two far fragments is not the sum of
    theirs (law 11 of the contract): that is charge_conservation="total". The default "local" takes each atom's raw
    charge off the atom and its neighbours in proportion to the smooth cutoff function, which makes the total exactly
    zero, and that of every far fragment; "none" leaves the charges free. Energies are relative to isolated atoms. The
    network's energies, and charges, have a trained factor per species before the physical terms are added, as
    published: a scale of `Baseline` would scale those terms, too.

    The published radial masks and charges start at zero, too. Here they do not: energies relative to isolated atoms
    have no slope where both masks and outputs vanish, nor has the Coulomb energy where all charges do.

    Raises InputError for arguments out of range, for a graph with an element that is not in `species`, and under
    "local" for a graph with a structure that is charged.
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"extensivity": {"charge_conservation": "total"}}

    def __init__(
        self,
        species: Sequence[int],
        cutoff: float = 10.0,
        short_cutoff: float | None = None,
        n_layers: int = 5,
        channels: int = 128,
        n_basis: int = 64,
        residual_atomic: int = 2,
        residual_interaction: int = 3,
        residual_output: int = 1,
        trainable_basis: bool = True,
        electrostatics: bool = True,
        charge_conservation: Literal["local", "total", "none"] = "local",
        total_charge: float = 0.0,
        dispersion: bool = True,
        dispersion_coefficients: Sequence[float] = HARTREE_FOCK,
        trainable_dispersion: bool = True,
        zero_start: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(species, cutoff)
        self.arguments = constructor_arguments(locals())
        near = cutoff if short_cutoff is None else short_cutoff
        residuals = (residual_interaction, residual_atomic, residual_output)
        if min(cutoff, near, n_layers, channels, n_basis) <= 0 or min(residuals) < 0 or near > cutoff:
            raise InputError(f"a PhysNet needs positive sizes and short_cutoff <= cutoff, got {self.arguments}")
        if charge_conservation not in ("local", "total", "none") or (total_charge and charge_conservation != "total"):
            raise InputError(
                f'charge_conservation is "local", "total" or "none", and only "total" has a total_charge, '
                f"got {charge_conservation!r} and {total_charge}"
            )
        generator = torch.Generator().manual_seed(seed)
        self.short_cutoff = float(near)
        self.electrostatics, self.charge_conservation = electrostatics, charge_conservation
        self.total_charge = float(total_charge)
        if electrostatics and charge_conservation == "total":
            self.uses = frozenset({"charge"})
        n_species = len(self.index)
        self.embedding = nn.Parameter(torch.empty(n_species, channels).uniform_(-sqrt(3), sqrt(3), generator=generator))
        self.basis = RadialFunctions(near, n_basis, trainable_basis)
        n_outputs = 2 if electrostatics else 1
        self.layers = nn.ModuleList(
            Module(channels, n_basis, residuals, n_outputs, zero_start, generator) for _ in range(n_layers)
        )
        self.energy_scale = nn.Parameter(torch.ones(n_species))
        self.charge_scale = nn.Parameter(torch.ones(n_species)) if electrostatics else None
        self.charge_shift = nn.Parameter(torch.zeros(n_species)) if electrostatics else None
        self.dispersion = None
        if dispersion:
            self.dispersion = D3Dispersion(self.index.species, cutoff, dispersion_coefficients, trainable_dispersion)

    def network(self, rows: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Energies (R,) in eV with the physical terms, and the features (R, channels) of the last module."""
        around = self._surroundings(rows, graph)
        energies, charges, features = self._atoms(graph, around)
        if charges is not None:
            charges = nn.functional.pad(charges, (0, len(rows) - graph.n_atoms))  # nobody sees the other atoms
            energies = energies + coulomb_energies(charges, around.pairs, self.cutoff, self.short_cutoff / 2)
        if self.dispersion is not None:
            energies = energies + self.dispersion(rows, around.pairs)
        return energies, features

    def charges(self, graph: Graph) -> Tensor:
        """Partial charges (N,) in e, differentiable in positions, cell and parameters.

        Raises InputError for a model without electrostatics.
        """
        charges = self._atoms(graph, self._surroundings(self.index(graph.atomic_numbers), graph))[1]
        if charges is None:
            raise InputError("this PhysNet has no charges: it was made with electrostatics=False")
        return charges

    def _surroundings(self, rows: Tensor, graph: Graph) -> Surroundings:
        edges = Connectivity.of(graph.centre, graph.neighbour, graph.shift, len(rows))
        columns = (graph.centre, graph.neighbour, graph.shift)
        first = dict(zip(("centre", "neighbour", "shift"), map(edges.per_pair, columns), strict=True))
        ends = graph._replace(**first)
        distances = torch.linalg.vector_norm(edge_vectors(ends), dim=1)
        pairs = near_pairs = AtomPairs(ends.centre, ends.neighbour, distances, edges.pairs is not None)
        near = distances.detach() < self.short_cutoff
        if not bool(near.all()):
            kept = edges.per_edge(near)
            edges = Connectivity.of(graph.centre[kept], graph.neighbour[kept], graph.shift[kept], len(rows))
            near_pairs = AtomPairs(pairs.i[near], pairs.j[near], distances[near], pairs.mutual)
        return Surroundings(rows, pairs, near_pairs, edges)

    def _network(self, rows: Tensor, edges: Connectivity, radial: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs (N, 2), or (N, 1) without charges, summed over the modules, and the last features (N, F)."""
        features = self.embedding.index_select(0, rows)
        outputs: list[Tensor] = []
        for layer in self.layers:
            features, output = layer(features, edges, radial)
            outputs.append(output)
        return torch.stack(outputs).sum(0), features

    def _atoms(self, graph: Graph, around: Surroundings) -> tuple[Tensor, Tensor | None, Tensor]:
        """Energies of the network (R,), charges (N,) of the atoms of the graph, and features (R, F)."""
        distances = around.near.distances
        outputs, features = self._network(around.rows, around.edges, self.basis(distances))
        energies = outputs[:, 0] * self.energy_scale.index_select(0, around.rows)
        if self.charge_scale is None or self.charge_shift is None:
            return energies, None, features
        rows = around.rows[: graph.n_atoms]
        raw = outputs[: len(rows), 1]
        charges = raw * self.charge_scale.index_select(0, rows) + self.charge_shift.index_select(0, rows)
        if self.charge_conservation == "local":
            _refuse_charged(graph)
            charges = conserve_locally(charges, around.near, polynomial_cutoff(distances, self.short_cutoff, 3))
        elif self.charge_conservation == "total":
            charges = conserve_totally(
                charges, graph.structure, graph.n_structures, self._total_charges(graph, charges)
            )
        return energies, charges, features

    def _total_charges(self, graph: Graph, like: Tensor) -> Tensor | float:
        """The charge of each structure (S,) in e: the graph's, or where it states none `total_charge`."""
        if graph.charge is None:
            return self.total_charge
        return torch.where(graph.charge.isnan(), self.total_charge, graph.charge).to(like)


def _refuse_charged(graph: Graph) -> None:
    """Raises InputError for a structure with a charge.

    Fragments that do not see each other cannot know which of them has it: no local rule places it (law 11).
    """
    if graph.charge is None:
        return
    charged = graph.charge.nan_to_num().nonzero()
    if len(charged):
        raise InputError(
            f"structure {int(charged[0, 0])} of the batch has a charge of {float(graph.charge[charged[0, 0]]):g} e, "
            'but charge_conservation "local" keeps every fragment neutral; use charge_conservation: total, or leave '
            f"the charge out with {keys_option({'charge': None})}"
        )


class Surroundings(NamedTuple):
    """The graph as the model sees it: all pairs, and within the short cutoff the pairs and the edges they stand for."""

    rows: Tensor  # (R,) species rows
    pairs: AtomPairs
    near: AtomPairs
    edges: Connectivity


class RadialFunctions(nn.Module):
    """The radial basis under the cutoff function 1 - 6 x^5 + 15 x^4 - 10 x^3: (P,) to (P, K)."""

    def __init__(self, cutoff: float, n_basis: int, trainable: bool) -> None:
        super().__init__()
        self.cutoff = float(cutoff)
        self.functions = ExponentialBasis(cutoff, n_basis, trainable=trainable)

    def forward(self, distances: Tensor) -> Tensor:
        return polynomial_cutoff(distances, self.cutoff, 3).unsqueeze(1) * self.functions(distances)


class Residual(nn.Module):
    """x + W2 σ(W1 σ(x) + b1) + b2 with the shifted softplus σ."""

    def __init__(self, channels: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first, self.second = (dense(channels, channels, generator, initial="orthogonal") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, F) to (N, F)."""
        return x + self.second(_activated(self.first(_activated(x))))


class Module(nn.Module):
    """One module: interaction, residual refinement of the atoms, output (fig. 1)."""

    def __init__(
        self,
        channels: int,
        n_basis: int,
        residuals: tuple[int, int, int],
        n_outputs: int,
        zero_start: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()

        def chain(length: int) -> nn.Sequential:
            return nn.Sequential(*(Residual(channels, generator) for _ in range(length)))

        self.mask = dense(n_basis, channels, generator, bias=False, initial="orthogonal")
        self.own, self.neighbours, self.update = (
            dense(channels, channels, generator, initial="orthogonal") for _ in range(3)
        )
        self.gate = nn.Parameter(torch.ones(channels))
        self.of_message, self.of_atom, self.of_output = (chain(length) for length in residuals)
        gain = _FIRST_CHARGES if zero_start else 1.0
        self.output = dense(channels, n_outputs, generator, bias=False, initial="orthogonal", gain=gain)
        if zero_start:
            nn.init.zeros_(self.output.weight[0])

    def forward(self, x: Tensor, edges: Connectivity, radial: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, F) to new ones and outputs (N, 2)."""
        active = _activated(x)
        spread = _activated(self.neighbours(active)).unsqueeze(1)  # (N, 1, F)
        masks = self.mask(radial).unsqueeze(1)  # (P, 1, F)
        ones = masks.new_ones(len(edges.centre), 1)
        around = edges.convolve(spread, ones, masks, _SCALARS)
        message = self.of_message(_activated(self.own(active)) + around.squeeze(1))
        x = self.of_atom(self.gate * x + self.update(_activated(message)))
        return x, self.output(_activated(self.of_output(x)))


def _activated(x: Tensor) -> Tensor:
    """The shifted softplus σ(x) = ln(1 + e^x) - ln 2."""
    return nn.functional.softplus(x) - log(2)
